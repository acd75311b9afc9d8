// Package adaptive is the router that keeps to the checkpoint's rule while the machine has nothing to do and gives up some
// of it, the more the longer requests wait. What it knows of load is measured, from the host's observations:
//
//   - u, the pressure from 0 to 1, is the running mean of waiting / (waiting + patience), where waiting is the longest
//     that a request had waited for its first step.
//   - L_e, the load of an expert in its layer, is the running mean of its calls' time divided by the mean over the layer's
//     experts: 1 at first, and never taken for less than an eighth.
//
// Both means move by the share rate of the difference at each observation. A row then chooses by
//
//		score_e = logit_e - u * balance * ln(L_e) + u * temperature * G_e
//
//	  - The k experts of the highest scores are chosen, the lower id first among equals. ln(L_e) as the bias is the balancing
//	    without an auxiliary loss (Wang et al. 2024) with the time that experts take in the place of the rows that they get.
//	  - G_e is Gumbel noise, -ln(-ln U), so that the choice is a draw without replacement from the softmax of the biased
//	    logits at the temperature u * temperature (Kool et al. 2019, "Stochastic Beams and Where to Find Them"). U is a
//	    hash of (seed, layer, position, token id, expert).
//	  - The weights are those of the checkpoint's rule for the chosen experts, from the logits alone.
//
// With nobody waiting, u is 0 and the routes are the checkpoint's. An answer depends on load: the router declares
// sdk.CapLoadDependent, and the same sequence of batches and observations gives the same routes.
//
// pimoe-router-adaptive serves it. Parameters: balance (number from 0 on, in units of a logit for a load e times the mean,
// default 1), temperature (number from 0 on, in units of a logit, default 0.5), patience (duration above 0, default 100ms),
// rate (above 0 to 1, default 0.2), seed (whole number, default 0). It refuses any other, logits that are not finite and
// rules it does not know.
package adaptive

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/pimoe/pimoe/plugins/routers/internal/choice"
	"github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

const (
	// defaultBalance takes half the chance from an expert that has twice the mean load, when the pressure is full.
	defaultBalance = 1
	// defaultTemperature draws between experts whose logits are nearly the same and leaves clear choices alone.
	defaultTemperature = 0.5
	// defaultPatience is what a reader does not notice: a wait of this length makes half the pressure.
	defaultPatience = 100 * time.Millisecond
	// defaultRate follows load within a second or two, at some observations a second.
	defaultRate = 0.2
	// leastLoad keeps an expert that has had no rows from being worth everything.
	leastLoad = 1. / 8
)

// Router routes by logits, pressure and load.
type Router struct {
	spec     router.Spec
	settings settings

	mu       sync.RWMutex // guards all below
	pressure float64
	load     map[int][]float64 // by layer, then expert
}

// settings are the parameters.
type settings struct {
	balance, temperature, rate float64
	patience                   time.Duration
	seed                       uint64
}

// New makes a router, to be configured.
func New() *Router { return &Router{} }

// Info names the router and declares that its answers depend on load.
func (*Router) Info() sdk.Info {
	return sdk.Info{Name: "adaptive", Kind: sdk.KindRouter, Version: "1", Capabilities: []string{sdk.CapLoadDependent}}
}

// Observes implements router.Observer.
func (*Router) Observes() bool { return true }

// Configure takes the rule and the parameters, and forgets all load.
func (r *Router) Configure(_ context.Context, spec router.Spec) error {
	spec, err := choice.Take(spec, "balance", "temperature", "patience", "rate", "seed")
	if err != nil {
		return fmt.Errorf("configure router adaptive: %w", err)
	}
	s, err := settingsOf(spec.Params)
	if err != nil {
		return fmt.Errorf("configure router adaptive: %w", err)
	}
	spec.Rule = model.AnyChoice(spec.Rule)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spec, r.settings, r.pressure = spec, s, 0
	r.load = make(map[int][]float64, len(spec.Layers))
	for _, layer := range spec.Layers {
		r.load[layer] = make([]float64, spec.Experts)
		for e := range r.load[layer] {
			r.load[layer][e] = 1
		}
	}
	return nil
}

func settingsOf(params map[string]string) (s settings, err error) {
	if s.balance, err = choice.Number(params, "balance", 0, 1e6, defaultBalance); err != nil {
		return s, err
	}
	if s.temperature, err = choice.Number(params, "temperature", 0, 1e6, defaultTemperature); err != nil {
		return s, err
	}
	if s.rate, err = choice.Number(params, "rate", 1e-6, 1, defaultRate); err != nil {
		return s, err
	}
	if s.patience, err = choice.Duration(params, "patience", defaultPatience); err != nil {
		return s, err
	}
	s.seed, err = choice.Seed(params)
	return s, err
}

// Observe moves pressure and loads.
func (r *Router) Observe(_ context.Context, o router.Observation) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spec.Experts == 0 {
		return fmt.Errorf("observe: %w: the router is not configured", sdk.ErrUnavailable)
	}
	s := r.settings
	waiting := o.Waiting.Seconds()
	r.pressure += float64(s.rate * (waiting/(waiting+s.patience.Seconds()) - r.pressure))
	for from := 0; from < len(o.Loads); {
		to := from + 1
		for to < len(o.Loads) && o.Loads[to].Layer == o.Loads[from].Layer {
			to++
		}
		r.follow(o.Loads[from:to])
		from = to
	}
	return nil
}

// follow moves the loads of one layer. Its experts without rows have had no load.
func (r *Router) follow(loads []router.Load) {
	of := r.load[loads[0].Layer]
	busy, sum := make([]float64, len(of)), 0.
	for _, l := range loads {
		if l.Expert < len(busy) {
			busy[l.Expert] = l.Busy.Seconds()
			sum += l.Busy.Seconds()
		}
	}
	if sum == 0 {
		return
	}
	for e := range of {
		of[e] += float64(r.settings.rate * (busy[e]*float64(len(of))/sum - of[e]))
	}
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
	bias := make([]float64, r.spec.Experts)
	for e, load := range r.load[batch.Layer] {
		bias[e] = r.pressure * r.settings.balance * math.Log(max(load, leastLoad))
	}
	temperature := r.pressure * r.settings.temperature
	layer := choice.Hash(choice.Hash(0, r.settings.seed), uint64(batch.Layer))
	scores := make([]float32, r.spec.Experts)
	for row := range batch.Logits.Rows {
		logits, from, to := batch.Logits.Row(row), row*routes.K, (row+1)*routes.K
		h := choice.Hash(choice.Hash(layer, uint64(uint32(batch.Positions[row]))), uint64(uint32(batch.Tokens[row])))
		for e, v := range logits {
			s := float64(v) - bias[e]
			if temperature > 0 {
				s += float64(temperature * gumbel(choice.Hash(h, uint64(e))))
			}
			scores[e] = float32(s)
		}
		model.Choose(routes.IDs[from:to], scores)
		model.Weigh(routes.Weights[from:to], routes.IDs[from:to], logits, r.spec.Rule)
	}
	return nil
}

// gumbel makes Gumbel noise of a hash.
func gumbel(h uint64) float64 {
	u := (float64(h>>11) + .5) / (1 << 53) // above 0 and below 1
	return -math.Log(-math.Log(u))
}

// Close has nothing to release.
func (*Router) Close() error { return nil }

var _ router.Observer = (*Router)(nil)
