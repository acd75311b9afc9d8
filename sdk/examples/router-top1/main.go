// Command router-top1 is a router plugin on one page: every row goes to the expert with the largest logit, and the
// other places that the model wants filled get the next ones with weight 0. It shows authors what a plugin needs, and refuses
// to choose more experts than there are.
package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/serve"
)

func main() { serve.Router(&top1{}) }

type top1 struct{ spec router.Spec }

func (t *top1) Info() sdk.Info {
	return sdk.Info{Name: "top1", Kind: sdk.KindRouter, Version: "1"}
}

func (t *top1) Configure(_ context.Context, spec router.Spec) error {
	if spec.TopK < 1 || spec.TopK > spec.Experts {
		return fmt.Errorf("top %d of %d experts: %w", spec.TopK, spec.Experts, sdk.ErrInvalid)
	}
	t.spec = spec
	return nil
}

func (t *top1) Route(ctx context.Context, b router.Batch, r router.Routes) error {
	if b.Logits.Cols != t.spec.Experts {
		return fmt.Errorf("logits of %d experts, want %d: %w", b.Logits.Cols, t.spec.Experts, sdk.ErrInvalid)
	}
	order := make([]int32, b.Logits.Cols)
	for row := range b.Logits.Rows {
		if err := ctx.Err(); err != nil {
			return err
		}
		logits := b.Logits.Row(row)
		for i := range order {
			order[i] = int32(i)
		}
		slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(logits[b], logits[a]) }) // ties: the lower id
		for k := range r.K {
			r.IDs[row*r.K+k], r.Weights[row*r.K+k] = order[k], 0
		}
		r.Weights[row*r.K] = 1
	}
	return nil
}

func (t *top1) Close() error { return nil }
