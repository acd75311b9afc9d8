package sdktest_test

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"
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

// Routers with one fault each fail the check that is about it.
func TestRouterFaults(t *testing.T) {
	for name, fault := range map[string][2]string{
		"distinct":   {"order[k], 0", "order[0], 0"},
		"other rows": {"r.Weights[row*r.K] = 1", "r.Weights[row*r.K] = float32(b.Logits.Rows)"},
		"same batch": {"r.Weights[row*r.K] = 1", "t.spec.TopK++; r.Weights[row*r.K] = float32(t.spec.TopK)"},
		"finite":     {"order[k], 0", "order[k], float32(1/float64(k-1))"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := sdktest.Binary(t.Context(), mutant(t, "router-top1", fault[0], fault[1]), &out); err == nil {
				t.Fatalf("passes:\n%s", out.String())
			}
			for line := range strings.Lines(out.String()) {
				if strings.HasPrefix(line, "FAIL") && strings.Contains(line, name) {
					return
				}
			}
			t.Errorf("no failed check is about %q:\n%s", name, out.String())
		})
	}
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
