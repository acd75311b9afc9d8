// Package hierarchical is the router that chooses groups of experts first and experts only within them (DeepSeek-AI 2024,
// "DeepSeek-V2", device-limited routing; "DeepSeek-V3", node-limited routing, whose sum of the best this is). A row then
// touches few groups, which are few processes, machines or memories where the placement follows the groups.
//
// The E experts of a layer are cut into equal groups of neighbours. With probabilities p = softmax(logits), k experts
// and M groups for each row:
//
//   - The score of a group is the sum of its ceil(k/M) highest p. The M groups of the highest scores are chosen, the lower
//     group first among equals.
//   - Of their experts the k with the highest logits are chosen, the lower id first among equals.
//   - The weights are those of the checkpoint's rule for the chosen experts, from all logits.
//
// pimoe-router-hierarchical serves it. It is row-independent. Parameters: groups (a divisor of E, default the largest one
// that is at most the square root of E), top_groups (M, at most groups and enough to hold k experts, default half of the
// groups, or what k needs). With top_groups equal to groups it is the model's own rule. It refuses any other parameter,
// logits that are not finite and rules it does not know.
package hierarchical

import (
	"context"
	"fmt"
	"math"

	"github.com/pimoe/pimoe/plugins/routers/internal/choice"
	"github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

// Router routes by groups.
type Router struct {
	spec   router.Spec
	groups int
	top    int // groups of a row
}

// New makes a router, to be configured.
func New() *Router { return &Router{} }

// Info names the router.
func (*Router) Info() sdk.Info {
	return sdk.Info{Name: "hierarchical", Kind: sdk.KindRouter, Version: "1"}
}

// Configure takes the rule and the groups.
func (r *Router) Configure(_ context.Context, spec router.Spec) error {
	spec, err := choice.Take(spec, "groups", "top_groups")
	if err != nil {
		return fmt.Errorf("configure router hierarchical: %w", err)
	}
	groups, top, err := grouping(spec)
	if err != nil {
		return fmt.Errorf("configure router hierarchical: %w", err)
	}
	spec.Rule = model.AnyChoice(spec.Rule)
	r.spec, r.groups, r.top = spec, groups, top
	return nil
}

// grouping reads the parameters.
func grouping(s router.Spec) (groups, top int, err error) {
	groups, err = choice.Count(s.Params, "groups", 1, s.Experts, usual(s.Experts))
	if err != nil {
		return 0, 0, err
	}
	if s.Experts%groups != 0 {
		return 0, 0, fmt.Errorf("%w: params: groups %d: must divide the %d experts", sdk.ErrInvalid, groups, s.Experts)
	}
	size := s.Experts / groups
	least := (s.TopK + size - 1) / size
	if top, err = choice.Count(s.Params, "top_groups", 1, groups, max((groups+1)/2, least)); err != nil {
		return 0, 0, err
	}
	if top < least {
		return 0, 0, fmt.Errorf("%w: params: top_groups %d: groups of %d experts can't hold the top %d, want at least %d groups", sdk.ErrInvalid, top, size, s.TopK, least)
	}
	return groups, top, nil
}

// usual is the largest divisor of n that is at most its square root.
func usual(n int) int {
	best := 1
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			best = d
		}
	}
	return best
}

// Route fills routes.
func (r *Router) Route(_ context.Context, batch router.Batch, routes router.Routes) error {
	if err := choice.CheckBatch(r.spec, batch, routes); err != nil {
		return fmt.Errorf("route: layer %d: %w", batch.Layer, err)
	}
	if err := choice.CheckLogits(batch); err != nil {
		return fmt.Errorf("route: layer %d: %w", batch.Layer, err)
	}
	s := scratch{
		best: make([]int32, (r.spec.TopK+r.top-1)/r.top), groups: make([]int32, r.top),
		scores: make([]score, r.groups), within: make([]float32, r.spec.Experts),
	}
	for row := range batch.Logits.Rows {
		logits, from, to := batch.Logits.Row(row), row*routes.K, (row+1)*routes.K
		r.limit(&s, logits)
		model.Choose(routes.IDs[from:to], s.within)
		model.Weigh(routes.Weights[from:to], routes.IDs[from:to], logits, r.spec.Rule)
	}
	return nil
}

// scratch is the memory of a Route.
type scratch struct {
	best   []int32   // of one group
	groups []int32   // the chosen ones
	scores []score   // of all groups
	within []float32 // the logits of the chosen groups, -Inf elsewhere
}

// limit fills s.within.
func (r *Router) limit(s *scratch, logits []float32) {
	size := r.spec.Experts / r.groups
	best := s.best[:min(len(s.best), size)]
	for g := range s.scores {
		own := logits[g*size : (g+1)*size]
		model.Choose(best, own)
		s.scores[g] = scoreOf(own, best)
	}
	choose(s.groups, s.scores)
	for e := range s.within {
		s.within[e] = float32(math.Inf(-1))
	}
	for _, g := range s.groups {
		copy(s.within[int(g)*size:], logits[int(g)*size:(int(g)+1)*size])
	}
}

// score is a sum of e^logit as e^top * sum, which neither overflows nor underflows to a tie.
type score struct{ top, sum float32 }

// scoreOf sums the exponentials of some logits, the highest one first.
func scoreOf(logits []float32, ids []int32) score {
	s := score{top: logits[ids[0]]}
	for _, id := range ids {
		s.sum += model.Exp(logits[id] - s.top)
	}
	return s
}

// above reports whether a score is higher.
func (s score) above(t score) bool {
	if s.top >= t.top {
		return s.sum > t.sum*model.Exp(t.top-s.top)
	}
	return s.sum*model.Exp(s.top-t.top) > t.sum
}

// choose fills ids with the groups of the highest scores, the lower one first among equals.
func choose(ids []int32, scores []score) {
	for g, s := range scores {
		n := min(g, len(ids)) // of ids are in use
		at := n
		for at > 0 && s.above(scores[ids[at-1]]) {
			at--
		}
		if at == len(ids) {
			continue
		}
		copy(ids[at+1:], ids[at:n])
		ids[at] = int32(g)
	}
}

// Close has nothing to release.
func (*Router) Close() error { return nil }

var _ router.Router = (*Router)(nil)
