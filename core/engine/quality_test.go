package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/sdk"
)

// gap is an expert group that is missing while down is true.
type gap struct {
	down, hopeless atomic.Bool
	tries          atomic.Int64 // of spans that did not accept it
}

var errGap = fmt.Errorf("expert group e3 is unavailable: %w", sdk.ErrUnavailable)

func (g *gap) Available() error {
	if g.down.Load() {
		return errGap
	}
	return nil
}

func (g *gap) Hopeless() error {
	if g.down.Load() && g.hopeless.Load() {
		return errGap
	}
	return nil
}

// launchLenient starts an engine over a fake whose layers 1 and 3 lack the gap's group for every token from the position
// on: a span that accepts anything goes on without it, others have no answer.
func launchLenient(t *testing.T, g *gap, from int) *Engine {
	f := newFake(64, 4)
	f.before = func(_ context.Context, spans []model.Span) error {
		for _, s := range spans {
			if s.Lost == nil {
				return errors.New("a span without Lost")
			}
			for i := range s.Tokens {
				if !g.down.Load() || s.Start+i < from {
					continue
				}
				o := moe.Outcome{Kinds: moe.Kinds(0).With(moe.Renormalise), Dropped: 0.125}
				if s.Accept != moe.AcceptAny {
					g.tries.Add(1)
					o = moe.Outcome{Err: errGap, Wait: g}
				}
				s.Lost(1, s.Start+i, o)
				s.Lost(3, s.Start+i, o)
			}
		}
		return nil
	}
	s := testSetup(f)
	s.lenient = true
	return launchTest(t, f, s)
}

// TestQuality: every token says what it depends on, and pages of degraded ones are not taken over by others.
func TestQuality(t *testing.T) {
	g := &gap{}
	g.down.Store(true)
	p := prompt("quality", 12)
	e := launchLenient(t, g, len(p)+4) // the fifth token of the continuation is the first that is computed without
	r := plain("a", p, 12)
	r.Accept = moe.AcceptAny
	a := ask(t, e, r)
	if a.err != nil || !slices.Equal(a.ids, oracle(p, 12)) {
		t.Fatalf("%v, %v", a.ids, a.err)
	}
	for i, tok := range a.tokens {
		if want := i >= 5; (tok.Quality.Status() == StatusDegraded) != want {
			t.Errorf("token %d: %+v, degraded: %v", i, tok.Quality, want)
		}
	}
	if q := a.usage.Quality; q.Layers != 2 || q.Dropped != 0.125 || q.Policy() != "renormalise" {
		t.Errorf("%+v", q)
	}
	g.down.Store(false)
	long := slices.Concat(p, a.ids, []int32{1, 2, 3, 4})
	b := ask(t, e, plain("b", long, 2))
	if b.err != nil || b.usage.CachedTokens != 16 || b.usage.Quality != (Quality{}) {
		t.Errorf("%d tokens were taken over, want the 16 before the first degraded one; %+v, %v", b.usage.CachedTokens, b.usage, b.err)
	}
}

// TestExactWaitsAlone: a request that takes the exact answer alone waits for the group while others go on, and then has
// the answer that it has otherwise. A seed is enough where a policy would renormalise.
func TestExactWaitsAlone(t *testing.T) {
	g := &gap{}
	g.down.Store(true)
	e := launchLenient(t, g, 0)
	p := prompt("waits", 9)
	seeded := plain("seeded", p, 6)
	seeded.Accept, seeded.Sampling = moe.AcceptAny, sampler.Params{Temperature: 1, Seeded: true, Seed: 5}
	exact := plain("exact", p, 6)
	answers := make(chan answer, 2)
	for _, r := range []Request{exact, seeded} {
		go func() { answers <- ask(t, e, r) }()
	}
	for i := range 5 {
		r := plain(fmt.Sprint("any", i), p, 20)
		r.Accept = moe.AcceptAny
		if a := ask(t, e, r); a.err != nil || a.usage.Quality.Status() != StatusDegraded {
			t.Errorf("beside it: %+v, %v", a.usage, a.err)
		}
	}
	select {
	case a := <-answers:
		t.Fatalf("an exact answer without the group: %+v", a)
	default:
	}
	g.down.Store(false)
	for range 2 {
		a := <-answers
		want := oracle(p, 6)
		if a.usage.Quality != (Quality{}) || a.err != nil {
			t.Errorf("%+v, %v", a.usage, a.err)
		}
		if !slices.Equal(a.ids, want) && !slices.Equal(a.ids, sampled(p, 6, seeded.Sampling)) {
			t.Errorf("%v is neither the greedy answer %v nor the drawn one", a.ids, want)
		}
	}
	if g.tries.Load() == 0 {
		t.Error("no request has missed the group")
	}
}

// TestExactEnds: where waiting makes no sense the request ends with the cause, and nothing is left.
func TestExactEnds(t *testing.T) {
	g := &gap{}
	g.down.Store(true)
	e := launchLenient(t, g, 0)
	done := make(chan answer, 1)
	go func() { done <- ask(t, e, plain("exact", prompt("ends", 5), 4)) }()
	for g.tries.Load() == 0 {
		r := plain("any", prompt("beside", 3), 1)
		r.Accept = moe.AcceptAny
		ask(t, e, r)
	}
	g.hopeless.Store(true)
	if a := <-done; !errors.Is(a.err, errGap) || !strings.Contains(a.err.Error(), "request exact") {
		t.Errorf("error %v", a.err)
	}
	if a := ask(t, e, plain("another", prompt("ends", 5), 4)); !errors.Is(a.err, errGap) {
		t.Errorf("while hopeless: %v", a.err)
	}
}
