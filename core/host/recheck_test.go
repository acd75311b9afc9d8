package host

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/resilience"
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

// TestSample: as many calls are kept as the rate says, with rows of their own, and none when nobody has time for them.
func TestSample(t *testing.T) {
	staged(t, pair(2), func(s *stage) {
		c := s.l.recheck
		draw := 0.5
		s.g.draw = func() float64 { return draw }
		call := rows(2)
		call.From = []int32{1, 0}
		call.Lane, call.Threads = 3, 2
		for _, rate := range []float64{0, 0.5} { // to be below it counts
			c.rate = rate
			if err := s.ask(context.Background(), call); err != nil || len(c.queue) != 0 {
				t.Fatalf("rate %g: %v, %d are to be repeated", rate, err, len(c.queue))
			}
		}
		draw = 0.49
		if err := s.ask(context.Background(), call); err != nil || len(c.queue) != 1 {
			t.Fatalf("%v, %d are to be repeated", err, len(c.queue))
		}
		answer := copied(call.Y, nil)
		clear(call.X.Data)
		clear(call.Y.Data)
		call.Segments[0].Rows = 9
		got := <-c.queue
		if got.call.From != nil || got.call.Lane != 0 || got.call.Threads != 1 || got.call.Segments[0].Rows != 2 || !got.again || got.replica != 0 || got.inc != s.actors[0].inc {
			t.Errorf("kept %+v", got)
		}
		want := got.call
		want.Y = tensor.NewMatrix(2, simHidden)
		compute(&want)
		if !sameBits(want.Y.Data, answer.Data) || !sameBits(got.y.Data, answer.Data) {
			t.Errorf("kept answer %v, its rows give %v, want %v", got.y.Data, want.Y.Data, answer.Data)
		}
		for range recheckQueue + 3 {
			if err := s.ask(context.Background(), rows(1)); err != nil {
				t.Fatal(err)
			}
		}
		if len(c.queue) != recheckQueue || c.skipped.Get() != 3 {
			t.Errorf("%d wait, %d were skipped", len(c.queue), c.skipped.Get())
		}
	})
}

// TestRecheck: whoever gave other bits than those who know is quarantined, and nobody else.
func TestRecheck(t *testing.T) {
	for name, c := range map[string]struct {
		replicas int
		twin     bool // the host can compute it
		here     bool // and does so where there is no second replica
		wrong    []int
		guilty   []int
		same     uint64
		other    uint64
		skipped  uint64
	}{
		"all right":                      {2, false, false, nil, nil, 1, 0, 0},
		"the first, the host knows":      {2, true, false, []int{0}, []int{0}, 0, 1, 0},
		"the second, the host knows":     {2, true, false, []int{1}, []int{1}, 0, 1, 0},
		"both, the host knows":           {2, true, false, []int{0, 1}, nil, 1, 0, 0}, // they lie alike: sampling alone can't tell
		"the first, a third one knows":   {3, false, false, []int{0}, []int{0}, 0, 1, 0},
		"the second, a third one knows":  {3, false, false, []int{1}, []int{1}, 0, 1, 0},
		"nobody knows":                   {2, false, false, []int{0}, []int{0, 1}, 0, 1, 0},
		"alone, and the host is asked":   {1, true, true, nil, nil, 1, 0, 0},
		"alone, and lies":                {1, true, true, []int{0}, []int{0}, 0, 1, 0},
		"alone, and the host is not":     {1, true, false, []int{0}, nil, 0, 0, 1},
		"alone, and the host can't":      {1, false, true, []int{0}, nil, 0, 0, 1},
		"the second does not answer any": {2, false, false, []int{-1}, nil, 0, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			staged(t, pair(c.replicas), func(s *stage) {
				checks := s.l.recheck
				checks.here, checks.rate = c.here, 1
				made := 0
				checks.make = func(context.Context, *group) (*twin, error) {
					if made++; c.twin {
						return &twin{expert: witness{}}, nil
					}
					return nil, errNoTwin
				}
				for _, r := range c.wrong {
					if r < 0 {
						s.actors[1].plays(line{err: errGarbled})
						continue
					}
					s.actors[r].plays(line{wrong: true})
				}
				if err := s.g.Start(context.Background(), rows(2)).Wait(); err != nil {
					t.Fatal(err)
				}
				checks.check(context.Background(), <-checks.queue)
				for r := range s.g.replicas {
					guilty := false
					for _, g := range c.guilty {
						guilty = guilty || g == r
					}
					if held := s.g.replicas[r].barred.Load() != nil; held != guilty {
						t.Errorf("replica %d in quarantine: %v, want %v", r, held, guilty)
					}
				}
				if checks.same.Get() != c.same || checks.other.Get() != c.other || checks.skipped.Get() != c.skipped {
					t.Errorf("same %d, different %d, skipped %d", checks.same.Get(), checks.other.Get(), checks.skipped.Get())
				}
				if made > 1 || made == 0 && c.other > 0 && c.replicas > 1 {
					t.Errorf("the host was asked for a version of its own %d times", made)
				}
				if len(checks.queue) != 0 {
					t.Error("a repetition is to be repeated itself")
				}
			})
		})
	}
}

// TestThirdOpinion: the third of three is asked, whoever was the first: one that lies twice must not bear itself out.
func TestThirdOpinion(t *testing.T) {
	staged(t, pair(3), func(s *stage) {
		s.l.recheck.rate = 1
		r, inc := s.g.begin(0) // so the call goes to the next one
		s.actors[1].plays(line{wrong: true}, line{wrong: true})
		if err := s.g.Start(context.Background(), rows(2)).Wait(); err != nil {
			t.Fatal(err)
		}
		s.g.end(r, inc, resilience.Answered, time.Millisecond, 1)
		s.l.recheck.check(context.Background(), <-s.l.recheck.queue)
		for r := range 3 {
			if held := s.g.replicas[r].barred.Load() != nil; held != (r == 1) {
				t.Errorf("replica %d in quarantine: %v", r, held)
			}
			if n := s.actors[r].calls(); n != 1 {
				t.Errorf("replica %d was asked %d times, want once each", r, n)
			}
		}
	})
}

// TestTwinIsMadeOnce: what the host can't compute it does not try to make for each call.
func TestTwinIsMadeOnce(t *testing.T) {
	for _, able := range []bool{true, false} {
		staged(t, pair(1), func(s *stage) {
			checks := s.l.recheck
			checks.here, checks.rate = true, 1
			made := 0
			checks.make = func(context.Context, *group) (*twin, error) {
				if made++; able {
					return &twin{expert: witness{}}, nil
				}
				return nil, errNoTwin
			}
			for range 3 {
				if err := s.ask(context.Background(), rows(1)); err != nil {
					t.Fatal(err)
				}
				checks.check(context.Background(), <-checks.queue)
			}
			if made != 1 {
				t.Errorf("able %v: made %d times", able, made)
			}
		})
	}
}

// A repetition that takes long is waited for until its time is up.
func TestRecheckWaits(t *testing.T) {
	staged(t, pair(2), func(s *stage) {
		checks := s.l.recheck
		checks.rate = 1
		s.actors[1].plays(line{after: 3 * time.Second}, never)
		for _, want := range []time.Duration{3 * time.Second, recheckLimit} {
			if err := s.ask(context.Background(), rows(1)); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), recheckLimit)
			began := time.Now()
			checks.check(ctx, <-checks.queue)
			cancel()
			if took := time.Since(began); took < want || took > want+glanceEvery {
				t.Errorf("took %v, want %v", took, want)
			}
		}
		if checks.same.Get() != 1 || checks.skipped.Get() != 1 {
			t.Errorf("same %d, skipped %d", checks.same.Get(), checks.skipped.Get())
		}
		if h := s.l.heat.units[0].calls.Load(); h != 2 {
			t.Errorf("%d calls count as work for clients, want 2", h)
		}
	})
}

// TestShadow: of the calls of the group that is being tried as many as its share are repeated by the new version, and compared.
func TestShadow(t *testing.T) {
	for name, c := range map[string]struct {
		draw  float64 // the share is a half
		seat  string
		state string
		self  bool // the new version's own calls
		want  bool
	}{
		"within the share": {0.49, "e0", "running", false, true},
		"at its end":       {0.5, "e0", "running", false, false},
		"another group":    {0.49, "e1", "running", false, false},
		"over":             {0.49, "e0", "promoted", false, false},
		"itself":           {0.49, "e0", "running", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			staged(t, pair(1), func(s *stage) {
				fresh, err := newGroup(2, pair(1), s.l)
				if err != nil {
					t.Fatal(err)
				}
				a := newActor(9)
				a.plays(line{wrong: true})
				fresh.now(0, a.inc)
				trial := &trialOf{seat: &seat{name: c.seat}, fresh: fresh, share: 0.5, state: c.state, live: Difference{Same: true, Cosine: 1}}
				if c.self {
					trial.fresh = s.g
				}
				checks := s.l.recheck
				checks.trial.Store(trial)
				s.g.draw = func() float64 { return c.draw }
				ctx, cancel := context.WithCancel(context.Background())
				var wg sync.WaitGroup
				wg.Go(func() { checks.run(ctx) })
				if err := s.ask(context.Background(), rows(2)); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Second)
				cancel()
				wg.Wait()
				if got := a.calls() == 1; got != c.want {
					t.Errorf("the new version has had %d calls", a.calls())
				}
				if got := trial.describe(); got.Checked == 1 != c.want || got.Live.Same == c.want {
					t.Errorf("compared %d, the same %v", got.Checked, got.Live.Same)
				}
				if checks.same.Get()+checks.other.Get() != 0 {
					t.Error("it was repeated by the group itself, too")
				}
			})
		})
	}
}
