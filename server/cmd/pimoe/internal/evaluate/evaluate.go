// Package evaluate measures a model against given token ids through the engine that also serves: mean negative
// log-likelihood, greedy continuations, logits and routes of every position, and perplexity by llama-perplexity's rule.
//
// The eval command uses it. It refuses sequences that do not fit the model's context, instead of cutting them.
package evaluate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Engine is what the package needs of *engine.Engine.
type Engine interface {
	Submit(ctx context.Context, r engine.Request) (engine.Stream, error)
	Context() int
}

// Options say what to record of a sequence besides its likelihood.
type Options struct {
	Greedy int  // number of ids to continue with; end-of-text does not stop them
	Logits bool // logits.I, [T, V]
	Routes bool // routes.I.L.ids and .weights, [T, K]
}

// Sequence is the outcome of one sequence.
type Sequence struct {
	NLLMean *float64 `json:"nll_mean"` // mean over t >= 1 of -log p(x_t | x_<t); nil for a single id
	Greedy  []int32  `json:"greedy,omitempty"`

	Tensors []weights.NamedView `json:"-"`
}

// Run evaluates sequence number index.
func Run(ctx context.Context, eng Engine, index int, ids []int32, o Options) (Sequence, error) {
	if err := fits(eng, ids, o.Greedy); err != nil {
		return Sequence{}, fmt.Errorf("sequence %d: %w", index, err)
	}
	rec := &recorder{ids: ids, options: o}
	r := engine.Request{
		ID: "eval-" + strconv.Itoa(index), Prompt: ids, MaxTokens: engine.PromptOnly, IgnoreEOS: true, Logprobs: -1,
		NoReuse: true, Observe: &engine.Observer{Logits: rec.logits},
	}
	if o.Greedy > 0 {
		r.MaxTokens = o.Greedy
	}
	if o.Routes {
		r.Observe.Route = rec.route
	}
	greedy, err := drain(ctx, eng, r)
	if err != nil {
		return Sequence{}, fmt.Errorf("sequence %d: %w", index, err)
	}
	if err := rec.complete(o.Greedy, greedy); err != nil {
		return Sequence{}, fmt.Errorf("sequence %d: %w", index, err)
	}
	return Sequence{NLLMean: rec.mean(), Greedy: greedy, Tensors: rec.tensors(index)}, nil
}

func fits(eng Engine, ids []int32, more int) error {
	switch n := eng.Context(); {
	case len(ids) == 0:
		return fmt.Errorf("it has no token: %w", sdk.ErrInvalid)
	case more == 0 && len(ids) > n:
		return fmt.Errorf("%d tokens are beyond the context of %d: %w", len(ids), n, sdk.ErrInvalid)
	case len(ids)+more > n:
		return fmt.Errorf("%d tokens and %d more are beyond the context of %d: %w", len(ids), more, n, sdk.ErrInvalid)
	}
	return nil
}

func drain(ctx context.Context, eng Engine, r engine.Request) ([]int32, error) {
	stream, err := eng.Submit(ctx, r)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var ids []int32
	for {
		t, err := stream.Next(ctx)
		if errors.Is(err, io.EOF) {
			return ids, nil
		}
		if err != nil {
			return nil, err
		}
		if t.HasToken {
			ids = append(ids, t.ID)
		}
	}
}

// recorder takes what the engine shows of one request. The decode loop calls it, in order; the caller reads it after
// the request has ended.
type recorder struct {
	ids     []int32
	options Options
	from    int // first position whose logits are scored

	rows   int     // positions seen
	sum    float64 // of -log p
	scored int
	vocab  int
	raw    []byte // logits, little-endian
	routes map[int]*routed
	order  []int // layers in the order they came
}

type routed struct {
	k            int
	rows         int
	ids, weights []byte
}

func (r *recorder) logits(position int, logits []float32) {
	if position >= len(r.ids) { // a generated token
		return
	}
	r.rows++
	if next := position + 1; next < len(r.ids) && position >= r.from {
		r.sum -= LogProb(logits, r.ids[next])
		r.scored++
	}
	if !r.options.Logits {
		return
	}
	if r.raw == nil {
		r.vocab, r.raw = len(logits), make([]byte, 0, 4*len(logits)*len(r.ids))
	}
	for _, x := range logits {
		r.raw = binary.LittleEndian.AppendUint32(r.raw, math.Float32bits(x))
	}
}

func (r *recorder) route(layer, position int, ids []int32, ws []float32) {
	if position >= len(r.ids) {
		return
	}
	if r.routes == nil {
		r.routes = map[int]*routed{}
	}
	l := r.routes[layer]
	if l == nil {
		l = &routed{k: len(ids)}
		r.routes[layer] = l
		r.order = append(r.order, layer)
	}
	l.rows++
	for _, id := range ids {
		l.ids = binary.LittleEndian.AppendUint32(l.ids, uint32(id))
	}
	for _, w := range ws {
		l.weights = binary.LittleEndian.AppendUint32(l.weights, math.Float32bits(w))
	}
}

// complete checks that the engine has shown every position once.
func (r *recorder) complete(greedy int, got []int32) error {
	if r.rows != len(r.ids) {
		return fmt.Errorf("the engine computed %d of %d positions: %w", r.rows, len(r.ids), sdk.ErrInvalidOutput)
	}
	if len(got) != greedy {
		return fmt.Errorf("the engine gave %d of %d greedy tokens: %w", len(got), greedy, sdk.ErrInvalidOutput)
	}
	for layer, l := range r.routes {
		if l.rows != len(r.ids) {
			return fmt.Errorf("the engine routed %d of %d positions in layer %d: %w", l.rows, len(r.ids), layer, sdk.ErrInvalidOutput)
		}
	}
	return nil
}

func (r *recorder) mean() *float64 {
	if r.scored == 0 {
		return nil
	}
	m := r.sum / float64(r.scored)
	return &m
}

func (r *recorder) tensors(index int) []weights.NamedView {
	var out []weights.NamedView
	add := func(name string, d tensor.DType, cols int, data []byte) {
		out = append(out, weights.NamedView{Name: name, View: tensor.View{DType: d, Shape: []int{len(r.ids), cols}, Data: data}})
	}
	if r.options.Logits {
		add(fmt.Sprintf("logits.%d", index), tensor.F32, r.vocab, r.raw)
	}
	for _, layer := range r.order {
		l := r.routes[layer]
		add(fmt.Sprintf("routes.%d.%d.ids", index, layer), tensor.I32, l.k, l.ids)
		add(fmt.Sprintf("routes.%d.%d.weights", index, layer), tensor.F32, l.k, l.weights)
	}
	return out
}

// LogProb is the log-probability of id under softmax of logits, summed in float64.
func LogProb(logits []float32, id int32) float64 {
	top := math.Inf(-1)
	for _, x := range logits {
		top = max(top, float64(x))
	}
	var sum float64
	for _, x := range logits {
		sum += math.Exp(float64(x) - top)
	}
	return float64(logits[id]) - top - math.Log(sum)
}
