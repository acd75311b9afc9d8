// Package roundrobin is the baseline of balance: no router spreads rows more evenly, and none knows less of them. The
// experts of a layer stand in a ring, and each row takes the next k, whatever the gate says (round-robin arbitration is
// older than networks; among routers it is the fully balanced end of Lewis et al. 2021, "BASE Layers"):
//
//	row n of a layer, counted from 0 over all batches, has the experts (start + n*k + i) mod E, i = 0..k-1,
//
// each with the weight 1/k. start is a hash of (seed, layer). After any number of rows the experts of a layer have had
// numbers of rows that differ by one at most.
//
// So a row's experts depend on how many came before it: the router declares sdk.CapLoadDependent, and the same sequence
// of batches gives the same routes.
//
// pimoe-router-round-robin serves it. Parameters: seed (whole number, default 0). It refuses any other.
package roundrobin

import (
	"context"
	"fmt"
	"sync"

	"github.com/pimoe/pimoe/plugins/routers/internal/choice"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

// Router routes in turn.
type Router struct {
	spec router.Spec

	mu   sync.Mutex  // guards next, for the whole of a Route: the rows of a batch follow one another
	next map[int]int // by layer: the expert whose turn it is
}

// New makes a router, to be configured.
func New() *Router { return &Router{} }

// Info names the router and declares that its answers depend on other rows.
func (*Router) Info() sdk.Info {
	return sdk.Info{Name: "round-robin", Kind: sdk.KindRouter, Version: "1", Capabilities: []string{sdk.CapLoadDependent}}
}

// Configure takes the number of experts and the seed, and starts the rings.
func (r *Router) Configure(_ context.Context, spec router.Spec) error {
	spec, err := choice.Take(spec, "seed")
	if err != nil {
		return fmt.Errorf("configure router round-robin: %w", err)
	}
	seed, err := choice.Seed(spec.Params)
	if err != nil {
		return fmt.Errorf("configure router round-robin: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spec, r.next = spec, make(map[int]int, len(spec.Layers))
	for _, layer := range spec.Layers {
		r.next[layer] = int(choice.Hash(choice.Hash(0, seed), uint64(layer)) % uint64(spec.Experts))
	}
	return nil
}

// Route fills routes and moves the layer's ring on.
func (r *Router) Route(_ context.Context, batch router.Batch, routes router.Routes) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := choice.CheckBatch(r.spec, batch, routes); err != nil {
		return fmt.Errorf("route: layer %d: %w", batch.Layer, err)
	}
	next := r.next[batch.Layer]
	for i := range routes.IDs {
		routes.IDs[i] = int32(next)
		if next++; next == r.spec.Experts {
			next = 0
		}
	}
	r.next[batch.Layer] = next
	for row := range batch.Tokens {
		choice.Even(routes.Weights[row*routes.K : (row+1)*routes.K])
	}
	return nil
}

// Close has nothing to release.
func (*Router) Close() error { return nil }

var _ router.Router = (*Router)(nil)
