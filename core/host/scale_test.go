package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/scaling"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// growing is a host over fake processes in virtual time, whose groups follow their load, while f runs. Nothing goes wrong in it
// by itself.
func growing(t *testing.T, budget Budget, specs []GroupSpec, f func(w *world, h *Host)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, seed: 1, began: time.Now(), told: newNotifier(), counts: map[string]int{}, pairs: map[[2]State]int{}, peaceful: true, slowly: true}
		fl := &fleet{shards: &shardSet{}, children: w.told}
		fl.life, fl.stop = context.WithCancel(context.Background())
		o := Options{
			StartTimeout: 3 * time.Second, MaxRetries: 2, Experts: ExpertShape{Hidden: simHidden}, Groups: specs, Budget: budget,
			Scaling: scaling.Rules{Busy: 0.75, Window: 10 * time.Second, CoolDown: 30 * time.Second},
			Metrics: metrics.New(), Log: slog.New(slog.DiscardHandler),
		}
		l := &launcher{fleet: fl, shards: fl.shards, options: o}
		l.recheck = newRecheck(o, nil)
		h := &Host{fleet: fl, launch: l, log: o.Log}
		for n, spec := range specs {
			h.groups = append(h.groups, newSeat(n, spec.Name, w.group(n, l, spec)))
		}
		if err := fl.awaitReady(fl.life); err != nil {
			t.Fatal(err)
		}
		h.editions = newEditions(h.groups, nil, newPlaces(nil))
		h.scale = newScale(o, h.groups, footprint{})
		fl.wg.Go(func() { h.follow(fl.life) })
		f(w, h)
		fl.stop()
		fl.wg.Wait()
	})
}

// load makes calls on a group for so long, so many at once, and holds every answer against what is right.
func (w *world) load(g *group, clients int, long time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			rng := w.stream(9, uint64(c), w.now())
			for ctx.Err() == nil {
				call := randomCall(g, rng)
				if err := g.Start(context.Background(), call).Wait(); err != nil {
					w.t.Errorf("after %v: %v", time.Since(w.began), err)
				}
				w.mu.Lock()
				w.rightly(g, call)
				w.mu.Unlock()
				time.Sleep(time.Millisecond)
			}
		})
	}
	wg.Wait()
}

func spec(name string, replicas, most int) GroupSpec {
	return GroupSpec{Name: name, Replicas: replicas, MaxReplicas: most, Units: []expert.Unit{{}}, Packed: &weights.Variant{}}
}

// TestFollowsLoad: load rises and falls for a virtual day. The replicas follow, each phase has them settle, they stay within
// their bounds and the budget of processes, and every call gets its right answer.
func TestFollowsLoad(t *testing.T) {
	const budget = 6
	growing(t, Budget{Processes: budget}, []GroupSpec{spec("e0", 1, 4), spec("e1", 1, 3), spec("e2", 2, 2)}, func(w *world, h *Host) {
		groups := []*group{}
		for _, s := range h.groups {
			groups = append(groups, s.table.Load().current.(*group))
		}
		stop, watch := make(chan struct{}), sync.WaitGroup{}
		most := 0
		watch.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(3 * time.Second):
				}
				all := 0
				for n, st := range h.Scaling() {
					all += groups[n].size()
					if st.Wanted < st.Min || st.Wanted > st.Max {
						t.Errorf("after %v: %+v", time.Since(w.began), st)
					}
				}
				if most = max(most, all); all > budget {
					t.Errorf("after %v: %d processes", time.Since(w.began), all)
				}
			}
		})
		rng := rand.New(rand.NewPCG(1, 4))
		seen := map[string]bool{}
		phases := 6
		if raced {
			phases = 2
		}
		for phase := range phases {
			clients := []int{rng.IntN(6), rng.IntN(4), rng.IntN(3)}
			if phase == 0 {
				clients = []int{6, 4, 0}
			}
			changes := w.starts()
			var wg sync.WaitGroup
			for n, g := range groups {
				wg.Go(func() { w.load(g, clients[n], 3*time.Minute); w.load(g, clients[n], 2*time.Minute) })
			}
			time.Sleep(4 * time.Minute)
			settled := fmt.Sprint(sizes(groups))
			wg.Wait()
			if now := fmt.Sprint(sizes(groups)); now != settled {
				t.Errorf("phase %d, clients %v: %s replicas became %s", phase, clients, settled, now)
			}
			if n := w.starts() - changes; n > budget {
				t.Errorf("phase %d: %d processes were started", phase, n)
			}
			seen[settled] = true
		}
		time.Sleep(20 * time.Minute) // nobody asks
		if got := fmt.Sprint(sizes(groups)); got != "[1 1 2]" {
			t.Errorf("without load: %s", got)
		}
		close(stop)
		watch.Wait()
		if len(seen) < min(phases, 2) || most != budget {
			t.Errorf("seen %v, at most %d processes", seen, most)
		}
		if st := h.Scaling()[0]; st.Last == nil || !strings.Contains(st.Last.Why, "the others would be busy") {
			t.Errorf("%+v", st.Last)
		}
	})
}

func sizes(groups []*group) (out []int) {
	for _, g := range groups {
		out = append(out, g.size())
	}
	return out
}

func (w *world) starts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts["start"]
}

// A replica that leaves finishes what it has begun, and its process ends then; the one that comes is asked only when it has
// passed its test.
func TestShrinkFinishesCalls(t *testing.T) {
	growing(t, Budget{}, []GroupSpec{spec("e0", 1, 2)}, func(w *world, h *Host) {
		g := h.groups[0].table.Load().current.(*group)
		if _, err := h.Scale("e0", 2); err != nil {
			t.Fatal(err)
		}
		if n := len(h.Status()); n != 2 {
			t.Fatalf("%d processes", n)
		}
		_, first := g.begin(0)
		r, second := g.begin(0)
		if r != 1 || first == second {
			t.Fatalf("the second call is on replica %d", r)
		}
		var done atomic.Bool
		left := make(chan error)
		go func() {
			_, err := h.Scale("e0", 1)
			if !done.Load() {
				t.Error("the replica has gone before its call had ended")
			}
			left <- err
		}()
		time.Sleep(5 * time.Second)
		if n := len(h.Status()); n != 2 {
			t.Errorf("%d processes while a call is under way", n)
		}
		for range 4 {
			if r, _ := g.begin(0); r != 0 {
				t.Errorf("a new call is on replica %d", r)
			}
			g.end(0, first, 0, time.Millisecond, 1)
		}
		done.Store(true)
		g.end(1, second, 0, time.Millisecond, 1)
		if err := <-left; err != nil {
			t.Error(err)
		}
		if list := h.Status(); len(list) != 1 || list[0].Replica != 0 || list[0].Restarts != 0 {
			t.Errorf("%+v", list)
		}
		g.end(0, first, 0, time.Millisecond, 1)
		if st := h.Scaling()[0]; !st.Pinned || st.Wanted != 1 || st.Ready != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// A replica that can't be started is given up: the group stays what it was, and says why.
func TestGrowFails(t *testing.T) {
	growing(t, Budget{Processes: 3}, []GroupSpec{spec("e0", 1, 3)}, func(w *world, h *Host) {
		w.mu.Lock()
		w.sites[1].bad, w.sites[1].how = 1000, startWrong
		w.sites[2].bad, w.sites[2].how = 1000, startMissing
		w.mu.Unlock()
		if _, err := h.Scale("e0", 2); !errors.Is(err, errWrongAnswer) {
			t.Errorf("%v", err)
		}
		st := h.Scaling()[0]
		if st.Wanted != 1 || st.Ready != 1 || st.Last == nil || !strings.Contains(st.Last.Failed, "known-answer test") {
			t.Errorf("%+v, last change %+v", st, st.Last)
		}
		if n := h.fleet.size(); n != 1 {
			t.Errorf("%d processes are counted", n)
		}
		call := &expert.Call{Threads: 1, Segments: []expert.Segment{{Rows: 1}}, X: tensor.NewMatrix(1, simHidden), Y: tensor.NewMatrix(1, simHidden)}
		if err := h.groups[0].Start(context.Background(), call).Wait(); err != nil {
			t.Error(err)
		}
		for _, n := range []int{0, 4, -1} {
			if _, err := h.Scale("e0", n); (err == nil) != (n == 0) || err != nil && !errors.Is(err, sdk.ErrInvalid) {
				t.Errorf("%d replicas: %v", n, err)
			}
		}
		if _, err := h.Scale("e9", 1); !errors.Is(err, sdk.ErrNotFound) {
			t.Errorf("a group that isn't there: %v", err)
		}
	})
}

// While a group changes its size, faults have it restart as ever; here its only other replica dies.
func TestShrinkMeetsDeath(t *testing.T) {
	growing(t, Budget{}, []GroupSpec{spec("e0", 1, 2)}, func(w *world, h *Host) {
		g := h.groups[0].table.Load().current.(*group)
		if _, err := h.Scale("e0", 2); err != nil {
			t.Fatal(err)
		}
		_, _ = g.begin(0)
		_, busy := g.begin(0)
		go func() {
			time.Sleep(time.Second)
			g.living[0].proc.(*fake).exit(client.Death{Signal: "SIGKILL"})
			time.Sleep(time.Second)
			g.end(1, busy, 0, time.Millisecond, 1)
		}()
		if _, err := h.Scale("e0", 1); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Second)
		if list := h.Status(); len(list) != 1 || list[0].Replica != 0 || list[0].State != string(StateReady) || list[0].Restarts != 1 {
			t.Errorf("%+v", list)
		}
	})
}

func TestDemand(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	d := newDemand(2, at(0))
	d.slots, d.room = []int{1, 1}, 2
	d.begin(at(0), 0)
	d.begin(at(50), 0) // waits behind the first one
	d.begin(at(50), 1)
	d.end(at(60), 0)
	if load, queue := d.take(at(100)); load != 1.5 || queue != 0 { // replica 0 for 100 ms, replica 1 for 50 ms
		t.Errorf("load %g, queue %v", load, queue)
	}
	d.begin(at(110), 1)
	d.wait(at(120), 1)
	if load, queue := d.take(at(200)); load != 2 || queue != 90*time.Millisecond {
		t.Errorf("load %g, queue %v", load, queue)
	}
	d.wait(at(210), -1)
	d.end(at(220), 0)
	d.end(at(230), 1)
	d.end(at(250), 1)
	if load, queue := d.take(at(300)); load != 0.7 || queue != 0 {
		t.Errorf("load %g, queue %v", load, queue)
	}
}

// Whoever shares a seat for a while, the former processes behind new ones or a guest, the group's load and processes are seen.
func TestMeasuresSharedSeats(t *testing.T) {
	growing(t, Budget{}, []GroupSpec{spec("e0", 1, 2)}, func(_ *world, h *Host) {
		s := h.groups[0]
		g := s.own()
		for name, m := range map[string]member{"new processes": &backed{group: g, behind: g}, "a guest": &lent{group: g, back: g}} {
			h.editions.shift(one(s, m, true))
			time.Sleep(time.Minute) // follow looks
			if st := h.Scaling(); len(st) != 1 || st[0].Ready != 1 || s.own() != g {
				t.Errorf("%s: %+v", name, st)
			}
			_, err := s.group()
			if guest := name == "a guest"; (err != nil) != guest {
				t.Errorf("%s: replacing the group: %v", name, err)
			}
			h.editions.shift(one(s, g, true))
		}
	})
}
