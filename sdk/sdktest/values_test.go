package sdktest_test

import (
	"cmp"
	"context"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/sdktest"
)

// nearest asks for hidden states and routes by them.
type nearest struct{}

func (nearest) Info() sdk.Info    { return sdk.Info{Name: "nearest", Kind: sdk.KindRouter} }
func (nearest) WantsHidden() bool { return true }
func (nearest) Close() error      { return nil }
func (nearest) Configure(_ context.Context, s router.Spec) error {
	if s.TopK > s.Experts {
		return sdk.ErrInvalid
	}
	return nil
}

func (nearest) Route(_ context.Context, b router.Batch, r router.Routes) error {
	for row := range b.Logits.Rows {
		ids := make([]int32, b.Logits.Cols)
		for i := range ids {
			ids[i] = int32(i)
		}
		h := b.Hidden.Row(row)
		slices.SortStableFunc(ids, func(x, y int32) int { return cmp.Compare(h[y], h[x]) })
		for k := range r.K {
			r.IDs[row*r.K+k], r.Weights[row*r.K+k] = ids[k], h[ids[k]]
		}
	}
	return nil
}

func TestHiddenRouter(t *testing.T) {
	sdktest.TestRouter(t, func() router.Router { return nearest{} })
}

// attentive is nearest as a router that is told how its routes turn out.
type attentive struct{ nearest }

func (attentive) Info() sdk.Info {
	return sdk.Info{Name: "attentive", Kind: sdk.KindRouter, Capabilities: []string{sdk.CapLoadDependent}}
}
func (attentive) Observes() bool                                    { return true }
func (attentive) Observe(context.Context, router.Observation) error { return nil }

func TestObserver(t *testing.T) {
	sdktest.TestRouter(t, func() router.Router { return attentive{} })
}
