package client_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// inside is an expert and a router in this process.
type inside struct {
	value float32
	id    int32
	err   error
}

func (i inside) Info() sdk.Info                                  { return sdk.Info{Name: "inside"} }
func (i inside) Load(context.Context, expert.Spec) error         { return nil }
func (i inside) Configure(context.Context, router.Spec) error    { return nil }
func (i inside) Close() error                                    { return nil }
func (i inside) Forward(_ context.Context, c *expert.Call) error { c.Y.Data[0] = i.value; return i.err }
func (i inside) Route(_ context.Context, _ router.Batch, r router.Routes) error {
	r.IDs[0], r.Weights[0] = i.id, i.value
	return i.err
}

// A local value checks, fails and gives up as a remote one does.
func TestLocal(t *testing.T) {
	ended, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	bad := call(2, 1)
	bad.Segments[0].Rows++
	batch := router.Batch{Logits: tensor.NewMatrix(1, 4), Tokens: []int32{1}, Positions: []int32{0}}
	short := batch
	short.Tokens = nil
	for name, tt := range map[string]struct {
		value inside
		ctx   context.Context
		call  *expert.Call
		batch router.Batch
		want  error
	}{
		"good":     {inside{value: 3, id: 2}, t.Context(), call(2, 1), batch, nil},
		"nan":      {inside{value: float32(math.NaN())}, t.Context(), call(2, 1), batch, sdk.ErrInvalidOutput},
		"input":    {inside{}, t.Context(), bad, short, sdk.ErrInvalid},
		"late":     {inside{}, ended, call(2, 1), batch, sdk.ErrDeadline},
		"deadline": {inside{err: context.DeadlineExceeded}, t.Context(), call(2, 1), batch, sdk.ErrDeadline},
		"own":      {inside{err: sdk.ErrOverloaded}, t.Context(), call(2, 1), batch, sdk.ErrOverloaded},
	} {
		e, r := client.Local(tt.value), client.LocalRouter(tt.value)
		routes := router.Routes{K: 1, IDs: make([]int32, 1), Weights: make([]float32, 1)}
		for way, err := range map[string]error{
			"forward": e.Forward(tt.ctx, tt.call), "start": e.Start(tt.ctx, tt.call).Wait(), "route": r.Route(tt.ctx, tt.batch, routes),
		} {
			if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Errorf("%s, %s: got %v, want %v", name, way, err, tt.want)
			}
		}
	}
	routes := router.Routes{K: 1, IDs: make([]int32, 1), Weights: make([]float32, 1)}
	if err := client.LocalRouter(inside{id: 4}).Route(t.Context(), batch, routes); !errors.Is(err, sdk.ErrInvalidOutput) {
		t.Errorf("expert 4 of 4: %v", err)
	}
	if client.LocalRouter(inside{}).WantsHidden() {
		t.Error("wants hidden states")
	}
	if r := client.LocalRouter(inside{}); r.Observes() || !errors.Is(r.Observe(t.Context(), router.Observation{}), sdk.ErrUnsupported) {
		t.Error("is told what it does not ask for")
	}
}
