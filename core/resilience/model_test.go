package resilience

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// plain is a replica as FAULTS 5.2 and 5.3 describe it, by the longest way: whole lists instead of rings and running counts.
type plain struct {
	state    State
	standby  bool
	calls    int
	invalid  int
	good     int // since the latest invalid answer, or since one was forgiven
	probes   int
	outcomes []bool // since the breaker last closed
	open     bool
	opened   int
	until    time.Time
	probing  bool
	times    []float64 // for a unit of work, since the replica was last made ready
}

// plainSet is a Set in the same way.
type plainSet struct {
	members   []plain
	threshold int
	times     []float64 // of all answers
}

func (p *plain) lets(now time.Time) bool { return !p.open || !p.probing && !now.Before(p.until) }

func (p *plain) begin() {
	p.calls++
	if p.open {
		p.probing = true
	}
}

// outcome is one of the breaker's.
func (p *plain) outcome(now time.Time, ok bool, threshold int, draw float64) {
	switch {
	case p.open && ok:
		p.open, p.probing, p.outcomes, p.opened = false, false, nil, 0
		return
	case p.open && !p.probing:
		return
	case ok:
		p.opened = 0
		p.outcomes = append(p.outcomes, true)
		return
	case !p.open:
		p.outcomes = append(p.outcomes, false)
	}
	last := p.outcomes[max(0, len(p.outcomes)-20):]
	failed, row := 0, 0
	for _, ok := range last {
		if !ok {
			failed++
		}
	}
	for i := len(p.outcomes) - 1; i >= 0 && !p.outcomes[i]; i-- {
		row++
	}
	if p.open || row >= threshold || len(last) == 20 && failed >= 10 {
		wait := time.Second
		for range p.opened {
			wait = min(2*wait, 30*time.Second)
		}
		p.opened++
		p.open, p.probing = true, false
		p.until = now.Add(wait/2 + time.Duration(draw*float64(wait/2)))
	}
}

// mean is the moving mean of the times: plain over the first 16, then each with a weight of a sixteenth.
func (p *plain) mean() float64 {
	m := 0.0
	for i, t := range p.times {
		m += (t - m) / float64(min(i+1, 16))
	}
	return m
}

// spare says whether one more ready replica may be left out: another one stays, and no more than half of those that could be asked are out.
func (s *plainSet) spare() bool {
	ready, suspect := s.in(Ready), s.in(Suspect)
	return ready >= 2 && suspect+1 <= (ready+suspect)/2
}

func (s *plainSet) in(st State) (n int) {
	for i := range s.members {
		if s.members[i].state == st {
			n++
		}
	}
	return n
}

func (s *plainSet) doubt(i int) {
	if p := &s.members[i]; p.state == Ready && s.spare() {
		p.state, p.probes = Suspect, 0
	}
}

func (s *plainSet) answered(now time.Time, i int, took time.Duration, work, draw float64) {
	p := &s.members[i]
	p.outcome(now, true, s.threshold, draw)
	each := float64(took) / work
	s.times = append(s.times, each)
	p.times = append(p.times, each)
	if p.good++; p.good == 1<<20 {
		p.good, p.invalid = 0, max(p.invalid-1, 0)
	}
	var others []float64
	for j := range s.members {
		if o := &s.members[j]; j != i && o.state == Ready && len(o.times) >= 16 {
			others = append(others, o.mean())
		}
	}
	slices.Sort(others)
	if len(p.times) > 16 && len(others) > 0 && p.mean() > 3*others[(len(others)-1)/2] && took > 2*time.Millisecond {
		s.doubt(i)
	}
}

func (s *plainSet) end(now time.Time, i int, o Outcome, took time.Duration, work, draw float64) Verdict {
	p := &s.members[i]
	p.calls--
	switch o {
	case Answered:
		s.answered(now, i, took, work, draw)
	case Failed:
		p.outcome(now, false, s.threshold, draw)
	case Overtaken:
		p.outcome(now, false, s.threshold, draw)
		s.doubt(i)
	case Dropped:
		p.probing = false
	case Invalid:
		p.outcome(now, false, s.threshold, draw)
		p.good = 0
		if p.invalid++; p.invalid < 3 {
			return Replace
		}
		p.state = Quarantined
		return Isolate
	}
	return Keep
}

// pick sorts all who may be asked.
func (s *plainSet) pick(now time.Time, avoid uint64) int {
	var fit []int
	for i := range s.members {
		if st := s.members[i].state; (st == Ready || st == Suspect) && avoid>>i&1 == 0 {
			fit = append(fit, i)
		}
	}
	rank := func(i int) int {
		switch p := &s.members[i]; {
		case !p.lets(now):
			return 3
		case p.state == Suspect:
			return 2
		case p.standby:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(fit, func(a, b int) int {
		if ra, rb := rank(a), rank(b); ra != rb {
			return ra - rb
		}
		return s.members[a].calls - s.members[b].calls
	})
	if len(fit) == 0 {
		return -1
	}
	return fit[0]
}

// p95 is that of the latest 128 answers, as it was when their number was last a multiple of 32.
func (s *plainSet) p95() float64 {
	n := len(s.times) / 32 * 32
	last := slices.Sorted(slices.Values(s.times[max(0, n-128):n]))
	if n == 0 {
		return 0
	}
	return last[len(last)*95/100]
}

// The Set does in every history, call for call and moment for moment, what the plain one does.
func TestAgainstPlain(t *testing.T) {
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 3))
		n, threshold := 1+rng.IntN(5), 1+rng.IntN(20)
		standbys := rng.IntN(n)
		s, p := NewSet(n, standbys, Options{BreakerThreshold: threshold}), plainSet{members: make([]plain, n), threshold: threshold}
		s.Violated = func(what string) { t.Fatalf("seed %d: %s", seed, what) }
		for i := range p.members {
			p.members[i] = plain{state: Down, standby: i >= n-standbys}
		}
		flaws := []int{0, 2, 20, 200}[rng.IntN(4)] // of a thousand ends
		fails := []int{0, 30, 300, 600}[rng.IntN(4)]
		slow := make([]int, n) // times as long as others take
		for i := range slow {
			slow[i] = 1
		}
		now := start
		for step := range 1500 {
			now = now.Add(time.Duration(rng.Int64N(int64(200 * time.Millisecond))))
			i := rng.IntN(n)
			m := &p.members[i]
			switch what := rng.IntN(100); {
			case what < 4 && m.state == Down:
				s.Up(i)
				m.state, m.probes, m.times = Ready, 0, nil
				m.open, m.probing, m.outcomes, m.opened = false, false, nil, 0
			case what < 5 && rng.IntN(8) == 0:
				s.Down(i)
				if m.state != Quarantined {
					m.state = Down
				}
			case what < 6 && rng.IntN(4) == 0:
				s.Doubt(i)
				p.doubt(i)
			case what < 7 && rng.IntN(4) == 0:
				s.Prefer(i)
				if m.state == Suspect {
					m.state, m.times = Ready, nil
				}
			case what < 8 && rng.IntN(4) == 0:
				m.standby = rng.IntN(2) == 0
				s.StandBy(i, m.standby)
			case what < 9 && rng.IntN(4) == 0:
				slow[i] = []int{1, 1, 3, 20}[rng.IntN(4)]
			case what < 12:
				ok := rng.IntN(8) > 0
				s.Probed(i, ok)
				if m.probes++; !ok {
					m.probes = 0
				}
				if m.state == Suspect && m.probes == 3 {
					m.state, m.times = Ready, nil
				}
			case what < 13 && rng.IntN(20) == 0:
				s.Drain(i)
				if m.state == Ready || m.state == Suspect {
					m.state = Draining
				}
			case what < 14 && rng.IntN(20) == 0:
				s.Quarantine(i)
				m.state = Quarantined
			case what < 16:
				s.Release(i)
				if m.state == Quarantined {
					m.state = Down
				}
				m.invalid, m.good = 0, 0
			case what < 55:
				avoid := rng.Uint64() & rng.Uint64() & rng.Uint64()
				got, want := s.Pick(now, avoid), p.pick(now, avoid)
				if got != want {
					t.Fatalf("seed %d step %d: picks %d, want %d", seed, step, got, want)
				}
				if got >= 0 {
					s.Begin(got)
					p.members[got].begin()
				}
			case m.calls > 0:
				o := Answered
				switch odds := rng.IntN(1000); {
				case odds < flaws:
					o = Invalid
				case odds < fails:
					o = []Outcome{Failed, Failed, Overtaken, Dropped}[rng.IntN(4)]
				}
				took, work := time.Duration(slow[i]*(1+rng.IntN(3)))*time.Millisecond, []float64{1, 1, 1, 7}[rng.IntN(4)]
				draw := rng.Float64()
				if got, want := s.End(now, i, o, took, work, draw), p.end(now, i, o, took, work, draw); got != want {
					t.Fatalf("seed %d step %d: outcome %v: verdict %v, want %v", seed, step, o, got, want)
				}
			}
			for j := range n {
				if got, want := s.State(j), p.members[j].state; got != want || s.Inflight(j) != p.members[j].calls {
					t.Fatalf("seed %d step %d: replica %d is %s with %d calls, want %s with %d", seed, step, j, got, s.Inflight(j), want, p.members[j].calls)
				}
			}
			after, hedged := s.HedgeAfter(3)
			most := time.Duration(3 * p.p95())
			want := max(most, 2*time.Millisecond)
			if most == 0 {
				want = 0
			}
			if after != want || hedged != (want > 0) || s.HangAfter(3) != 100*most {
				t.Fatalf("seed %d step %d: hedged %v after %v, want after %v; hung after %v, want %v", seed, step, hedged, after, want, s.HangAfter(3), 100*most)
			}
		}
	}
}

// What should never happen is said, and does not add up to more of it.
func TestViolations(t *testing.T) {
	s := NewSet(2, 0, Options{})
	said := 0
	s.Violated = func(string) { said++ }
	s.Begin(0)
	s.End(start, 0, Dropped, 0, 1, 0)
	if said != 1 {
		t.Errorf("a call on a replica that is down: said %d times", said)
	}
	s.End(start, 0, Dropped, 0, 1, 0)
	if said != 2 || s.Inflight(0) != 0 {
		t.Errorf("an end without a beginning: said %d times, %d calls", said, s.Inflight(0))
	}
	s.Quarantine(0)
	s.Up(0)
	if said != 3 || s.State(0) != Quarantined {
		t.Errorf("up in quarantine: said %d times, %s", said, s.State(0))
	}
}

// A million good answers in a row erase an invalid one, and not more than one.
func TestForgiven(t *testing.T) {
	const million = 1 << 20
	for _, c := range []struct {
		history []int // good answers, then an invalid one, and so on
		want    Verdict
	}{
		{[]int{0, 0, million - 1}, Isolate},
		{[]int{0, 0, million}, Replace},
		{[]int{0, 0, million, 0}, Isolate},
		{[]int{0, million - 1, 1}, Isolate},
		{[]int{million, 0}, Replace},
		{[]int{0, 0, 2*million - 1, 0}, Isolate},
		{[]int{0, 0, 2 * million, 0}, Replace},
	} {
		s := up(t, 1, 0, Options{})
		verdict := Keep
		for _, answers := range c.history {
			for range answers {
				call(s, 0, Answered, start, time.Millisecond)
			}
			verdict = call(s, 0, Invalid, start, 0)
		}
		if verdict != c.want {
			t.Errorf("%v: verdict %v, want %v", c.history, verdict, c.want)
		}
	}
}

// A new set has saved ten of each, and three retries at once need none.
func TestSaved(t *testing.T) {
	s := up(t, 1, 0, Options{})
	retries, hedges := 0, 0
	for hedges < 99 && s.Hedge() {
		hedges++
	}
	for retries < 99 && s.Retry() {
		retries++
	}
	if hedges != 10 || retries != 10 {
		t.Errorf("%d hedges and %d retries at once", hedges, retries)
	}
	for range 11 {
		call(s, 0, Answered, start, time.Millisecond)
	}
	if !s.Retry() || s.Retry() {
		t.Error("eleven answers earn a retry, and not two")
	}
	if s.Hedge() {
		t.Error("eleven answers earn a hedge")
	}
}

// What an operator leaves out has a default.
func TestDefaults(t *testing.T) {
	s := NewSet(1, 0, Options{})
	if got := s.members[0].breaker.threshold; got != 10 || s.retries.share != 0.1 || s.hedges.share != 0.05 {
		t.Errorf("threshold %d, retries %g, hedges %g", got, s.retries.share, s.hedges.share)
	}
	if s := NewSet(1, 0, Options{HedgeShare: -1, RetryShare: 0.5}); s.hedges.share != 0 || s.retries.share != 0.5 {
		t.Errorf("retries %g, hedges %g", s.retries.share, s.hedges.share)
	}
	defer func() {
		if recover() == nil {
			t.Error("a violation that nobody takes is passed over")
		}
	}()
	s.Begin(0)
}
