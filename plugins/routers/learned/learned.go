// Package learned is the router that learns at run time how much speed is worth giving up some of the checkpoint's choice
// for. It is a contextual bandit, linear in its contexts with a model for each arm (Li et al. 2010, "A Contextual-Bandit
// Approach to Personalized News Article Recommendation", LinUCB), forgetting (Russac, Vernade and Cappe 2019, "Weighted
// Linear Bandits for Non-Stationary Environments") and conservative: it plays the checkpoint's rule until another arm is
// proven better (Kazerouni et al. 2017, "Conservative Contextual Linear Bandits").
//
// What an arm does. For each expert of a layer the router keeps c_e, the running mean of its time for a row. An arm is a
// price, one of 0, 1/4, 1/2, 1, 2; while it is played a row chooses by
//
//		score_e = logit_e - price * ln(c_e / mean of the layer's c)
//
//	  - The k experts of the highest scores are chosen, the lower id first among equals. An expert of unknown cost has the
//	    mean. A price of 0, arm 0, is the checkpoint's rule.
//	  - The weights are those of the checkpoint's rule for the chosen experts, from the logits alone.
//
// What it learns from. Each of the host's observations ends the play of an arm and says in which context it was and what
// it has brought:
//
//	x       = (1, waiting / (waiting + 100ms), tokens / rows that were routed)
//	reward  = log-probability of the tokens - speed * ln(time for a row)
//	surplus = reward - level, where level follows reward - theta' x: how hard the texts of the moment are
//
// Each arm has A = I and b = 0 at first, theta = inv(A) b and w = sqrt(x' inv(A) x). At every observation all arms forget,
// A <- g A + (1-g) I and b <- g b with g = 0.999, and the one that was played learns, A <- A + x x' and b <- b + surplus x.
// s is the running root mean square of surplus - theta' x, 1 at first. The next arm is chosen as if the context stayed:
//
//   - In the share explore of the observations it is the one with the highest theta' x + (2 s + 1) w, equals in an order that the
//     seed shuffles.
//   - Else it is, of the arms i with (theta_i - theta_0)' x > 2 s (w_i + w_0), the one with the highest theta' x, and arm 0
//     where there is none.
//
// An observation without tokens teaches costs alone and leaves the arm. The quality that the router sees is the model's own
// confidence in the tokens that it has written, and only where tokens are given (a score of a known text) the truth. It is
// noisy, so that proof takes minutes of work, and trying an arm is paid for by the answers of that moment. An answer depends
// on all that came before: the router declares sdk.CapLoadDependent, and the same sequence of batches and observations gives
// the same routes.
//
// pimoe-router-learned serves it. Parameters: speed (number from 0 on: what a time for a row e times shorter is worth, in
// the natural logarithm of a token's probability; default 0.1), explore (from 0, never, to 1, always; default 0.05), seed
// (whole number, default 0). It refuses any other, logits that are not finite and rules it does not know.
package learned

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/pimoe/pimoe/plugins/routers/internal/choice"
	"github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

const (
	// defaultSpeed gives up a tenth of a nat, a perplexity higher by a tenth, for experts that take a third of the time.
	defaultSpeed = 0.1
	// defaultExplore tries an arm every five seconds of work or so, and costs a twentieth of what the arms cost.
	defaultExplore = 0.05
	// costRate is the share by which a cost moves at an observation: it follows within a second or two.
	costRate = 0.2
	// patience is the waiting that makes half of the context's pressure: what a reader does not notice.
	patience = 100 * time.Millisecond
)

// prices are the arms. A price of 2 moves an expert that takes a third of the time by two logits, which few of a trained
// gate's choices withstand; more would be another way to route by time alone.
var prices = [...]float64{0, .25, .5, 1, 2}

// Router routes by logits and by what an expert costs.
type Router struct {
	spec   router.Spec
	speed  float64
	bandit *bandit

	mu   sync.RWMutex      // guards all below, and bandit
	arm  int               // that is being played
	cost map[int][]float64 // by layer, then expert: seconds for a row, 0 = unknown
}

// New makes a router, to be configured.
func New() *Router { return &Router{} }

// Info names the router and declares that its answers depend on what it was told.
func (*Router) Info() sdk.Info {
	return sdk.Info{Name: "learned", Kind: sdk.KindRouter, Version: "1", Capabilities: []string{sdk.CapLoadDependent}}
}

// Observes implements router.Observer.
func (*Router) Observes() bool { return true }

// Configure takes the rule and the parameters, and forgets all that was learned.
func (r *Router) Configure(_ context.Context, spec router.Spec) error {
	spec, err := choice.Take(spec, "speed", "explore", "seed")
	if err != nil {
		return fmt.Errorf("configure router learned: %w", err)
	}
	speed, err := choice.Number(spec.Params, "speed", 0, 1e6, defaultSpeed)
	if err != nil {
		return fmt.Errorf("configure router learned: %w", err)
	}
	explore, err := choice.Number(spec.Params, "explore", 0, 1, defaultExplore)
	if err != nil {
		return fmt.Errorf("configure router learned: %w", err)
	}
	seed, err := choice.Seed(spec.Params)
	if err != nil {
		return fmt.Errorf("configure router learned: %w", err)
	}
	spec.Rule = model.AnyChoice(spec.Rule)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spec, r.speed, r.bandit = spec, speed, newBandit(len(prices), explore, seed)
	r.arm = 0
	r.cost = make(map[int][]float64, len(spec.Layers))
	for _, layer := range spec.Layers {
		r.cost[layer] = make([]float64, spec.Experts)
	}
	return nil
}

// Observe learns, and chooses the next arm.
func (r *Router) Observe(_ context.Context, o router.Observation) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spec.Experts == 0 {
		return fmt.Errorf("observe: %w: the router is not configured", sdk.ErrUnavailable)
	}
	rows, busy, layers := 0, time.Duration(0), 0
	for i, l := range o.Loads {
		rows += l.Rows
		busy += l.Busy
		if i == 0 || l.Layer != o.Loads[i-1].Layer {
			layers++
		}
		if cost := r.cost[l.Layer]; l.Expert < len(cost) {
			follow(&cost[l.Expert], l.Busy.Seconds()/float64(l.Rows))
		}
	}
	if o.Tokens == 0 || rows == 0 || busy == 0 {
		return nil
	}
	routed := float64(rows) / float64(layers*r.spec.TopK)
	reward := o.LogProb - float64(r.speed*math.Log(busy.Seconds()/float64(rows)))
	waiting := o.Waiting.Seconds()
	x := vector{1, waiting / (waiting + patience.Seconds()), min(float64(o.Tokens)/routed, 1)}
	r.bandit.learn(r.arm, x, reward)
	r.arm = r.bandit.choose(x)
	return nil
}

// follow moves a cost; the first value is taken as it is.
func follow(cost *float64, seconds float64) {
	if *cost == 0 {
		*cost = seconds
		return
	}
	*cost += float64(costRate * (seconds - *cost))
}

// Route fills routes.
func (r *Router) Route(_ context.Context, batch router.Batch, routes router.Routes) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if err := choice.CheckBatch(r.spec, batch, routes); err != nil {
		return fmt.Errorf("route: layer %d: %w", batch.Layer, err)
	}
	if err := choice.CheckLogits(batch); err != nil {
		return fmt.Errorf("route: layer %d: %w", batch.Layer, err)
	}
	bias := biases(r.cost[batch.Layer], prices[r.arm])
	scores := make([]float32, r.spec.Experts)
	for row := range batch.Logits.Rows {
		logits, from, to := batch.Logits.Row(row), row*routes.K, (row+1)*routes.K
		for e, v := range logits {
			scores[e] = float32(float64(v) - bias[e])
		}
		model.Choose(routes.IDs[from:to], scores)
		model.Weigh(routes.Weights[from:to], routes.IDs[from:to], logits, r.spec.Rule)
	}
	return nil
}

// biases are what the experts of a layer lose at a price.
func biases(cost []float64, price float64) []float64 {
	out := make([]float64, len(cost))
	sum, known := 0., 0
	for _, c := range cost {
		if c > 0 {
			sum += c
			known++
		}
	}
	for e, c := range cost {
		if c > 0 && price > 0 {
			out[e] = price * math.Log(c*float64(known)/sum)
		}
	}
	return out
}

// Close has nothing to release.
func (*Router) Close() error { return nil }

var _ router.Observer = (*Router)(nil)

// shuffled are the numbers 0..n-1 in an order that a seed decides.
func shuffled(n int, seed uint64) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := choice.Hash(choice.Hash(0, seed), uint64(a)), choice.Hash(choice.Hash(0, seed), uint64(b))
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return order
}
