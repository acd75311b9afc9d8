package moe

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

// Watcher sees the output of an expert for one row and the weight with which it is added. A row's experts come one after
// the other, ascending; y is only lent.
type Watcher func(layer, expert int, weight float32, y []float32)

// Watch shows all outputs that are combined from now on, for measurements. It is called before the first Forward.
func (l *Layer) Watch(w Watcher) { l.watch = w }

// show tells the watcher of the rows of one work, but those of skip, which other work answers.
func (l *Layer) show(layer int, w *work, skip []int32) {
	if l.watch == nil {
		return
	}
	k := w.routes.K
	for n, row := range w.of {
		if _, other := slices.BinarySearch(skip, row); other {
			continue
		}
		for i, e := range slices.Sorted(slices.Values(w.routes.IDs[n*k : (n+1)*k])) {
			at := int(w.plan.from[n*k+i])
			l.watch(layer, int(e), w.plan.weight[n*k+i], w.y[at*l.width:(at+1)*l.width])
		}
	}
}

// Switch is a Group that can be switched off, to measure what its loss does.
type Switch struct {
	Group
	off atomic.Bool
}

// Off switches the group off or on.
func (s *Switch) Off(off bool) { s.off.Store(off) }

// Start implements Group.
func (s *Switch) Start(ctx context.Context, call *expert.Call) expert.Pending {
	if s.off.Load() {
		return switchedOff{}
	}
	return s.Group.Start(ctx, call)
}

// switchedOff is a call on a group that is switched off.
type switchedOff struct{}

var errOff = fmt.Errorf("the expert group is switched off: %w", sdk.ErrUnavailable)

func (switchedOff) Wait() error { return errOff }

var _ Group = (*Switch)(nil)
