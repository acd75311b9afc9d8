package host

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// TestBehind: whoever stands behind new processes, or behind a guest, takes the calls that those do not answer, also calls that wait
// for nobody's restart, and is named as who has answered.
func TestBehind(t *testing.T) {
	growing(t, Budget{}, []GroupSpec{spec("e0", 1, 1), spec("e1", 1, 1)}, func(w *world, h *Host) {
		former, front := h.groups[0].own(), h.groups[1].own()
		w.mu.Lock()
		for _, s := range w.sites {
			if s.group == front {
				s.bad, s.how = 1000, startMissing
			}
		}
		w.mu.Unlock()
		front.processOf(0).proc.(*fake).exit(client.Death{Signal: "SIGKILL"})
		time.Sleep(time.Second)
		if err := front.Hopeless(); !errors.Is(err, sdk.ErrUnavailable) {
			t.Fatalf("the new processes: %v", err)
		}
		for name, m := range map[string]member{
			"new processes": &backed{group: front, behind: former},
			"a guest":       &lent{group: front, back: former, patience: time.Second},
		} {
			s := newSeat(0, "e0", m)
			for how, start := range map[string]func(context.Context, *expert.Call) expert.Pending{"start": s.Start, "start now": s.StartNow} {
				call := &expert.Call{Threads: 1, Segments: []expert.Segment{{Rows: 1}}, X: tensor.NewMatrix(1, simHidden), Y: tensor.NewMatrix(1, simHidden)}
				var by moe.Answer
				pending := start(context.Background(), call)
				if a, ok := pending.(moe.Attributable); ok {
					a.Note(&by)
				}
				if err := pending.Wait(); err != nil || by.Group != "e0" {
					t.Errorf("%s, %s: %v, answered by %+v", name, how, err, by)
				}
			}
			if err := errors.Join(s.Available(), s.Hopeless(), s.available()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestGuestStandsStill: a guest at a breakpoint has its patience and no more, however the call was made.
func TestGuestStandsStill(t *testing.T) {
	growing(t, Budget{}, []GroupSpec{spec("e0", 1, 1), spec("e1", 1, 1)}, func(w *world, h *Host) {
		former, guest := h.groups[0].own(), h.groups[1].own()
		s := newSeat(0, "e0", &lent{group: guest, back: former, patience: time.Second})
		for how, start := range map[string]func(context.Context, *expert.Call) expert.Pending{"start": s.Start, "start now": s.StartNow} {
			call := &expert.Call{Threads: 1, Segments: []expert.Segment{{Rows: 1}}, X: tensor.NewMatrix(1, simHidden), Y: tensor.NewMatrix(1, simHidden)}
			began, process := time.Now(), guest.processOf(0).proc.(*fake)
			pending := start(context.Background(), call)
			process.halt(false) // it has the call, and takes no other step
			if err := pending.Wait(); err != nil || time.Since(began) > 2*time.Second {
				t.Errorf("%s: %v after %v", how, err, time.Since(began))
			}
			process.goOn()
		}
	})
}
