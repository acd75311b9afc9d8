package host

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// closing is the host's own version of a group, which says when it is let go.
type closing struct {
	witness
	open *atomic.Int64
}

func (c closing) Close() error { c.open.Add(-1); return nil }

// TestTwinsEndWithTheirGroups: a group that has been replaced leaves nothing in the host, however often that happens.
func TestTwinsEndWithTheirGroups(t *testing.T) {
	growing(t, Budget{}, []GroupSpec{spec("e0", 1, 1)}, func(w *world, h *Host) {
		var open atomic.Int64
		c := h.launch.recheck
		c.rate, c.here = 1, true
		c.make = func(context.Context, *group) (*twin, error) {
			open.Add(1)
			return &twin{expert: closing{open: &open}}, nil
		}
		h.fleet.wg.Go(func() { c.run(h.fleet.life) })
		ask := func() {
			call := &expert.Call{Threads: 1, Segments: []expert.Segment{{Rows: 1}}, X: tensor.NewMatrix(1, simHidden), Y: tensor.NewMatrix(1, simHidden)}
			if err := h.groups[0].Start(context.Background(), call).Wait(); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
		}
		for range 5 {
			ask()
			old := h.groups[0].own()
			fresh := w.group(0, h.launch, spec("e0", 1, 1))
			if err := fresh.awaitStarted(context.Background()); err != nil {
				t.Fatal(err)
			}
			h.editions.shift(one(h.groups[0], fresh, true))
			h.fleet.dismiss(old)
		}
		ask()
		if n := open.Load(); n != 1 {
			t.Errorf("%d twins are open, and there is one group", n)
		}
		h.fleet.stop()
		time.Sleep(time.Second)
		if n := open.Load(); n != 0 {
			t.Errorf("%d twins outlive the host", n)
		}
	})
}
