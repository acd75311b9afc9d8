package host

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/resilience"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// A call that is answered is counted once, for its replica, and whoever asks learns who has answered.
func TestCall(t *testing.T) {
	staged(t, pair(2), func(s *stage) {
		s.l.seen.wanted.Store(true)
		s.l.seen.step(Outcome{})
		call := rows(3)
		p := s.g.Start(context.Background(), call)
		var by moe.Answer
		p.(moe.Attributable).Note(&by)
		p.(moe.Sleeper).Wake(false)
		p.(moe.Sleeper).Wake(true)
		if err := p.Wait(); err != nil {
			t.Fatal(err)
		}
		s.counted("a call", tally{}, tally{calls: 1, rows: 3})
		want := moe.Answer{Group: "e0", PID: 1, Class: "f32", Program: "sha256:1", Version: "1.2", Attempts: 1, Took: time.Millisecond}
		if by != want {
			t.Errorf("answered by %+v, want %+v", by, want)
		}
		first := s.actors[0]
		if len(first.woken) != 2 || first.woken[0] || !first.woken[1] {
			t.Errorf("woken: %v", first.woken)
		}
		if !first.inc.served.Load() || s.actors[1].inc.served.Load() {
			t.Error("of two processes it is not the first that has served")
		}
		if h := &s.l.heat.units[0]; h.rows.Load() != 3 || h.calls.Load() != 1 || s.l.heat.units[1].calls.Load() != 0 {
			t.Errorf("units have done %d rows in %d calls", h.rows.Load(), h.calls.Load())
		}
		time.Sleep(observeEvery)
		s.l.seen.step(Outcome{})
		load := router.Load{Rows: 3, Busy: time.Millisecond}
		if o := <-s.l.seen.ready; len(o.Loads) != 1 || o.Loads[0] != load {
			t.Errorf("a router that observes is told of %+v, want %+v", o.Loads, load)
		}
		var stats strings.Builder
		s.l.options.Metrics.Write(&stats)
		for _, line := range []string{
			`pimoe_expert_calls_total{group="e0",replica="0"} 1`, `pimoe_expert_rows_total{group="e0",replica="0"} 3`,
			`pimoe_expert_call_seconds_count{group="e0",replica="0"} 1`, `pimoe_expert_calls_total{group="e0",replica="1"} 0`,
		} {
			if !strings.Contains(stats.String(), line+"\n") {
				t.Errorf("no %s in\n%s", line, stats.String())
			}
		}
	})
}

// What one process fails at another one does: the next call there, and the failed one is not asked again.
func TestCallFailsOver(t *testing.T) {
	for name, c := range map[string]struct {
		line    line
		verdict string // on the process
	}{
		"death":       {line{dies: true}, ""},
		"bad answer":  {line{err: errGarbled}, "gave an invalid answer"},
		"refusal":     {line{err: errRefused}, "gave an invalid answer"},
		"unavailable": {line{err: errBusy}, "does not take calls"},
		"early end":   {line{err: sdk.ErrDeadline}, "gave an invalid answer"},
	} {
		t.Run(name, func(t *testing.T) {
			staged(t, pair(2), func(s *stage) {
				s.actors[0].plays(c.line)
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				call := rows(2)
				p := s.g.Start(ctx, call)
				var by moe.Answer
				p.(moe.Attributable).Note(&by)
				if err := p.Wait(); err != nil {
					t.Fatal(err)
				}
				s.counted(name, tally{}, tally{calls: 1, rows: 2, errors: 1, retries: 1})
				if by.Replica != 1 || by.PID != 2 || by.Attempts != 2 {
					t.Errorf("answered by %+v", by)
				}
				if s.actors[0].calls() != 1 || s.actors[1].calls() != 1 {
					t.Errorf("%d and %d calls", s.actors[0].calls(), s.actors[1].calls())
				}
				if got := s.actors[0].condemnedFor(); got != c.verdict {
					t.Errorf("verdict %q, want %q", got, c.verdict)
				}
				if s.actors[0].inc.served.Load() {
					t.Error("a process that has failed counts as one that has served")
				}
				if h := &s.l.heat.units[0]; h.errors.Load() != 1 || h.calls.Load() != 1 {
					t.Errorf("its unit has %d calls and %d errors", h.calls.Load(), h.errors.Load())
				}
			})
		})
	}
}

// A call ends with the last error when too many processes have failed at it, and then nobody is asked any more.
func TestCallGivesUp(t *testing.T) {
	for name, c := range map[string]struct {
		line  line
		tries int
		want  error
	}{
		"invalid answers": {line{err: errGarbled}, 3, sdk.ErrInvalidOutput},
		"deaths":          {line{dies: true}, 9, sdk.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			staged(t, pair(1), func(s *stage) {
				next := func() { // the supervisor's work
					for s.pids < 20 {
						a := s.actors[0]
						a.plays(c.line)
						select {
						case <-a.exited:
						case <-a.inc.condemn:
						case <-s.g.life.Done():
							return
						}
						time.Sleep(time.Millisecond)
						s.leave(0, sdk.ErrUnavailable, false)
						if s.g.state(0) == resilience.Quarantined {
							return
						}
						time.Sleep(time.Millisecond)
						s.enter(0)
					}
				}
				go next()
				synctest.Wait()
				err := s.ask(context.Background(), rows(1))
				if !errors.Is(err, c.want) || !strings.HasPrefix(err.Error(), "expert group e0: ") {
					t.Errorf("%v, want %v", err, c.want)
				}
				s.counted(name, tally{}, tally{errors: c.tries, retries: c.tries - 1})
				time.Sleep(time.Second)
			})
		})
	}
}

// Rows that no honest expert must be able to answer are nobody's fault, and are not sent to a second process.
func TestUnsoundRows(t *testing.T) {
	nan := float32(math.NaN())
	for name, c := range map[string]struct {
		value float32
		from  []int32 // of two rows; the second one has the value
		sound bool
	}{
		"at the limit":         {soundLimit, nil, true},
		"at the lower limit":   {-soundLimit, nil, true},
		"beyond it":            {soundLimit + 1, nil, false},
		"below it":             {-soundLimit - 1, nil, false},
		"a NaN":                {nan, nil, false},
		"a row that is not of": {nan, []int32{0, 0}, true},
		"a row that is of it":  {nan, []int32{0, 1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			staged(t, pair(2), func(s *stage) {
				call := rows(2)
				call.X.Row(1)[3], call.From = c.value, c.from
				s.actors[0].plays(line{err: errGarbled})
				err := s.g.Start(context.Background(), call).Wait()
				if c.sound {
					if err != nil || s.actors[0].condemnedFor() == "" {
						t.Errorf("err %v, verdict %q", err, s.actors[0].condemnedFor())
					}
					s.counted(name, tally{}, tally{calls: 1, rows: 2, errors: 1, retries: 1})
					return
				}
				if !errors.Is(err, errUnsound) || !errors.Is(err, sdk.ErrInvalidOutput) {
					t.Errorf("err %v", err)
				}
				if why := s.actors[0].condemnedFor(); why != "" || s.g.state(0) != resilience.Ready {
					t.Errorf("the process is condemned: %s; it is %s", why, s.g.state(0))
				}
				s.counted(name, tally{}, tally{errors: 1})
			})
		})
	}
}

// A caller that goes away, or whose time is up, says nothing about the process; nor does a process that says so when it is.
func TestCallersEnd(t *testing.T) {
	t.Run("goes away", func(t *testing.T) {
		staged(t, pair(2), func(s *stage) {
			s.actors[0].plays(never)
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(10*time.Millisecond, cancel)
			began := time.Now()
			err := s.ask(ctx, rows(1))
			if took := time.Since(began); !errors.Is(err, context.Canceled) || took < 10*time.Millisecond || took > hangLook {
				t.Errorf("%v after %v", err, took)
			}
			s.counted("a caller that goes", tally{}, tally{errors: 1})
			if s.actors[0].condemnedFor() != "" || s.l.heat.units[0].errors.Load() != 0 {
				t.Error("the process is blamed")
			}
		})
	})
	for name, c := range map[string]struct {
		left    time.Duration // when the process says that time is up
		verdict bool
	}{
		"a process that is right":            {deadlineSlack - 1, false},
		"a process that ends a call early":   {deadlineSlack, true},
		"a process that is in a great hurry": {time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			staged(t, pair(2), func(s *stage) {
				s.actors[0].plays(line{after: time.Millisecond, err: sdk.ErrDeadline})
				ctx, cancel := context.WithTimeout(context.Background(), c.left+time.Millisecond)
				defer cancel()
				err := s.ask(ctx, rows(1))
				if blamed := s.actors[0].condemnedFor() != ""; blamed != c.verdict || (err == nil) != c.verdict {
					t.Errorf("err %v, condemned %v, want %v", err, blamed, c.verdict)
				}
			})
		})
	}
}

// Only so many calls are repeated at once beside living processes; the next one waits until one of them has ended.
func TestRetriesWait(t *testing.T) {
	staged(t, pair(2), func(s *stage) {
		for range 10 { // what is saved
			s.g.set.Retry()
			s.g.set.EndRetry()
		}
		for range 3 {
			s.g.set.Retry()
		}
		s.actors[0].plays(line{err: errGarbled})
		time.AfterFunc(100*time.Millisecond, func() {
			s.g.mu.Lock()
			defer s.g.mu.Unlock()
			s.g.set.EndRetry()
		})
		began := time.Now()
		if err := s.ask(context.Background(), rows(1)); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 100*time.Millisecond || took > 110*time.Millisecond {
			t.Errorf("took %v", took)
		}
		s.enter(0).plays(line{err: errGarbled})
		s.g.set.Retry()
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if err := s.ask(ctx, rows(1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("no leave: %v", err)
		}
		for range 3 {
			s.g.set.EndRetry()
		}
	})
}

// Where no process is, a call waits for the next one; it ends when there will be none, and one that must not wait ends at once.
func TestCallsWaitForProcesses(t *testing.T) {
	staged(t, pair(1), func(s *stage) {
		s.leave(0, sdk.ErrUnavailable, false)
		p := s.g.Start(context.Background(), rows(1))
		p.(moe.Sleeper).Wake(true) // there is nobody yet
		time.AfterFunc(20*time.Millisecond, func() {
			if load, queue := s.g.asked(time.Now()); load != 0 || queue == 0 {
				t.Errorf("load %g, queue %v while a call waits", load, queue)
			}
			s.enter(0)
		})
		began := time.Now()
		if err := p.Wait(); err != nil || time.Since(began) != 21*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		s.counted("a call that waited", tally{}, tally{calls: 1, rows: 1})

		s.leave(0, errNotExecutable, false)
		var none *UnavailableError
		if err := s.g.StartNow(context.Background(), rows(1)).Wait(); !errors.As(err, &none) || none.Cause != "it can't be started: the plugin executable is missing or not executable" {
			t.Errorf("a call that does not wait: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		defer cancel()
		if err := s.ask(ctx, rows(1)); !errors.As(err, &none) || none.Cause == "" || ctx.Err() == nil {
			t.Errorf("time is up: %v", err)
		}
		time.AfterFunc(time.Millisecond, func() { s.leave(0, errBadShard, true) })
		began = time.Now()
		if err := s.ask(context.Background(), rows(1)); !errors.As(err, &none) || time.Since(began) != time.Millisecond {
			t.Errorf("hopeless: %v after %v", err, time.Since(began))
		}
	})
}

// A call that must not wait takes another process than the failed one, and ends where there is none.
func TestCallsThatDoNotWait(t *testing.T) {
	staged(t, pair(2), func(s *stage) {
		s.actors[0].plays(line{err: errGarbled})
		if err := s.g.StartNow(context.Background(), rows(1)).Wait(); err != nil {
			t.Error(err)
		}
		s.actors[1].plays(line{dies: true})
		var none *UnavailableError
		if err := s.g.StartNow(context.Background(), rows(1)).Wait(); !errors.As(err, &none) {
			t.Errorf("nobody is left: %v", err)
		}
		s.enter(0)
		s.enter(1)
	})
}

// hedging is a stage whose group knows that a call of a row takes a millisecond, so that one is hedged after two.
func hedging(t *testing.T, f func(s *stage, before tally)) {
	t.Helper()
	staged(t, pair(2), func(s *stage) {
		s.practise()
		for _, a := range s.actors {
			a.got, a.abandoned = nil, 0
		}
		f(s, s.tally())
	})
}

// TestHedge: the first answer of two counts, whoever gives it, and the other try is given up.
func TestHedge(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		first, second line
		working       bool // the first process is seen at work
		took          time.Duration
		want          tally
		abandoned     [2]int
		suspect       bool // the first one
	}{
		"in time":               {line{after: 2*ms - 1}, line{}, false, 2*ms - 1, tally{calls: 1, rows: 2}, [2]int{}, false},
		"the second is quicker": {never, line{}, false, 3 * ms, tally{calls: 1, rows: 2, hedges: 1, won: 1}, [2]int{1, 0}, true},
		"the first is quicker":  {line{after: 4 * ms}, line{after: 9 * ms}, false, 4 * ms, tally{calls: 1, rows: 2, hedges: 1}, [2]int{0, 1}, false},
		"the first dies":        {line{after: 5 * ms, dies: true}, line{after: 9 * ms}, false, 11 * ms, tally{calls: 1, rows: 2, errors: 1, hedges: 1, won: 1}, [2]int{}, false},
		"the second fails":      {line{after: 9 * ms}, line{err: errGarbled}, false, 9 * ms, tally{calls: 1, rows: 2, errors: 1, hedges: 1}, [2]int{}, false},
		"at work":               {line{after: 10 * ms}, line{}, true, 10 * ms, tally{calls: 1, rows: 2}, [2]int{}, false},
		"at work for too long":  {never, line{}, true, 17 * ms, tally{calls: 1, rows: 2, hedges: 1, won: 1}, [2]int{1, 0}, true},
		"blind":                 {line{after: 4 * ms}, line{blind: true}, false, 4 * ms, tally{calls: 2, rows: 4, hedges: 1}, [2]int{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			hedging(t, func(s *stage, before tally) {
				s.actors[0].plays(c.first)
				s.actors[1].plays(c.second)
				s.actors[0].working = c.working
				began := time.Now()
				call := rows(2)
				call.Segments = []expert.Segment{{Rows: 2}}
				if err := s.ask(context.Background(), call); err != nil {
					t.Fatal(err)
				}
				// A look at one of two is a tenth of a millisecond long.
				if took := time.Since(began); took < c.took || took > c.took+ms/2 {
					t.Errorf("took %v, want %v", took, c.took)
				}
				s.counted(name, before, c.want)
				if got := [2]int{s.actors[0].abandoned, s.actors[1].abandoned}; got != c.abandoned {
					t.Errorf("abandoned %v, want %v", got, c.abandoned)
				}
				if got := s.g.state(0) == resilience.Suspect; got != c.suspect {
					t.Errorf("the first is %s", s.g.state(0))
				}
			})
		})
	}
}

// Both tries of a call may fail; it is then asked again, and nobody whose process has failed gets it.
func TestHedgesFail(t *testing.T) {
	hedging(t, func(s *stage, before tally) {
		s.actors[0].plays(line{after: 5 * time.Millisecond, err: errGarbled})
		s.actors[1].plays(line{after: 6 * time.Millisecond, err: errGarbled})
		time.AfterFunc(20*time.Millisecond, func() { s.enter(0) })
		if err := s.ask(context.Background(), rows(1)); err != nil {
			t.Error(err)
		}
		s.counted("two bad answers", before, tally{calls: 1, rows: 1, errors: 2, retries: 1, hedges: 1})
		s.enter(1)
	})
}

// A caller that goes away leaves neither of two tries behind.
func TestHedgedCallerGoes(t *testing.T) {
	hedging(t, func(s *stage, before tally) {
		s.actors[0].plays(never)
		s.actors[1].plays(never)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(10*time.Millisecond, cancel)
		if err := s.ask(ctx, rows(1)); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		s.counted("a caller that goes", before, tally{errors: 1, hedges: 1})
		if s.g.state(0) != resilience.Ready || s.g.state(1) != resilience.Ready {
			t.Errorf("%s and %s", s.g.state(0), s.g.state(1))
		}
	})
}

// A call whose time is up before it is due to be hedged is left alone, and so is one that no budget is left for.
func TestNoHedge(t *testing.T) {
	hedging(t, func(s *stage, before tally) {
		s.actors[0].plays(never)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
		defer cancel()
		if err := s.ask(ctx, rows(1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		s.counted("a short call", before, tally{errors: 1})
		s.leave(1, sdk.ErrUnavailable, false)
		for range 20 { // more than are saved up: what nobody takes is given back
			before = s.tally()
			s.actors[0].plays(line{after: 50 * time.Millisecond})
			if err := s.ask(context.Background(), rows(1)); err != nil {
				t.Error(err)
			}
			s.counted("nobody else is there", before, tally{calls: 1, rows: 1})
		}
		s.enter(1)
		for s.g.set.Hedge() {
		}
		before = s.tally()
		s.actors[0].plays(line{after: 50 * time.Millisecond})
		if err := s.ask(context.Background(), rows(1)); err != nil {
			t.Error(err)
		}
		s.counted("no budget", before, tally{calls: 1, rows: 1})
	})
	staged(t, pair(1), func(s *stage) { // nobody else is there
		s.practise()
		before := s.tally()
		s.actors[0].plays(line{after: 50 * time.Millisecond})
		if err := s.ask(context.Background(), rows(1)); err != nil {
			t.Error(err)
		}
		s.counted("a lone replica", before, tally{calls: 1, rows: 1})
	})
}

// A process that does not answer a call for a hundred times what is usual, and five seconds at least, is hung, unless nobody
// waits any more or somebody debugs it.
func TestHungCall(t *testing.T) {
	for name, c := range map[string]struct {
		line line
		most time.Duration // of the call
		hung time.Duration // when the process is condemned; 0 = not
	}{
		"hung":        {never, time.Minute, hangFloor},
		"only slow":   {line{after: hangFloor - time.Millisecond}, time.Minute, 0},
		"little time": {never, hangFloor - time.Millisecond, 0},
	} {
		t.Run(name, func(t *testing.T) {
			staged(t, pair(1), func(s *stage) {
				s.practise()
				a := s.actors[0]
				a.plays(c.line)
				began := time.Now()
				var at time.Duration
				ended := make(chan struct{})
				go func() {
					select {
					case <-a.inc.condemn:
						at = time.Since(began)
						s.leave(0, sdk.ErrUnavailable, false)
						s.enter(0)
					case <-ended:
					}
				}()
				ctx, cancel := context.WithTimeout(context.Background(), c.most)
				defer cancel()
				err := s.ask(ctx, rows(1))
				close(ended)
				synctest.Wait()
				if (at == 0) != (c.hung == 0) || at < c.hung || at > c.hung+hangLook {
					t.Errorf("condemned after %v (%q), want %v", at, a.condemnedFor(), c.hung)
				}
				if c.hung > 0 && (err != nil || a.condemnedFor() != "hung (no answer to a call)") {
					t.Errorf("%v, %q", err, a.condemnedFor())
				}
			})
		})
	}
	t.Run("slow calls are usual", func(t *testing.T) {
		staged(t, pair(1), func(s *stage) {
			lines := make([]line, 64)
			for i := range lines {
				lines[i].after = 100 * time.Millisecond
			}
			s.actors[0].plays(lines...)
			s.practise()
			s.actors[0].plays(line{after: 9 * time.Second})
			if err := s.ask(context.Background(), rows(1)); err != nil || s.actors[0].condemnedFor() != "" {
				t.Errorf("%v, %q", err, s.actors[0].condemnedFor())
			}
		})
	})
	t.Run("a guest", func(t *testing.T) {
		spec := pair(1)
		spec.Guest = &visit{}
		staged(t, spec, func(s *stage) {
			s.practise()
			s.actors[0].plays(line{after: time.Hour})
			if err := s.ask(context.Background(), rows(1)); err != nil || s.actors[0].condemnedFor() != "" {
				t.Errorf("%v, %q", err, s.actors[0].condemnedFor())
			}
		})
	})
}

// A call's work is its rows and the reading of its units.
func TestWorkOfACall(t *testing.T) {
	if got := work(&expert.Call{Y: tensor.NewMatrix(5, 1), Segments: make([]expert.Segment, 3)}); got != 5+3*16 {
		t.Errorf("work %g", got)
	}
}
