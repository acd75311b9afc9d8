package engine

import (
	"math"
	"sync"
	"testing"
	"time"
)

// told is what the loop has told.
type told struct {
	mu  sync.Mutex
	all []Outcome
}

func (o *told) take(out Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, out)
}

// sum is what was told of tokens, and the longest waiting.
func (o *told) sum() (tokens int, logProb float64, waiting time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, out := range o.all {
		tokens += out.Tokens
		logProb += out.LogProb
		waiting = max(waiting, out.Waiting)
	}
	return tokens, logProb, waiting
}

// The outcomes of the steps add up to the tokens and the log-probabilities that a request which asks for them is given,
// chosen or given, and a request that does not ask is not given any.
func TestOutcomes(t *testing.T) {
	f := newFake(64, 4)
	p := prompt("outcome", 10)
	ids := oracle(p, 20)
	run := func(logprobs int, forced []int32) (answer, *told) {
		o := &told{}
		s := testSetup(f)
		s.outcome = o.take
		r := plain("", p, 20)
		r.Logprobs, r.Forced = logprobs, forced
		return ask(t, launchTest(t, f, s), r), o
	}
	want, o := run(0, nil)
	sum := 0.0
	for _, token := range want.tokens {
		sum += float64(token.Logprob)
	}
	if n, got, _ := o.sum(); n != 20 || math.Abs(got-sum) > 1e-5 || sum >= 0 {
		t.Errorf("%d tokens with %g, want 20 with %g", n, got, sum)
	}
	unasked, o := run(-1, nil)
	if n, got, _ := o.sum(); n != 20 || math.Abs(got-sum) > 1e-5 {
		t.Errorf("without logprobs: %d tokens with %g, want 20 with %g", n, got, sum)
	}
	for _, token := range unasked.tokens {
		if token.Logprob != 0 {
			t.Fatalf("a request without logprobs is given %+v", token)
		}
	}
	_, o = run(0, ids[:15])
	if n, got, _ := o.sum(); n != 20 || math.Abs(got-sum) > 1e-5 {
		t.Errorf("given: %d tokens with %g, want 20 with %g", n, got, sum)
	}
}

// A request that waits for its first step is told, and no longer when it has had it.
func TestOutcomeWaiting(t *testing.T) {
	f := newFake(64, 4)
	o := &told{}
	s := testSetup(f)
	submitted := make(chan struct{})
	s.outcome = func(out Outcome) {
		o.take(out)
		<-submitted // the first request isn't over before there is one that waits for it
	}
	s.limits.MaxConcurrentRequests = 1
	s.limits.MaxQueuedRequests = 1
	now := time.Unix(0, 0)
	var mu sync.Mutex
	s.now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Millisecond)
		return now
	}
	e := launchTest(t, f, s)
	first, err := e.Submit(t.Context(), plain("a", prompt("a", 10), 20))
	if err != nil {
		t.Fatal(err)
	}
	waits, err := e.Submit(t.Context(), plain("b", prompt("b", 10), 20))
	close(submitted)
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	second := read(t.Context(), waits)
	for range 20 {
		if _, err := first.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(second.tokens) != 20 {
		t.Fatalf("%d tokens", len(second.tokens))
	}
	if _, _, waiting := o.sum(); waiting <= 0 {
		t.Error("nobody has waited")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if last := o.all[len(o.all)-1]; last.Waiting != 0 {
		t.Errorf("in the last step somebody has waited for %v", last.Waiting)
	}
}
