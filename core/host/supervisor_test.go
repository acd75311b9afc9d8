package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
)

// TestRestartRules are the numbers of FAULTS 5.1.
func TestRestartRules(t *testing.T) {
	const ms = time.Millisecond
	type end struct {
		after  time.Duration // since the end before
		how    ending
		wait   time.Duration // at most, by the draw
		failed bool
	}
	for name, ends := range map[string][]end{
		"too many in half a minute": {
			{0, broken, 50 * ms, false}, {ms, broken, 100 * ms, false}, {ms, broken, 200 * ms, false}, {ms, broken, 400 * ms, false},
			{ms, broken, 800 * ms, false}, {ms, broken, halfOpenPeriod, true}, {halfOpenPeriod, broken, 3200 * ms, false},
		},
		"just not too many": {
			{0, broken, 50 * ms, false}, {ms, broken, 100 * ms, false}, {ms, broken, 200 * ms, false}, {ms, broken, 400 * ms, false},
			{ms, broken, 800 * ms, false}, {intensityOver - 4*ms, broken, 1600 * ms, false}, {0, broken, halfOpenPeriod, true},
		},
		"now and then": {
			{0, broken, 50 * ms, false}, {time.Hour, broken, 100 * ms, false}, {time.Hour, broken, 200 * ms, false}, {time.Hour, broken, 400 * ms, false},
			{time.Hour, broken, 800 * ms, false}, {time.Hour, broken, 1600 * ms, false}, {time.Hour, broken, 3200 * ms, false},
			{time.Hour, broken, 5 * time.Second, false}, {time.Hour, broken, 5 * time.Second, false},
		},
		"it has worked": {
			{0, broken, 50 * ms, false}, {0, broken, 100 * ms, false}, {0, worked, 0, false}, {0, broken, 50 * ms, false},
		},
		"ended from outside": {
			{0, struck, 0, false}, {0, struck, 0, false}, {0, struck, 0, false}, {0, struck, 50 * ms, false}, {0, struck, 100 * ms, false},
			{0, struck, 200 * ms, false}, {0, struck, 400 * ms, false}, {0, struck, 800 * ms, false}, {0, struck, time.Second, false},
			{0, struck, time.Second, false}, {0, broken, 50 * ms, false}, {0, worked, 0, false}, {0, struck, 0, false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var most, least restarts
			now := time.Unix(1000, 0)
			for i, e := range ends {
				now = now.Add(e.after)
				wait, failed := most.next(now, e.how, 1)
				if wait != e.wait || failed != e.failed {
					t.Errorf("end %d: wait %v, failed %v; want %v, %v", i+1, wait, failed, e.wait, e.failed)
				}
				if wait, failed := least.next(now, e.how, 0); failed != e.failed || wait != 0 && !failed {
					t.Errorf("end %d with the least draw: wait %v, failed %v", i+1, wait, failed)
				}
			}
		})
	}
	if healthyAfter != time.Minute || struckAfter != time.Second || hangFloor != 5*time.Second {
		t.Error("other times than those that FAULTS 5 names")
	}
	long := backoff(1000, time.Hour, 1) // must not overflow
	if long != firstBackoff<<16 {
		t.Errorf("after a thousand ends: %v", long)
	}
}

// life is a supervisor whose starts and processes go as the test says, in virtual time.
type life struct {
	t     *testing.T
	s     *supervisor
	began time.Time
	stop  func() // ends the supervisor and waits for it
	log   *transcript

	mu     sync.Mutex // guards what follows
	heard  []Event
	next   []birth // then good ones that live
	starts []time.Duration
	actors []*actor
	known  []*incarnation // by the group
	others time.Duration  // others do the process's work until so long after the beginning
}

// transcript is a log that is read while it is written.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(b)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// told is what an operator has been told of.
func (l *life) told() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.heard)
}

// birth is how a start goes, and what becomes of the process.
type birth struct {
	takes  time.Duration
	err    error
	lives  time.Duration // 0 = until somebody ends it
	death  client.Death
	served bool
	as     func(a *actor)
}

var (
	murder = client.Death{Signal: "SIGKILL", ExitCode: -1}
	crash  = client.Death{ExitCode: 1}
)

func living(t *testing.T, births []birth, f func(l *life)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &life{t: t, next: births, began: time.Now(), log: &transcript{}}
		log := slog.New(slog.NewTextHandler(l.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		fleet := &fleet{children: newNotifier()}
		fleet.count.Add(1)
		l.s = newSupervisor("e0/0", Options{
			StartTimeout: time.Second, Metrics: metrics.New(), Log: log, Event: func(e Event) {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.heard = append(l.heard, e)
			},
		}, newNotifier(), fleet, l.launch)
		l.s.draw = func() float64 { return 1 }
		l.s.news.changed = func(inc *incarnation) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.known = append(l.known, inc)
		}
		l.s.news.replaced = func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return time.Since(l.began) < l.others
		}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { l.s.run(ctx) })
		l.stop = func() { cancel(); wg.Wait() }
		defer l.stop()
		f(l)
	})
}

func (l *life) launch(ctx context.Context) (*incarnation, error) {
	l.mu.Lock()
	l.starts = append(l.starts, time.Since(l.began))
	var b birth
	if len(l.next) > 0 {
		b, l.next = l.next[0], l.next[1:]
	}
	l.mu.Unlock()
	if !sleep(ctx, b.takes) {
		return nil, fmt.Errorf("%w: %w", errHandshake, ctx.Err())
	}
	if b.err != nil {
		return nil, b.err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := newActor(len(l.actors) + 1)
	a.death = b.death
	a.inc.served.Store(b.served)
	if b.as != nil {
		b.as(a)
	}
	if b.lives > 0 {
		time.AfterFunc(b.lives, a.exit)
	}
	l.actors = append(l.actors, a)
	return a.inc, nil
}

// begins checks when processes were started, since the beginning.
func (l *life) begins(want ...time.Duration) {
	l.t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.starts, want) {
		l.t.Errorf("started at %v, want %v", l.starts, want)
	}
}

func (l *life) is(state State, restarts uint64, hopeless bool, err error) Status {
	l.t.Helper()
	synctest.Wait()
	var st Status
	l.s.describe(&st)
	inc, why, never := l.s.ready()
	if st.State != string(state) || st.Restarts != restarts || never != hopeless || !errors.Is(why, err) || (inc != nil) != (state == StateReady) {
		l.t.Errorf("%s, %d restarts, hopeless %v, %v; want %s, %d, %v, %v", st.State, st.Restarts, never, why, state, restarts, hopeless, err)
	}
	return st
}

// A process that had worked is followed by another one at once, and its end is on record.
func TestReplacesTheDead(t *testing.T) {
	living(t, []birth{{takes: 30 * time.Millisecond, lives: time.Second, death: crash, served: true}, {takes: 20 * time.Millisecond}}, func(l *life) {
		if err := l.s.firstStart(context.Background()); err != nil {
			t.Error(err)
		}
		if st := l.is(StateReady, 0, false, nil); st.LastDeath != nil || st.ReadySince == nil || time.Since(*st.ReadySince) != 0 || st.PID != 1 {
			t.Errorf("%+v", st)
		}
		time.Sleep(1010 * time.Millisecond)
		l.is(StateStarting, 0, false, sdk.ErrUnavailable)
		time.Sleep(time.Second)
		l.begins(0, 1030*time.Millisecond)
		st := l.is(StateReady, 1, false, nil)
		if d := st.LastDeath; d == nil || d.PID != 1 || d.Cause != "exited with code 1" || d.ExitCode != 1 {
			t.Errorf("last death %+v", d)
		}
		if l.s.started.Get() != 1 || !strings.Contains(l.log.String(), `msg="process died"`) {
			t.Errorf("%d restarts counted; log:\n%s", l.s.started.Get(), l.log)
		}
		if l.actors[0].killed != 1 {
			t.Errorf("the first one was killed %d times", l.actors[0].killed)
		}
		l.stop()
		l.is(StateStopped, 1, true, sdk.ErrUnavailable)
		if a := l.actors[1]; a.asked != 1 || a.killed != 0 || l.s.death.PID != 1 {
			t.Errorf("the last one was asked to end %d times, killed %d times; last death %+v", a.asked, a.killed, l.s.death)
		}
		if want := []*incarnation{l.actors[0].inc, nil, l.actors[1].inc, nil}; !slices.Equal(l.known, want) {
			t.Errorf("the group was told of %v, want %v", l.known, want)
		}
	})
}

// While others do a dead process's work, its successor waits a moment; it does not as soon as there are none.
func TestGivesWay(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		others time.Duration // how long they last after the death
		want   time.Duration // until the start
	}{"alone": {0, 0}, "others": {time.Hour, wayFor}, "the last other dies": {5 * ms, 5 * ms}} {
		t.Run(name, func(t *testing.T) {
			living(t, []birth{{lives: time.Second, death: murder, served: true}}, func(l *life) {
				l.mu.Lock()
				l.others = time.Second + c.others
				l.mu.Unlock()
				time.Sleep(time.Second + min(c.others, wayFor))
				l.s.changed.broadcast()
				time.Sleep(time.Second)
				l.begins(0, time.Second+c.want)
				l.is(StateReady, 1, false, nil)
			})
		})
	}
}

// A process that is said to end and does not is replaced by the second look at it.
func TestEndsWithoutAnEnd(t *testing.T) {
	living(t, []birth{{served: true, as: func(a *actor) {
		time.AfterFunc(500*time.Millisecond, a.fades)
	}}}, func(l *life) {
		time.Sleep(1999 * time.Millisecond)
		l.is(StateReady, 0, false, nil)
		time.Sleep(2 * time.Second)
		st := l.is(StateReady, 1, false, nil)
		if d := st.LastDeath; d == nil || d.Cause != "hung (one of its threads has ended)" {
			t.Errorf("last death %+v", d)
		}
		l.begins(0, 2*time.Second)
	})
}

// A first start that fails is the error of whoever waits for it, and is tried again.
func TestFirstStartFails(t *testing.T) {
	odd := errors.New("odd")
	living(t, []birth{{takes: time.Millisecond, err: odd}, {takes: time.Hour}, {}}, func(l *life) {
		if err := l.s.firstStart(context.Background()); !errors.Is(err, odd) || err.Error() != "start e0/0: odd" {
			t.Error(err)
		}
		l.is(StateStarting, 0, false, odd)
		if strings.Contains(l.log.String(), "process start failed") {
			t.Errorf("who waits for it tells of it, but the log does, too:\n%s", l.log)
		}
		time.Sleep(1500 * time.Millisecond)
		l.begins(0, 51*time.Millisecond, 1151*time.Millisecond)
		l.is(StateReady, 1, false, nil)
		if n := strings.Count(l.log.String(), `level=ERROR msg="process start failed"`); n != 1 || !strings.Contains(l.log.String(), "not ready within 1s: handshake failed") {
			t.Errorf("%d of the second failure in the log:\n%s", n, l.log)
		}
		if len(l.told()) != 0 {
			t.Errorf("told of %v", l.told())
		}
	})
	living(t, []birth{{takes: time.Hour}}, func(l *life) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		if err := l.s.firstStart(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		l.stop() // while it starts
		if err := l.s.firstStart(context.Background()); !errors.Is(err, sdk.ErrUnavailable) || strings.Contains(err.Error(), "not ready within") {
			t.Errorf("stopped while it started: %v", err)
		}
	})
}

// What only an operator can mend is tried each five seconds at most, for ever, and calls do not wait for it.
func TestHopelessStarts(t *testing.T) {
	for name, cause := range map[string]error{
		"no executable": errNotExecutable, "a bad shard": errBadShard, "a bad parameter": sdk.ErrInvalid, "not supported": sdk.ErrUnsupported,
	} {
		t.Run(name, func(t *testing.T) {
			births := make([]birth, 20)
			for i := range births {
				births[i].err = fmt.Errorf("cause: %w", cause)
			}
			living(t, births, func(l *life) {
				time.Sleep(2 * time.Minute)
				l.is(StateReady, 1, false, nil)
				last := l.starts[len(l.starts)-1]
				if len(l.starts) != 21 || last < 60*time.Second || last > 20*maxBackoff {
					t.Errorf("started at %v", l.starts)
				}
				for i := 1; i < len(l.starts); i++ {
					if l.starts[i]-l.starts[i-1] > maxBackoff {
						t.Errorf("a wait of %v", l.starts[i]-l.starts[i-1])
					}
				}
				if len(l.told()) != 1 || l.told()[0].What != EventFailed || l.told()[0].Why != "cause: "+cause.Error() {
					t.Errorf("told of %v", l.told())
				}
			})
			living(t, births[:1], func(l *life) {
				time.Sleep(time.Millisecond)
				l.is(StateFailed, 0, true, cause)
			})
		})
	}
}

// A process that keeps dying before it has worked is given up for a minute, and calls that wait for it end.
func TestCrashLoop(t *testing.T) {
	births := slices.Repeat([]birth{{lives: time.Millisecond, death: crash}}, 6)
	living(t, births, func(l *life) {
		time.Sleep(1555*time.Millisecond + time.Millisecond/2)
		l.is(StateReady, 5, false, nil) // the last life of six
		changed := l.s.changed.wait()
		time.Sleep(2 * time.Millisecond)
		select {
		case <-changed:
		default:
			t.Error("nobody is told")
		}
		changed = l.s.changed.wait()
		l.is(StateFailed, 5, true, sdk.ErrUnavailable)
		if len(l.told()) != 1 || l.told()[0] != (Event{What: EventFailed, Object: "e0/0", Why: "it keeps dying before it answers"}) {
			t.Errorf("told of %v", l.told())
		}
		time.Sleep(time.Minute)
		l.begins(0, 51*time.Millisecond, 152*time.Millisecond, 353*time.Millisecond, 754*time.Millisecond, 1555*time.Millisecond, 61556*time.Millisecond)
		l.is(StateReady, 6, false, nil)
	})
}

// Who ends the host in the midst of a crash loop does not hear of it.
func TestEndInACrashLoop(t *testing.T) {
	living(t, slices.Repeat([]birth{{lives: time.Millisecond, death: crash}}, 6), func(l *life) {
		time.Sleep(1555*time.Millisecond + time.Millisecond/2)
		l.is(StateReady, 5, false, nil)
		l.stop()
		l.is(StateStopped, 5, true, sdk.ErrUnavailable)
		if len(l.told()) != 0 {
			t.Errorf("told of %v", l.told())
		}
	})
	living(t, slices.Repeat([]birth{{lives: time.Millisecond, death: crash}}, 2), func(l *life) { // while it rests
		time.Sleep(60 * time.Millisecond)
		l.stop()
		l.begins(0, 51*time.Millisecond)
		l.is(StateStopped, 1, true, sdk.ErrUnavailable)
	})
}

// When it is given up, whoever waits is told: the end of the last life was told before anybody knew that it was the last.
func TestGivingUpIsTold(t *testing.T) {
	living(t, nil, func(l *life) {
		synctest.Wait()
		changed := l.s.changed.wait()
		l.s.giveUp()
		select {
		case <-changed:
		default:
			t.Error("nobody is told")
		}
	})
}

// What others do to a process is no crash of its own: three such ends in a row cost no wait, and one that has lived for a
// second counts as one that had worked.
func TestStruck(t *testing.T) {
	const ms = time.Millisecond
	stopped := birth{lives: 0, death: murder, as: func(a *actor) { a.stopped = true }}
	unreached := birth{err: fmt.Errorf("%w: refused", errUnreachable)}
	shot := birth{err: fmt.Errorf("start: %w", &client.StartError{Path: "/p", Reason: client.ReasonMissing, Death: &murder})}
	died := birth{err: fmt.Errorf("start: %w", &client.StartError{Path: "/p", Reason: client.ReasonMissing, Death: &crash})}
	mute := birth{err: fmt.Errorf("start: %w", &client.StartError{Path: "/p", Reason: client.ReasonMissing})}
	for name, c := range map[string]struct {
		birth birth
		want  []time.Duration // starts
	}{
		"killed":             {birth{lives: ms, death: murder}, []time.Duration{0, ms, 2 * ms, 3 * ms, 54 * ms}},
		"for lack of memory": {birth{lives: ms, death: client.Death{Signal: "SIGKILL", OOM: true}}, []time.Duration{0, 51 * ms, 152 * ms, 353 * ms, 754 * ms}},
		"by the host":        {birth{lives: ms, death: client.Death{Signal: "SIGKILL", Asked: true}}, []time.Duration{0, 51 * ms, 152 * ms, 353 * ms, 754 * ms}},
		"connection lost":    {birth{lives: ms, death: client.Death{Lost: "reset"}}, []time.Duration{0, ms, 2 * ms, 3 * ms, 54 * ms}},
		"late":               {birth{lives: struckAfter, death: murder}, []time.Duration{0, struckAfter, 2 * struckAfter, 3 * struckAfter, 4 * struckAfter, 5 * struckAfter}},
		"not so late":        {birth{lives: struckAfter - 1, death: murder}, []time.Duration{0, struckAfter - 1, 2*struckAfter - 2, 3*struckAfter - 3, 4*struckAfter - 4 + 50*ms}},
		"stopped":            {stopped, []time.Duration{0, stopPatience, 2 * stopPatience, 3 * stopPatience, 4*stopPatience + 50*ms}},
		"idle for long":      {birth{lives: healthyAfter, death: crash}, []time.Duration{0, healthyAfter, 2 * healthyAfter, 3 * healthyAfter, 4 * healthyAfter, 5 * healthyAfter}},
		"not so long":        {birth{lives: healthyAfter - 1, death: crash}, []time.Duration{0, healthyAfter - 1 + 50*ms, 2*healthyAfter - 2 + 150*ms}},
		"never reached":      {unreached, []time.Duration{0, 0, 0, 0, 50 * ms}},
		"killed in a start":  {shot, []time.Duration{0, 0, 0, 0, 50 * ms}},
		"died in a start":    {died, []time.Duration{0, 50 * ms, 150 * ms}},
		"a start said why":   {mute, []time.Duration{0, 50 * ms, 150 * ms}},
	} {
		t.Run(name, func(t *testing.T) {
			living(t, slices.Repeat([]birth{c.birth}, len(c.want)-1), func(l *life) {
				time.Sleep(c.want[len(c.want)-1] + time.Millisecond/2)
				l.begins(c.want...)
			})
		})
	}
}

// Of an endpoint that nobody can be reached at the log tells once, until something else happens.
func TestUnreachedIsSaidOnce(t *testing.T) {
	gone := birth{err: fmt.Errorf("%w: refused", errUnreachable)}
	odd := birth{err: errors.New("odd")}
	living(t, []birth{gone, gone, gone, odd, gone, {lives: time.Millisecond, death: crash, served: true}, gone, gone, {}}, func(l *life) {
		time.Sleep(time.Minute)
		synctest.Wait()
		errs, quiet := strings.Count(l.log.String(), `level=ERROR msg="process start failed"`), strings.Count(l.log.String(), `level=DEBUG msg="process start failed"`)
		// The first of all is told by whoever waits for it.
		if errs != 3 || quiet != 3 {
			t.Errorf("%d times told, %d times in passing:\n%s", errs, quiet, l.log)
		}
	})
}

// In quarantine nothing is started; who ends it does not wait, and what was before is forgotten.
func TestBarred(t *testing.T) {
	const ms = time.Millisecond
	births := slices.Repeat([]birth{{lives: ms, death: crash}}, 5)
	births = append(births, birth{takes: 10 * ms}, birth{lives: ms, death: crash})
	living(t, births, func(l *life) {
		time.Sleep(1556 * ms) // the sixth one starts: one more end, and the replica would be given up
		l.s.bar("gave wrong answers")
		time.Sleep(time.Hour)
		l.is(StateBarred, 5, true, errBarred)
		if why := l.actors[5].condemnedFor(); why != "gave wrong answers" || !l.actors[5].inc.gone() {
			t.Errorf("the process that was being started: condemned %q, gone %v", why, l.actors[5].inc.gone())
		}
		before := len(l.starts)
		freed := time.Since(l.began)
		l.s.free()
		time.Sleep(10 * time.Second)
		l.is(StateReady, 7, false, nil)
		if got := l.starts[before:]; !slices.Equal(got, []time.Duration{freed, freed + 51*ms}) {
			t.Errorf("started at %v, set free at %v", got, freed)
		}
	})
}

// A replica that its group does not want has no process; the next one it wants is none that has taken the place of another.
func TestParked(t *testing.T) {
	living(t, nil, func(l *life) {
		synctest.Wait()
		l.s.park()
		time.Sleep(time.Minute) // it finishes its calls
		l.is(StateReady, 0, false, nil)
		l.s.dismiss()
		time.Sleep(time.Second)
		l.is(StateParked, 0, true, errParked)
		if a := l.actors[0]; a.asked != 1 || a.killed != 0 || l.s.death != nil {
			t.Errorf("asked to end %d times, killed %d times, death %+v", a.asked, a.killed, l.s.death)
		}
		time.Sleep(time.Hour)
		at := time.Since(l.began)
		l.s.unpark()
		time.Sleep(time.Second)
		l.begins(0, at)
		l.is(StateReady, 0, false, nil)
		l.actors[1].inc.served.Store(true)
		l.actors[1].exit()
		time.Sleep(time.Second)
		l.is(StateReady, 1, false, nil)
	})
	// It may be wanted again while its process ends.
	living(t, nil, func(l *life) {
		synctest.Wait()
		l.actors[0].ending = l.s.unpark
		l.s.park()
		l.s.dismiss()
		time.Sleep(time.Second)
		l.begins(0, 0)
		l.is(StateReady, 0, false, nil)
	})
	// One that is given up and parked does not wait for the end of its minute, neither to be parked nor to come back.
	living(t, slices.Repeat([]birth{{lives: time.Millisecond, death: crash}}, 6), func(l *life) {
		time.Sleep(10 * time.Second)
		l.is(StateFailed, 5, true, sdk.ErrUnavailable)
		l.s.park()
		l.s.dismiss()
		time.Sleep(time.Second)
		l.is(StateParked, 5, true, errParked)
	})
}

// A process that does not end when it is asked to is told of, and not waited for any longer.
func TestStubborn(t *testing.T) {
	living(t, []birth{{as: func(a *actor) { a.stubborn = context.DeadlineExceeded }}}, func(l *life) {
		synctest.Wait()
		l.stop()
		if !strings.Contains(l.log.String(), `level=WARN msg="stop process"`) {
			t.Errorf("log:\n%s", l.log)
		}
	})
	living(t, nil, func(l *life) {
		synctest.Wait()
		l.stop()
		if strings.Contains(l.log.String(), "stop process") || strings.Contains(l.log.String(), "process died") {
			t.Errorf("log:\n%s", l.log)
		}
	})
}
