// Package random is the router that a learned one has to beat (Zuo et al. 2021, "Taming Sparsely Activated Transformer
// with Stochastic Experts", route at random): k distinct experts, drawn evenly from all, each with the weight 1/k. The
// draw is a hash of (seed, layer, position, token id) and so repeats whenever those do, however rows are batched; two
// rows without a token (id -1) at one position share their experts.
//
// pimoe-router-random serves it. It is row-independent. Parameters: seed (whole number, default 0). It refuses any
// other.
package random

import (
	"context"
	"fmt"

	"github.com/pimoe/pimoe/plugins/routers/internal/choice"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

// Router routes by chance.
type Router struct {
	spec router.Spec
	seed uint64
}

// New makes a router, to be configured.
func New() *Router { return &Router{} }

// Info names the router.
func (*Router) Info() sdk.Info { return sdk.Info{Name: "random", Kind: sdk.KindRouter, Version: "1"} }

// Configure takes the number of experts and the seed.
func (r *Router) Configure(_ context.Context, spec router.Spec) error {
	spec, err := choice.Take(spec, "seed")
	if err != nil {
		return fmt.Errorf("configure router random: %w", err)
	}
	seed, err := choice.Seed(spec.Params)
	if err != nil {
		return fmt.Errorf("configure router random: %w", err)
	}
	r.spec, r.seed = spec, seed
	return nil
}

// Route fills routes.
func (r *Router) Route(_ context.Context, batch router.Batch, routes router.Routes) error {
	if err := choice.CheckBatch(r.spec, batch, routes); err != nil {
		return fmt.Errorf("route: layer %d: %w", batch.Layer, err)
	}
	layer := choice.Hash(choice.Hash(0, r.seed), uint64(batch.Layer))
	for row, token := range batch.Tokens {
		h := choice.Hash(choice.Hash(layer, uint64(uint32(batch.Positions[row]))), uint64(uint32(token)))
		choice.Draw(routes.IDs[row*routes.K:(row+1)*routes.K], r.spec.Experts, h)
		choice.Even(routes.Weights[row*routes.K : (row+1)*routes.K])
	}
	return nil
}

// Close has nothing to release.
func (*Router) Close() error { return nil }

var _ router.Router = (*Router)(nil)
