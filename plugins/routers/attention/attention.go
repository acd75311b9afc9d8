// Package attention is the router that compares a row's hidden state with what each expert has been sent before, as
// attention compares a query with keys (Roy et al. 2021, "Efficient Content-Based Sparse Attention with Routing
// Transformers", routing by running centroids; Chi et al. 2022, "On the Representation Collapse of Sparse Mixture of
// Experts", the cosine of both as the score). With h, a row's hidden state divided by its length, each layer keeps a running
// mean m of all rows' h and, for each expert e, a running mean c_e of the rows to which the checkpoint's rule would give it:
//
//		q = h - m, k_e = c_e - m, score_e = (1 - gate) * sharpness * <q, k_e> / (|q| |k_e|) + gate * logit_e
//
//	  - The k experts of the highest scores are chosen, the lower id first among equals. Where q or k_e is zero the cosine
//	    is 0.
//	  - The weights are those of the checkpoint's rule for the chosen experts, from the logits.
//	  - After each batch the means take its rows in. A mean weighs all rows alike until it has seen window of them, and
//	    forgets the oldest at the rate 1/window from then on.
//	  - As long as a layer has seen fewer than 16 rows for each of its experts, it routes by the checkpoint's rule.
//
// The centroids follow the checkpoint's choice and not the router's own, so that they can't collapse onto few experts. An
// answer depends on the batches before it: the router declares sdk.CapLoadDependent, and the same sequence of batches
// gives the same routes. Rows of one batch don't see each other.
//
// pimoe-router-attention serves it. Parameters: gate (from 0, centroids alone, to 1, logits alone; default 0.5),
// sharpness (number from 0 on, in units of a logit, default 8), window (rows, default 4096). It refuses any other, values
// that are not finite, batches without hidden states and rules it does not know.
package attention

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/plugins/routers/internal/choice"
	"github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

const (
	// defaultGate lets both have their say: centroids alone cost a trained model a good part of its quality, since a mean is
	// a coarser picture of an expert than its gate.
	defaultGate = 0.5
	// defaultSharpness makes a cosine as telling as a trained gate's logits, whose standard deviation is about 2 where a
	// cosine's is about a quarter.
	defaultSharpness = 8
	// defaultWindow is some pages of text: enough rows for a mean of each expert, few enough to follow the subject.
	defaultWindow = 4096
	// warmRows for each expert are enough for a mean whose error is a quarter of the rows' own spread.
	warmRows = 16
)

// Router routes by centroids.
type Router struct {
	spec            router.Spec
	gate, sharpness float32
	window          int

	mu     sync.Mutex // guards layers, for the whole of a Route: a batch sees all of the one before it
	layers map[int]*layer
}

// New makes a router, to be configured.
func New() *Router { return &Router{} }

// Info names the router and declares that its answers depend on the rows before.
func (*Router) Info() sdk.Info {
	return sdk.Info{Name: "attention", Kind: sdk.KindRouter, Version: "1", Capabilities: []string{sdk.CapLoadDependent}}
}

// WantsHidden implements router.HiddenRouter.
func (*Router) WantsHidden() bool { return true }

// Configure takes the rule and the parameters, and forgets all rows.
func (r *Router) Configure(_ context.Context, spec router.Spec) error {
	spec, err := choice.Take(spec, "gate", "sharpness", "window")
	if err != nil {
		return fmt.Errorf("configure router attention: %w", err)
	}
	gate, err := choice.Number(spec.Params, "gate", 0, 1, defaultGate)
	if err != nil {
		return fmt.Errorf("configure router attention: %w", err)
	}
	sharpness, err := choice.Number(spec.Params, "sharpness", 0, 1e6, defaultSharpness)
	if err != nil {
		return fmt.Errorf("configure router attention: %w", err)
	}
	window, err := choice.Count(spec.Params, "window", 1, math.MaxInt32, defaultWindow)
	if err != nil {
		return fmt.Errorf("configure router attention: %w", err)
	}
	spec.Rule = model.AnyChoice(spec.Rule)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spec, r.gate, r.sharpness, r.window = spec, float32(gate), float32(sharpness), window
	r.layers = make(map[int]*layer, len(spec.Layers))
	return nil
}

// Route fills routes and then takes the rows in.
func (r *Router) Route(_ context.Context, batch router.Batch, routes router.Routes) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(batch, routes); err != nil {
		return fmt.Errorf("route: layer %d: %w", batch.Layer, err)
	}
	if batch.Logits.Rows == 0 {
		return nil
	}
	l := r.layers[batch.Layer]
	if l == nil {
		l = newLayer(r.spec.Experts, batch.Hidden.Cols)
		r.layers[batch.Layer] = l
	}
	if batch.Hidden.Cols != len(l.all.at) {
		return fmt.Errorf("route: layer %d: %w: hidden states have %d values, had %d", batch.Layer, sdk.ErrInvalid, batch.Hidden.Cols, len(l.all.at))
	}
	warm := l.all.rows >= warmRows*r.spec.Experts
	scores := make([]float32, r.spec.Experts)
	for row := range batch.Logits.Rows {
		logits, from, to := batch.Logits.Row(row), row*routes.K, (row+1)*routes.K
		copy(scores, logits)
		if warm {
			l.score(scores, batch.Hidden.Row(row), r.gate, r.sharpness)
		}
		model.Choose(routes.IDs[from:to], scores)
		model.Weigh(routes.Weights[from:to], routes.IDs[from:to], logits, r.spec.Rule)
	}
	l.take(batch, r.spec.TopK, r.window)
	return nil
}

func (r *Router) check(batch router.Batch, routes router.Routes) error {
	if err := choice.CheckBatch(r.spec, batch, routes); err != nil {
		return err
	}
	if err := choice.CheckLogits(batch); err != nil {
		return err
	}
	rows, h := batch.Logits.Rows, batch.Hidden
	if rows > 0 && (h.Rows != rows || h.Cols < 1 || h.Stride < h.Cols || len(h.Data) < (rows-1)*h.Stride+h.Cols) {
		return fmt.Errorf("%w: hidden states are %dx%d with stride %d and %d values, want %d rows", sdk.ErrInvalid, h.Rows, h.Cols, h.Stride, len(h.Data), rows)
	}
	for row := range rows {
		if !vec.Finite(h.Row(row)) {
			return fmt.Errorf("%w: row %d: the hidden state has a value that is not finite", sdk.ErrInvalid, row)
		}
	}
	return nil
}

// layer is what a layer remembers.
type layer struct {
	all     centroid
	experts []centroid
	keys    tensor.Matrix // of each expert: its centroid less the mean of all, of length 1, or zero
	query   []float32     // of one row at a time
}

// centroid is a running mean.
type centroid struct {
	at   []float32
	rows int // that it stands for, at most the window
}

func newLayer(experts, hidden int) *layer {
	l := &layer{
		all: centroid{at: make([]float32, hidden)}, experts: make([]centroid, experts),
		keys: tensor.NewMatrix(experts, hidden), query: make([]float32, hidden),
	}
	for e := range l.experts {
		l.experts[e].at = make([]float32, hidden)
	}
	return l
}

// score replaces logits by scores.
func (l *layer) score(logits, h []float32, gate, sharpness float32) {
	copy(l.query, h)
	normalise(l.query)
	vec.AddScaled(l.query, l.all.at, -1)
	normalise(l.query)
	for e, logit := range logits {
		logits[e] = float32((1-gate)*sharpness*vec.Dot(l.query, l.keys.Row(e))) + float32(gate*logit)
	}
}

// normalise gives a vector the length 1; zero stays, and so does what is so long that its square is infinite.
func normalise(v []float32) {
	square := vec.Dot(v, v)
	if square == 0 || math.IsInf(float64(square), 0) {
		clear(v)
		return
	}
	vec.Scale(v, v, float32(1/math.Sqrt(float64(square))))
}

// take moves the means by a batch, and the keys with them.
func (l *layer) take(batch router.Batch, k, window int) {
	ids := make([]int32, k)
	sums := tensor.NewMatrix(len(l.experts)+1, batch.Hidden.Cols) // the last one is of all
	rows := make([]int, len(l.experts)+1)
	all := len(l.experts)
	add := func(to int, h []float32) {
		vec.AddScaled(sums.Row(to), h, 1)
		rows[to]++
	}
	for row := range batch.Logits.Rows {
		h := l.query
		copy(h, batch.Hidden.Row(row))
		normalise(h)
		add(all, h)
		model.Choose(ids, batch.Logits.Row(row))
		for _, id := range ids {
			add(int(id), h)
		}
	}
	l.all.take(sums.Row(all), rows[all], window)
	for e := range l.experts {
		c := &l.experts[e]
		c.take(sums.Row(e), rows[e], window)
		key := l.keys.Row(e)
		if c.rows == 0 {
			continue // its key is zero
		}
		copy(key, c.at)
		vec.AddScaled(key, l.all.at, -1)
		normalise(key)
	}
}

// take moves the mean by the sum of some rows.
func (c *centroid) take(sum []float32, rows, window int) {
	if rows == 0 {
		return
	}
	c.rows = min(c.rows+rows, max(window, rows))
	step := float32(rows) / float32(c.rows)
	vec.Scale(c.at, c.at, 1-step)
	vec.AddScaled(c.at, sum, step/float32(rows))
	c.rows = min(c.rows, window)
}

// Close has nothing to release.
func (*Router) Close() error { return nil }

var _ router.HiddenRouter = (*Router)(nil)
