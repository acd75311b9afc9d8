package host

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

// Difference is how far the answers of a new group lie from those of the one that it replaces, over the known question to
// each of its units.
type Difference struct {
	Same     bool    `json:"same"`     // bit for bit
	MaxAbs   float64 `json:"max_abs"`  // largest difference of two values
	Relative float64 `json:"relative"` // that, of the unit's largest value; the largest over the units
	Cosine   float64 `json:"cosine"`   // least cosine of a unit's two answers
}

// Swapped tells what a change of a group has done.
type Swapped struct {
	Group      string        `json:"group"`
	From       string        `json:"from"` // backend and numeric class
	To         string        `json:"to"`
	Difference Difference    `json:"difference"`
	Ready      time.Duration `json:"ready_ns"`   // until the new processes had passed their tests
	Drained    time.Duration `json:"drained_ns"` // until the last request on the old ones had ended
}

// mostRelative is how far answers of another numeric class may lie from those before, of the largest value: 8-bit weights and
// activations make a tenth of it, a wrong matrix ten times as much.
const mostRelative = 0.2

var errUnknownGroup = fmt.Errorf("there is no such expert group: %w", sdk.ErrNotFound)

// Swap replaces a group's processes under load: the new ones are started, load, pass their known-answer test and are compared
// with the old ones; then new requests go to them, while requests under way end on the old ones, which are then ended. Where
// the numeric class stays the same the bits must, too. On an error nothing has changed. change gets the group's present
// description. An error that wraps the context's comes with a result: it is done but for the end of the old processes, which
// goes on.
func (h *Host) Swap(ctx context.Context, name string, change func(*GroupSpec) error) (*Swapped, error) {
	if h.fleet == nil {
		return nil, fmt.Errorf("swap: the experts run in the host's own process: %w", sdk.ErrUnsupported)
	}
	h.changing.Lock()
	defer h.changing.Unlock()
	s := h.seat(name)
	if s == nil {
		return nil, fmt.Errorf("swap %q: %w", name, errUnknownGroup)
	}
	if err := h.untried(s); err != nil {
		return nil, fmt.Errorf("swap %s: %w", name, err)
	}
	began := time.Now()
	old, err := s.group()
	if err != nil {
		return nil, err
	}
	fresh, err := h.prepare(ctx, s, old, change)
	if err != nil {
		return nil, fmt.Errorf("swap %s: %w", name, err)
	}
	done := &Swapped{Group: name, From: old.title(), To: fresh.title(), Ready: time.Since(began)}
	if done.Difference, err = compare(old.answers, fresh.answers); err == nil {
		err = done.Difference.acceptable(old, fresh)
	}
	if err != nil {
		h.fleet.dismiss(fresh)
		return nil, fmt.Errorf("swap %s: %w", name, err)
	}
	shifted := time.Now()
	err = h.retire(ctx, s, old, h.editions.shift(one(s, fresh, done.Difference.Same)))
	done.Drained = time.Since(shifted)
	h.log.Info("expert group swapped", "group", name, "from", done.From, "to", done.To, "same_bits", done.Difference.Same,
		"relative", done.Difference.Relative, "ready", done.Ready, "drained", done.Drained)
	return done, err
}

func (h *Host) seat(name string) *seat {
	for _, s := range h.groups {
		if s.name == name {
			return s
		}
	}
	return nil
}

// prepare starts the processes of a group as it shall be.
func (h *Host) prepare(ctx context.Context, s *seat, old *group, change func(*GroupSpec) error) (*group, error) {
	spec := old.spec
	spec.MaxReplicas = spec.most() // it may have fewer now, and more again
	spec.Replicas = old.size()
	if err := change(&spec); err != nil {
		return nil, err
	}
	return h.begin(ctx, s, spec)
}

// begin starts the processes that a group's description wants, and returns when they have passed their tests.
func (h *Host) begin(ctx context.Context, s *seat, spec GroupSpec) (*group, error) {
	fresh, err := newGroup(s.number, spec, h.launch)
	if err != nil {
		return nil, err
	}
	s.measure(h.launch.options.Metrics, fresh) // of replicas that the present group has not
	h.fleet.enlist(fresh)
	if err := fresh.awaitStarted(ctx); err != nil {
		h.fleet.dismiss(fresh)
		return nil, err
	}
	return fresh, nil
}

// title names what a group computes with.
func (g *group) title() string { return g.spec.Backend + " " + g.answers.numericClass() }

func (k *knownAnswers) numericClass() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.class
}

// compare holds the known answers of two groups of the same units against each other.
func compare(old, fresh *knownAnswers) (Difference, error) { return compareUnits(fresh, old.answer) }

// compareUnits holds the known answers of a group against those before.
func compareUnits(fresh *knownAnswers, before func(expert.Unit) []float32) (Difference, error) {
	d := Difference{Same: true, Cosine: 1}
	for _, u := range fresh.spec.Units {
		a, b := before(u), fresh.answer(u)
		if len(a) != len(b) || len(a) == 0 {
			return d, fmt.Errorf("layer %d expert %d: answers of %d and %d values: %w", u.Layer, u.Expert, len(a), len(b), sdk.ErrInvalidOutput)
		}
		d.add(a, b)
	}
	return d, nil
}

func (k *knownAnswers) answer(u expert.Unit) []float32 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bits[u]
}

// add takes two answers to one question.
func (d *Difference) add(a, b []float32) {
	d.Same = d.Same && sameBits(a, b)
	var most, largest, ab, aa, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		most, largest = max(most, math.Abs(x-y)), max(largest, math.Abs(x))
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	d.MaxAbs = max(d.MaxAbs, most)
	if largest > 0 {
		d.Relative = max(d.Relative, most/largest)
	}
	if aa > 0 && bb > 0 {
		d.Cosine = min(d.Cosine, ab/math.Sqrt(aa*bb))
	}
}

// acceptable is nil if a group may take the other's place.
func (d Difference) acceptable(old, fresh *group) error {
	switch {
	case old.answers.numericClass() == fresh.answers.numericClass() && !d.Same:
		return fmt.Errorf("other bits than the present group in the same numeric class %s (relative difference %.3g): %w",
			fresh.answers.numericClass(), d.Relative, sdk.ErrInvalidOutput)
	case !(d.Relative <= mostRelative):
		return fmt.Errorf("its answers differ by %.3g of the largest value, more than %g: %w", d.Relative, mostRelative, sdk.ErrInvalidOutput)
	}
	return nil
}

// enlist supervises a group's processes apart from the rest, so that they can be ended alone.
func (f *fleet) enlist(g *group) {
	g.life, g.cease = context.WithCancel(f.life)
	f.count.Add(int64(len(g.serving())))
	if g.pool != nil {
		g.running.Go(func() { g.pool.run(g.life, f, g) })
	}
	for _, s := range g.replicas {
		g.running.Go(func() { s.run(g.life) })
	}
	f.wg.Go(func() {
		g.running.Wait()
		g.executed.Close()
	})
}

// dismiss ends a group's processes and waits for their end.
func (f *fleet) dismiss(g *group) {
	g.cease()
	g.running.Wait()
	f.count.Add(-int64(len(g.serving())))
}
