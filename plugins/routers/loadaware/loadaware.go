// Package loadaware is the router that evens out the load of experts at run time, in the spirit of balancing without
// an auxiliary loss (Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts"; used to
// train DeepSeek-V3). Each layer keeps one bias for each expert, zero at first:
//
//   - An expert is chosen by its logit minus its bias: the k highest, the lower id first among equals.
//   - The weights are those of the checkpoint's rule for the chosen experts, from the logits without the bias.
//   - After each batch, the bias of an expert with more than the mean number of rows grows by rate, of one with fewer
//     falls by rate.
//
// So an answer depends on the batches before it: the router declares sdk.CapLoadDependent, and the same sequence of
// batches gives the same routes. Rows of one batch don't see each other.
//
// pimoe-router-load-aware serves it. Parameters: rate (number from 0 on, in units of a logit, default 0.01; 0 is the
// model's own rule). It refuses any other, logits that are not finite and rules it does not know.
package loadaware

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/pimoe/pimoe/plugins/routers/internal/choice"
	"github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

// defaultRate moves a choice between experts whose logits differ by 1 within a hundred batches, which is a few seconds
// of decoding. The paper's 0.001 is for the hundred thousands of steps of a training run.
const defaultRate = 0.01

// Router routes by logits and load.
type Router struct {
	spec router.Spec
	rate float64

	mu   sync.Mutex        // guards bias, for the whole of a Route: a batch sees all of the one before it
	bias map[int][]float64 // by layer, then expert
}

// New makes a router, to be configured.
func New() *Router { return &Router{} }

// Info names the router and declares that its answers depend on load.
func (*Router) Info() sdk.Info {
	return sdk.Info{Name: "load-aware", Kind: sdk.KindRouter, Version: "1", Capabilities: []string{sdk.CapLoadDependent}}
}

// Configure takes the rule and the rate, and forgets all load.
func (r *Router) Configure(_ context.Context, spec router.Spec) error {
	spec, err := choice.Take(spec, "rate")
	if err != nil {
		return fmt.Errorf("configure router load-aware: %w", err)
	}
	rate, err := choice.Number(spec.Params, "rate", 0, math.Inf(1), defaultRate)
	if err != nil {
		return fmt.Errorf("configure router load-aware: %w", err)
	}
	spec.Rule = model.AnyChoice(spec.Rule)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spec, r.rate, r.bias = spec, rate, make(map[int][]float64, len(spec.Layers))
	for _, layer := range spec.Layers {
		r.bias[layer] = make([]float64, spec.Experts)
	}
	return nil
}

// Route fills routes and then accounts for them.
func (r *Router) Route(_ context.Context, batch router.Batch, routes router.Routes) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := choice.CheckBatch(r.spec, batch, routes); err != nil {
		return fmt.Errorf("route: layer %d: %w", batch.Layer, err)
	}
	if err := choice.CheckLogits(batch); err != nil {
		return fmt.Errorf("route: layer %d: %w", batch.Layer, err)
	}
	bias, scores := r.bias[batch.Layer], make([]float32, r.spec.Experts)
	for row := range batch.Logits.Rows {
		logits, from, to := batch.Logits.Row(row), row*routes.K, (row+1)*routes.K
		for e, v := range logits {
			scores[e] = float32(float64(v) - bias[e])
		}
		model.Choose(routes.IDs[from:to], scores)
		model.Weigh(routes.Weights[from:to], routes.IDs[from:to], logits, r.spec.Rule)
	}
	r.account(bias, routes.IDs)
	return nil
}

// account moves the biases of a layer by the ids of a batch.
func (r *Router) account(bias []float64, ids []int32) {
	load := make([]int, len(bias))
	for _, id := range ids {
		load[id]++
	}
	for e, n := range load {
		switch above := n*len(bias) - len(ids); {
		case above > 0:
			bias[e] += r.rate
		case above < 0:
			bias[e] -= r.rate
		}
	}
}

// Close has nothing to release.
func (*Router) Close() error { return nil }

var _ router.Router = (*Router)(nil)
