package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// timed runs a test in a bubble of virtual time with an engine over a fake model.
func timed(t *testing.T, change func(*setup), test func(*testing.T, *Engine, *fake)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(64, 4)
		s := testSetup(f)
		change(&s)
		e := start(s)
		defer stopTest(t, e, f)
		test(t, e, f)
	})
}

// within makes a plain request with a deadline.
func within(id string, d time.Duration) Request {
	r := plain(id, prompt(id, 6), 3)
	r.Deadline = time.Now().Add(d)
	return r
}

// result of reading a stream in the background, with the virtual time it took.
type ended struct {
	answer
	after time.Duration
}

// background submits a request and reads it in a goroutine.
func background(t *testing.T, e *Engine, r Request) <-chan ended {
	t.Helper()
	began := time.Now()
	s, err := e.Submit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan ended, 1)
	go func() {
		a := read(t.Context(), s)
		out <- ended{a, time.Since(began)}
	}()
	return out
}

// A step hangs on a dead expert. Each request in it and behind it gets its answer at its own deadline; the last one gets
// the step's error, which names the cause; and the engine goes on.
func TestDeadlinesInStalledStep(t *testing.T) {
	dead := true
	timed(t, func(*setup) {}, func(t *testing.T, e *Engine, f *fake) {
		f.before = func(ctx context.Context, _ []model.Span) error {
			if !dead {
				return nil
			}
			<-ctx.Done()
			return fmt.Errorf("expert group e3: killed by signal 9: %w", sdk.ErrUnavailable)
		}
		first := background(t, e, within("first", 10*time.Second)) // starts alone
		synctest.Wait()
		queued := background(t, e, within("queued", time.Second))
		long := background(t, e, within("long", time.Hour))
		if a := <-queued; !errors.Is(a.err, sdk.ErrDeadline) || a.after != time.Second {
			t.Errorf("queued: %v after %v, want sdk.ErrDeadline after 1 s", a.err, a.after)
		}
		if a := <-first; !errors.Is(a.err, sdk.ErrUnavailable) || !strings.Contains(a.err.Error(), "e3") || a.after != 10*time.Second {
			t.Errorf("alone in its step: %v after %v, want the cause after 10 s", a.err, a.after)
		}
		short := background(t, e, within("short", 5*time.Second)) // long is in the step now
		synctest.Wait()
		dead = false
		time.Sleep(2 * time.Hour)
		if a := <-long; !errors.Is(a.err, sdk.ErrUnavailable) || a.after != time.Hour {
			t.Errorf("long: %v after %v, want the cause after 1 h", a.err, a.after)
		}
		if a := <-short; !errors.Is(a.err, sdk.ErrDeadline) || a.after != 5*time.Second {
			t.Errorf("short: %v after %v, want sdk.ErrDeadline after 5 s", a.err, a.after)
		}
		wantAnswer(t, (<-background(t, e, within("next", time.Second))).answer, prompt("next", 6), 3)
	})
}

// Requests share a step that stalls: the one with the earlier deadline is answered then, the step goes on for the other.
func TestDeadlineLeavesStepToOthers(t *testing.T) {
	timed(t, func(*setup) {}, func(t *testing.T, e *Engine, f *fake) {
		slow := func(ctx context.Context, spans []model.Span) error {
			select {
			case <-time.After(4 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		f.before = slow
		first := background(t, e, within("first", time.Hour))
		synctest.Wait()
		a := background(t, e, within("a", 6*time.Second))
		b := background(t, e, within("b", time.Hour))
		if a := <-a; !errors.Is(a.err, sdk.ErrDeadline) || a.after != 6*time.Second {
			t.Errorf("a: %v after %v, want sdk.ErrDeadline after 6 s", a.err, a.after)
		}
		wantAnswer(t, (<-b).answer, prompt("b", 6), 3)
		wantAnswer(t, (<-first).answer, prompt("first", 6), 3)
	})
}

// A model that ignores its context can't hold up an answer beyond the grace.
func TestDeadlineWithoutCooperation(t *testing.T) {
	timed(t, func(*setup) {}, func(t *testing.T, e *Engine, f *fake) {
		f.before = func(context.Context, []model.Span) error {
			time.Sleep(time.Minute)
			return nil
		}
		a := <-background(t, e, within("a", time.Second))
		if !errors.Is(a.err, sdk.ErrDeadline) || a.after != time.Second+grace {
			t.Errorf("%v after %v, want sdk.ErrDeadline after 1.1 s", a.err, a.after)
		}
	})
}

// A request without a deadline waits for a step no longer than the configured time.
func TestStepWithoutDeadline(t *testing.T) {
	timed(t, func(s *setup) { s.limits.RequestTimeout = 7 * time.Second }, func(t *testing.T, e *Engine, f *fake) {
		f.before = func(ctx context.Context, _ []model.Span) error {
			<-ctx.Done()
			return ctx.Err()
		}
		a := <-background(t, e, plain("", prompt("", 6), 3))
		if !errors.Is(a.err, sdk.ErrDeadline) || a.after != 7*time.Second {
			t.Errorf("%v after %v, want sdk.ErrDeadline after 7 s", a.err, a.after)
		}
		_, _, _, err := e.Hidden(t.Context(), -1, tensor.NewMatrix(1, 1), false, moe.AcceptExact)
		if !errors.Is(err, sdk.ErrDeadline) {
			t.Errorf("hidden states: %v", err)
		}
	})
}

// The earlier of the request's and the context's deadline counts, also for a parked stream and for a reader's own wait.
func TestContextDeadline(t *testing.T) {
	timed(t, func(s *setup) { s.buffer = 2 }, func(t *testing.T, e *Engine, f *fake) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		r := within("parked", time.Hour)
		r.MaxTokens = 50
		s, err := e.Submit(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Second) // nobody reads: the stream is parked
		if st := e.Stats(); st.Running+st.Queued != 0 {
			t.Errorf("%+v after the deadline", st)
		}
		if a := read(t.Context(), s); !errors.Is(a.err, sdk.ErrDeadline) || len(a.ids) > 2 {
			t.Errorf("%d tokens, %v", len(a.ids), a.err)
		}

		f.before = func(ctx context.Context, _ []model.Span) error { <-ctx.Done(); return ctx.Err() }
		s, err = e.Submit(t.Context(), within("reader", time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Next(short); !errors.Is(err, sdk.ErrDeadline) {
			t.Errorf("the reader's deadline: %v", err)
		}
		synctest.Wait()
		if st := e.Stats(); st.Running+st.Queued != 0 {
			t.Errorf("%+v after the reader has gone", st)
		}
	})
}

// Usage has the times that passed.
func TestTimings(t *testing.T) {
	timed(t, func(s *setup) { s.limits.MaxConcurrentRequests = 1 }, func(t *testing.T, e *Engine, f *fake) {
		f.before = func(context.Context, []model.Span) error {
			time.Sleep(time.Second)
			return nil
		}
		a := background(t, e, plain("a", prompt("a", 6), 3))
		synctest.Wait()
		b := background(t, e, plain("b", prompt("b", 40), 3)) // two steps for its prompt
		if u := (<-a).usage; u.Queued != 0 || u.FirstToken != time.Second {
			t.Errorf("first: %+v", u)
		}
		if u := (<-b).usage; u.Queued != 3*time.Second || u.FirstToken != 5*time.Second {
			t.Errorf("second: %+v", u)
		}
	})
}
