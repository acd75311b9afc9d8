// Package model is the router that the checkpoint was trained with. It takes the Rule from the spec and computes in
// float32, as Hugging Face transformers does:
//
//   - softmax_topk (mixtral, qwen2_moe, qwen3_moe, olmoe; Shazeer et al. 2017, Fedus et al. 2021): softmax over all
//     logits, the k most probable experts with their probabilities.
//   - topk_softmax (granitemoe, gpt_oss): the k largest logits, and the softmax over these k.
//
// Then, if the rule says so, the weights are divided by their sum, and multiplied by the rule's scale. Experts come in
// falling order of their logits, equal ones in rising order of their ids. Softmax does not change the order of logits,
// so both rules choose by logits, which can't underflow to a tie.
//
// pimoe-router-model serves it and the host's stand-in is the same code. It is row-independent, has no parameters, and
// refuses logits that are not finite and rules it does not know.
package model

import (
	"context"
	"fmt"

	"github.com/pimoe/pimoe/plugins/routers/internal/choice"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

// Router routes by the checkpoint's rule.
type Router struct {
	spec router.Spec
}

// New makes a router, to be configured.
func New() *Router { return &Router{} }

// Info names the router.
func (*Router) Info() sdk.Info { return sdk.Info{Name: "model", Kind: sdk.KindRouter, Version: "1"} }

// Configure takes the rule.
func (r *Router) Configure(_ context.Context, spec router.Spec) error {
	spec, err := choice.Take(spec)
	if err != nil {
		return fmt.Errorf("configure router model: %w", err)
	}
	r.spec = spec
	return nil
}

// Route fills routes.
func (r *Router) Route(_ context.Context, batch router.Batch, routes router.Routes) error {
	if err := choice.CheckBatch(r.spec, batch, routes); err != nil {
		return fmt.Errorf("route: layer %d: %w", batch.Layer, err)
	}
	if err := choice.CheckLogits(batch); err != nil {
		return fmt.Errorf("route: layer %d: %w", batch.Layer, err)
	}
	for row := range batch.Logits.Rows {
		logits, from, to := batch.Logits.Row(row), row*routes.K, (row+1)*routes.K
		Choose(routes.IDs[from:to], logits)
		Weigh(routes.Weights[from:to], routes.IDs[from:to], logits, r.spec.Rule)
	}
	return nil
}

// Close has nothing to release.
func (*Router) Close() error { return nil }

// Choose fills ids with the experts of the highest scores, best first, the lower id first among equals. It inserts each
// expert into the list of the best so far: k is small.
func Choose(ids []int32, scores []float32) {
	for e, score := range scores {
		n := min(e, len(ids)) // of ids are in use
		at := n
		for at > 0 && score > scores[ids[at-1]] {
			at--
		}
		if at == len(ids) {
			continue
		}
		copy(ids[at+1:], ids[at:n])
		ids[at] = int32(e)
	}
}

// AnyChoice is a rule that gives the same weights and can weigh experts that the rule itself would not have chosen. Softmax
// over all divided by the sum of the chosen ones is the softmax over the chosen ones; but all of these may be so far below
// the highest logit that the first form is 0/0.
func AnyChoice(rule router.Rule) router.Rule {
	if rule.Renormalise {
		rule.Score = router.TopKSoftmax
	}
	return rule
}

// Weigh fills the weights that a rule gives to chosen experts.
func Weigh(weights []float32, ids []int32, logits []float32, rule router.Rule) {
	highest := logits[ids[0]]
	if rule.Score == router.SoftmaxTopK {
		for _, v := range logits {
			highest = max(highest, v)
		}
	} else {
		for _, id := range ids {
			highest = max(highest, logits[id])
		}
	}
	var sum float32
	if rule.Score == router.SoftmaxTopK {
		for _, v := range logits {
			sum += Exp(v - highest)
		}
	}
	for i, id := range ids {
		weights[i] = Exp(logits[id] - highest)
		if rule.Score == router.TopKSoftmax {
			sum += weights[i]
		}
	}
	divide(weights, sum)
	if rule.Renormalise {
		divide(weights, total(weights))
	}
	if rule.Scale != 0 {
		for i := range weights {
			weights[i] *= rule.Scale
		}
	}
}

func total(weights []float32) (sum float32) {
	for _, w := range weights {
		sum += w
	}
	return sum
}

func divide(weights []float32, by float32) {
	for i := range weights {
		weights[i] /= by
	}
}

var _ router.Router = (*Router)(nil)
