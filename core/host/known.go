package host

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// knownAnswers are the answers of one group's units to a fixed input. The first process that is let in sets them; every
// later process and every probe must repeat them bit for bit, which is what makes replicas and restarts invisible.
type knownAnswers struct {
	spec   GroupSpec
	shape  ExpertShape
	input  []float32
	shards *shardSet
	from   weights.Shards // what the processes compute with
	mu     sync.Mutex
	class  string
	bits   map[expert.Unit][]float32
	turn   int // which unit the next probe asks
}

func newKnownAnswers(spec GroupSpec, shape ExpertShape, shards *shardSet, from weights.Shards) (*knownAnswers, error) {
	if len(spec.Units) == 0 {
		return nil, fmt.Errorf("no units: %w", sdk.ErrInvalid)
	}
	return &knownAnswers{spec: spec, shape: shape, input: knownInput(shape.Hidden), shards: shards, from: from, bits: map[expert.Unit][]float32{}}, nil
}

// knownInput is a fixed row that looks like normalised hidden states: uniform in [-1, 1] by splitmix64.
func knownInput(n int) []float32 {
	x := make([]float32, n)
	state := uint64(0x50694d6f45)
	for i := range x {
		state += 0x9E3779B97F4A7C15
		z := state
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		z ^= z >> 31
		x[i] = float32(int64(z>>40)-1<<23) / (1 << 23)
	}
	return x
}

// computer is whoever can be asked.
type computer interface {
	Forward(ctx context.Context, call *expert.Call) error
}

// admit asks a new process for all its units and lets it in if the answers are right. Nothing is locked while it is asked: one
// that does not answer must hold up neither the tests of others nor their starts.
func (k *knownAnswers) admit(ctx context.Context, info sdk.Info, e computer) error {
	k.mu.Lock()
	fresh, err := len(k.bits) == 0, k.computesIn(info.NumericClass)
	k.mu.Unlock()
	if err != nil {
		return err
	}
	if tolerance, ours := tolerances[info.Name]; fresh && ours {
		if err := k.compareWithOracle(ctx, e, tolerance); err != nil {
			return err
		}
	}
	got := map[expert.Unit][]float32{}
	for _, u := range k.spec.Units {
		if got[u], err = k.ask(ctx, e, u); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.computesIn(info.NumericClass); err != nil {
		return err
	}
	for u, want := range k.bits { // of whoever was the first
		if !sameBits(got[u], want) {
			return fmt.Errorf("layer %d expert %d: other bits than the first process's: %w", u.Layer, u.Expert, sdk.ErrInvalidOutput)
		}
	}
	k.class, k.bits = info.NumericClass, got
	return nil
}

// computesIn refuses another numeric class than that of the first process. The caller holds mu.
func (k *knownAnswers) computesIn(class string) error {
	if k.class != "" && k.class != class {
		return fmt.Errorf("numeric class %q, the group computes in %q: %w", class, k.class, sdk.ErrUnsupported)
	}
	return nil
}

// probe asks one unit, another one each time, and compares bit for bit.
func (k *knownAnswers) probe(ctx context.Context, e computer) error {
	k.mu.Lock()
	u := k.spec.Units[k.turn%len(k.spec.Units)]
	k.turn++
	want := k.bits[u]
	k.mu.Unlock()
	y, err := k.ask(ctx, e, u)
	if err == nil && !sameBits(y, want) {
		err = fmt.Errorf("layer %d expert %d: wrong numbers: %w", u.Layer, u.Expert, sdk.ErrInvalidOutput)
	}
	return err
}

func (k *knownAnswers) ask(ctx context.Context, e computer, u expert.Unit) ([]float32, error) {
	y := make([]float32, k.shape.Hidden)
	call := &expert.Call{
		Layer: u.Layer, Threads: 1, Segments: []expert.Segment{{Expert: u.Expert, Rows: 1}},
		X: tensor.MatrixOf(1, k.shape.Hidden, k.input), Y: tensor.MatrixOf(1, k.shape.Hidden, y),
	}
	if err := e.Forward(ctx, call); err != nil {
		return nil, fmt.Errorf("layer %d expert %d: %w", u.Layer, u.Expert, err)
	}
	return y, nil
}

func sameBits(a, b []float32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return false
		}
	}
	return true
}
