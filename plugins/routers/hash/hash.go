// Package hash is the router of Hash Layers (Roller et al. 2021, "Hash Layers For Large Sparse Models"), a baseline
// without learning: a token's experts are a fixed, seeded hash of the layer and the token id, whatever the gate says.
// The k experts are distinct, drawn evenly from all, and each has the weight 1/k. A row that is no token (id -1) is
// hashed by the bits of its logits instead.
//
// pimoe-router-hash serves it. It is row-independent. Parameters: seed (whole number, default 0). It refuses any other.
package hash

import (
	"context"
	"fmt"
	"math"

	"github.com/pimoe/pimoe/plugins/routers/internal/choice"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

// Router routes by token.
type Router struct {
	spec router.Spec
	seed uint64
}

// New makes a router, to be configured.
func New() *Router { return &Router{} }

// Info names the router.
func (*Router) Info() sdk.Info { return sdk.Info{Name: "hash", Kind: sdk.KindRouter, Version: "1"} }

// Configure takes the number of experts and the seed.
func (r *Router) Configure(_ context.Context, spec router.Spec) error {
	spec, err := choice.Take(spec, "seed")
	if err != nil {
		return fmt.Errorf("configure router hash: %w", err)
	}
	seed, err := choice.Seed(spec.Params)
	if err != nil {
		return fmt.Errorf("configure router hash: %w", err)
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
		h := choice.Hash(layer, uint64(uint32(token)))
		if token < 0 {
			for _, v := range batch.Logits.Row(row) {
				h = choice.Hash(h, uint64(math.Float32bits(v)))
			}
		}
		choice.Draw(routes.IDs[row*routes.K:(row+1)*routes.K], r.spec.Experts, h)
		choice.Even(routes.Weights[row*routes.K : (row+1)*routes.K])
	}
	return nil
}

// Close has nothing to release.
func (*Router) Close() error { return nil }

var _ router.Router = (*Router)(nil)
