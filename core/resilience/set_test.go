package resilience

import (
	"math/rand/v2"
	"testing"
	"time"
)

var start = time.Unix(1000, 0)

func up(t *testing.T, replicas, standbys int, o Options) *Set {
	t.Helper()
	s := NewSet(replicas, standbys, o)
	s.Violated = func(what string) { t.Errorf("invariant: %s", what) }
	for i := range replicas {
		s.Up(i)
	}
	return s
}

// call makes one call on a replica and ends it.
func call(s *Set, i int, o Outcome, now time.Time, took time.Duration) Verdict {
	s.Begin(i)
	return s.End(now, i, o, took, 1, 0.5)
}

func TestPick(t *testing.T) {
	s := up(t, 3, 1, Options{})
	if got := s.Pick(start, 0); got != 0 {
		t.Errorf("idle: %d, want the lowest number", got)
	}
	s.Begin(0)
	if got := s.Pick(start, 0); got != 1 {
		t.Errorf("0 is busy: %d, want 1", got)
	}
	s.Begin(1)
	s.Begin(1)
	if got := s.Pick(start, 0); got != 0 {
		t.Errorf("the idle standby waits for its day: %d, want 0", got)
	}
	if got := s.Pick(start, 1<<0|1<<1); got != 2 {
		t.Errorf("only the standby is left: %d", got)
	}
	if got := s.Pick(start, 7); got != -1 {
		t.Errorf("all are avoided: %d", got)
	}
	s.Drain(0)
	s.Down(1)
	if got := s.Pick(start, 0); got != 2 {
		t.Errorf("draining and down: %d, want 2", got)
	}
}

// Calls that were under way when a breaker opened fail, too. They are no further tries: it stays open for the first time.
func TestBreakerOpensOnce(t *testing.T) {
	s := up(t, 2, 0, Options{BreakerThreshold: 4})
	for range 12 {
		s.Begin(0)
	}
	for range 12 {
		s.End(start, 0, Failed, time.Millisecond, 1, 0.5)
	}
	if b := s.members[0].breaker; !b.open || b.until.Sub(start) > firstOpen {
		t.Errorf("open %t, tried again after %v", b.open, b.until.Sub(start))
	}
}

func TestBreaker(t *testing.T) {
	s := up(t, 2, 0, Options{BreakerThreshold: 4})
	now := start
	for n := range 4 {
		if got := s.Pick(now, 1<<1); got != 0 {
			t.Fatalf("after %d failures in a row: %d", n, got)
		}
		if s.members[0].breaker.open {
			t.Fatalf("open after %d failures, threshold 4", n)
		}
		call(s, 0, Failed, now, time.Millisecond)
	}
	if s.Pick(now, 0) != 1 {
		t.Error("an open breaker still gets calls while another replica is there")
	}
	if s.Pick(now, 1<<1) != 0 {
		t.Error("an open breaker is better than nobody")
	}
	wait := firstOpen
	for range 60 { // half-open: one call, whose failure doubles the time
		early, late := now.Add(wait/2-1), now.Add(wait)
		if s.members[0].breaker.allows(early) || !s.members[0].breaker.allows(late) {
			t.Fatalf("want a try between %v and %v, until is %v", wait/2, wait, s.members[0].breaker.until.Sub(now))
		}
		s.Begin(0)
		if s.members[0].breaker.allows(late) {
			t.Fatal("a half-open breaker lets a second call through")
		}
		now = late
		s.End(now, 0, Failed, time.Millisecond, 1, 0.5)
		wait = min(2*wait, 30*time.Second)
	}
	now = now.Add(longestOpen)
	call(s, 0, Dropped, now, 0)
	if !s.members[0].breaker.allows(now) || !s.members[0].breaker.open {
		t.Error("a call whose caller went away says nothing")
	}
	call(s, 0, Answered, now, time.Millisecond)
	if s.members[0].breaker.open || s.Pick(now, 0) != 0 {
		t.Error("a good answer closes the breaker")
	}
	for n := range breakerWindow { // every second one fails
		call(s, 0, []Outcome{Answered, Failed}[n%2], now, time.Millisecond)
	}
	if !s.members[0].breaker.open {
		t.Error("half of 20 calls failed, and it is closed")
	}
}

func TestQuarantine(t *testing.T) {
	s := up(t, 2, 0, Options{})
	for n := range invalidLimit {
		want := Replace
		if n == invalidLimit-1 {
			want = Isolate
		}
		if got := call(s, 0, Invalid, start, 0); got != want {
			t.Fatalf("invalid answer %d: verdict %v, want %v", n+1, got, want)
		}
		s.Down(0)
		if want == Replace {
			s.Up(0) // a fresh process does not wash the replica clean
			call(s, 0, Answered, start, time.Millisecond)
		}
	}
	if s.State(0) != Quarantined || s.Pick(start, 1<<1) != -1 {
		t.Errorf("state %v", s.State(0))
	}
	s.Release(0)
	if s.State(0) != Down {
		t.Errorf("released: %v", s.State(0))
	}
	s.Up(0)
	if got := call(s, 0, Invalid, start, 0); got != Replace {
		t.Errorf("after a release the count begins anew, verdict %v", got)
	}
}

// A slow replica is left out and comes back after good probes; the last one, and half of a group, never are.
func TestOutlier(t *testing.T) {
	s := up(t, 4, 0, Options{})
	for n := range 20 * slowCalls {
		for i := range 4 {
			took := 3 * time.Millisecond
			if i >= 1 { // three of four are slow now and then, at different times
				took = time.Duration(3+(n/slowCalls%4)*20*i) * time.Millisecond
			}
			call(s, i, Answered, start, took)
		}
		suspects := 0
		for i := range 4 {
			if s.State(i) == Suspect {
				suspects++
			}
		}
		if suspects > 2 {
			t.Fatalf("round %d: %d of 4 are left out", n, suspects)
		}
	}
	slow := up(t, 2, 0, Options{})
	for range 2 * slowCalls {
		call(slow, 0, Answered, start, 3*time.Millisecond)
		call(slow, 1, Answered, start, 30*time.Millisecond)
	}
	if slow.State(1) != Suspect || slow.Pick(start, 0) != 0 || slow.Pick(start, 1) != 1 {
		t.Fatalf("ten times as slow as the other: %v", slow.State(1))
	}
	slow.Doubt(0)
	if slow.State(0) != Ready {
		t.Error("the last ready replica is left out")
	}
	slow.Probed(1, true)
	slow.Probed(1, true)
	slow.Probed(1, false)
	for n := range goodProbes {
		if slow.State(1) != Suspect {
			t.Fatalf("ready after %d good probes in a row", n)
		}
		slow.Probed(1, true)
	}
	if slow.State(1) != Ready {
		t.Errorf("after good probes: %v", slow.State(1))
	}
}

// Exactly three times as slow as the median of the others, the lower one of two, is not too slow yet, and no call that takes the
// least time of a hedge ever is.
func TestOutlierEdges(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		others []time.Duration
		most   time.Duration
	}{
		{[]time.Duration{ms / 100}, hedgeFloor}, {[]time.Duration{3 * ms}, 9 * ms}, {[]time.Duration{5 * ms, 3 * ms}, 9 * ms},
		{[]time.Duration{20 * ms, ms, 3 * ms}, 9 * ms}, {[]time.Duration{30 * ms, 20 * ms, 3 * ms, ms}, 9 * ms},
		{[]time.Duration{30 * ms, ms, 3 * ms, 20 * ms, 2 * ms}, 9 * ms},
	} {
		for took, want := range map[time.Duration]State{c.most: Ready, c.most + 1: Suspect} {
			s := up(t, len(c.others)+1, 0, Options{})
			last := len(c.others)
			for range slowCalls {
				for i, took := range c.others {
					call(s, i, Answered, start, took)
				}
				call(s, last, Answered, start, took)
			}
			if s.State(last) != Ready {
				t.Errorf("%v beside %v: %s before it has been measured for long enough", took, c.others, s.State(last))
			}
			if call(s, last, Answered, start, took); s.State(last) != want {
				t.Errorf("%v beside %v: %s, want %s", took, c.others, s.State(last), want)
			}
		}
	}
}

// Of two replicas, the one that is left out comes back when it answers what the other one does not.
func TestPrefer(t *testing.T) {
	s := up(t, 2, 0, Options{})
	s.Doubt(0)
	s.Begin(1)
	s.Prefer(0)
	s.End(start, 1, Overtaken, time.Second, 1, 0.5)
	if s.State(0) != Ready || s.State(1) != Suspect {
		t.Errorf("%s and %s, want the second one in doubt", s.State(0), s.State(1))
	}
	s.Down(0)
	if s.Prefer(0); s.State(0) != Down {
		t.Errorf("a replica without a process is %s", s.State(0))
	}
}

func TestHedge(t *testing.T) {
	s := up(t, 2, 0, Options{})
	if _, ok := s.HedgeAfter(1); ok {
		t.Error("hedged before anything is known")
	}
	for n := range latencyKept { // 1 to 128 ms
		s.Begin(0)
		s.End(start, 0, Answered, time.Duration(n+1)*time.Millisecond, 10, 0.5)
	}
	if after, ok := s.HedgeAfter(10); !ok || after != 122*time.Millisecond {
		t.Errorf("after %v, want the 95th of 100: 122ms", after)
	}
	if after, _ := s.HedgeAfter(0.01); after != hedgeFloor {
		t.Errorf("a tiny call: after %v, want %v", after, hedgeFloor)
	}
	s.Down(1)
	if _, ok := s.HedgeAfter(10); !ok {
		t.Error("not hedged although the second replica may be back by then")
	}
	s = up(t, 2, 0, Options{HedgeShare: -1})
	for range latencyKept {
		call(s, 0, Answered, start, time.Millisecond)
	}
	if after, ok := s.HedgeAfter(10); ok || s.HangAfter(10) == 0 {
		t.Errorf("hedged after %v although it is switched off; hung after %v", after, s.HangAfter(10))
	}
}

// Extra calls stay within their share of the successes, but for what is saved up.
func TestBudgets(t *testing.T) {
	s := up(t, 2, 0, Options{})
	calls, hedges := 0, 0
	for range 10000 {
		calls++
		call(s, 0, Answered, start, time.Millisecond)
		if s.Hedge() {
			hedges++
			s.EndHedge()
		}
	}
	if most := calls/20 + 10; hedges > most || hedges < calls/20 {
		t.Errorf("%d hedges for %d calls, want 5 %% and what was saved", hedges, calls)
	}
	for n := range 10 { // nothing succeeds any more; what is saved is used up, one after the other
		if !s.Retry() {
			t.Fatalf("%d retries were saved, want 10", n)
		}
		s.EndRetry()
	}
	for n := range 3 {
		if !s.Retry() {
			t.Fatalf("%d retries at once without a success, want 3", n)
		}
	}
	if s.Retry() {
		t.Error("a fourth retry at once")
	}
	s.EndRetry()
	if !s.Retry() || s.Retry() {
		t.Error("whoever gives one back makes room for one")
	}
}

// Whatever happens in whatever order, the invariants hold: the Set complains of none, and names nobody who must not be asked.
func TestRandomHistories(t *testing.T) {
	states := map[[2]State]bool{}
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		n := 1 + rng.IntN(5)
		s := NewSet(n, rng.IntN(n), Options{BreakerThreshold: 1 + rng.IntN(12)})
		s.Violated = func(what string) { t.Fatalf("seed %d: %s", seed, what) }
		inflight := make([]int, n)
		now := start
		for range 2000 {
			now = now.Add(time.Duration(rng.Int64N(int64(100 * time.Millisecond))))
			i := rng.IntN(n)
			before := s.State(i)
			switch rng.IntN(12) {
			case 0:
				if before == Down {
					s.Up(i)
				}
			case 1:
				s.Down(i)
			case 2:
				s.Doubt(i)
			case 3:
				s.Probed(i, rng.IntN(4) > 0)
			case 4:
				if rng.IntN(20) == 0 {
					s.Drain(i)
				}
			case 5:
				if rng.IntN(20) == 0 {
					s.Quarantine(i)
				}
			case 6:
				if rng.IntN(4) == 0 {
					s.Release(i)
				}
			case 7, 8:
				avoid := rng.Uint64() & rng.Uint64()
				p := s.Pick(now, avoid)
				if p < 0 {
					for j := range n {
						if st := s.State(j); (st == Ready || st == Suspect) && avoid&(1<<j) == 0 {
							t.Fatalf("seed %d: nobody picked, but %d is %s", seed, j, st)
						}
					}
					break
				}
				if st := s.State(p); st != Ready && st != Suspect || avoid&(1<<p) != 0 {
					t.Fatalf("seed %d: picked %d, which is %s", seed, p, st)
				}
				s.Begin(p)
				inflight[p]++
			default:
				if inflight[i] > 0 {
					inflight[i]--
					s.End(now, i, Outcome(rng.IntN(5)), time.Duration(rng.Int64N(int64(50*time.Millisecond))), 1+rng.Float64()*100, rng.Float64())
				}
			}
			states[[2]State{before, s.State(i)}] = true
			if s.Inflight(i) != inflight[i] {
				t.Fatalf("seed %d: replica %d has %d calls, says %d", seed, i, inflight[i], s.Inflight(i))
			}
		}
	}
	all := []State{Down, Ready, Suspect, Quarantined, Draining}
	never := map[[2]State]bool{ // by what the states mean
		{Down, Suspect}: true, {Down, Draining}: true, {Quarantined, Ready}: true, {Quarantined, Suspect}: true, {Quarantined, Draining}: true,
		{Draining, Ready}: true, {Draining, Suspect}: true,
	}
	for _, from := range all {
		for _, to := range all {
			if pair := [2]State{from, to}; states[pair] == never[pair] {
				t.Errorf("%s to %s: seen %v", from, to, states[pair])
			}
		}
	}
}
