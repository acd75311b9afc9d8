package host

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/resilience"
)

// happening is something that can happen to a replica.
type happening int

const (
	comesUp happening = iota
	dies
	isDoubted
	passesTest
	failsTest
	isDrained
	isQuarantined
	isReleased
	getsCall
	answersCall
	failsCall
	garblesCall
	isOvertaken
	losesCaller
	happenings
)

var happeningNames = [happenings]string{
	"comes up", "dies", "is doubted", "passes a test", "fails a test", "is drained", "is quarantined", "is released",
	"gets a call", "answers", "fails a call", "garbles an answer", "is overtaken", "loses a caller",
}

var replicaStates = []resilience.State{resilience.Down, resilience.Ready, resilience.Suspect, resilience.Quarantined, resilience.Draining}

// machines are the state machines of one group, driven without goroutines, and what a much simpler bookkeeping knows of them.
type machines struct {
	t        *testing.T
	seed     uint64
	rng      *rand.Rand
	now      time.Time
	set      *resilience.Set
	replicas []machine
	events   int // that had something to happen to
	answers  int
	hedges   int
	out      [2]int // retries and hedges under way
	seen     *[5][happenings][5]int
}

type machine struct {
	restarts restarts
	pulse    *pulse
	beat     uint64
	quiet    int // looks in time without a beat
	worked   bool
	next     time.Time // when it may be started
	idle     []time.Time
	calls    int
}

func (m *machines) failf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("seed %d: %s", m.seed, fmt.Sprintf(format, args...))
}

// happens does one thing, if it can happen now, and notes from which state to which it leads.
func (m *machines) happens(i int, h happening) {
	r, before := &m.replicas[i], m.set.State(i)
	switch h {
	case comesUp:
		if before != resilience.Down || m.now.Before(r.next) {
			return
		}
		m.set.Up(i)
		r.pulse, r.beat, r.quiet, r.worked = newPulse(m.now), 0, 0, false
	case dies:
		if r.pulse == nil {
			return
		}
		m.set.Down(i)
		m.restart(r)
	case isDoubted:
		m.set.Doubt(i)
	case passesTest, failsTest:
		m.set.Probed(i, h == passesTest)
	case isDrained:
		m.set.Drain(i)
	case isQuarantined:
		m.set.Quarantine(i)
	case isReleased:
		if before == resilience.Quarantined && r.pulse != nil { // its process is ended first
			return
		}
		m.set.Release(i)
	case getsCall:
		if m.picked(i) {
			r.calls++
		} else {
			return
		}
	default:
		if r.calls == 0 {
			return
		}
		m.ends(i, h)
	}
	m.events++
	after := m.set.State(i)
	m.seen[slices.Index(replicaStates, before)][h][slices.Index(replicaStates, after)]++
	if m.set.Inflight(i) != r.calls {
		m.failf("replica %d has %d calls, says %d", i, r.calls, m.set.Inflight(i))
	}
}

// restart asks when the process is started again, and holds the answer against FAULTS 5.1.
func (m *machines) restart(r *machine) {
	wait, failed := r.restarts.next(m.now, map[bool]ending{true: worked}[r.worked], m.rng.Float64())
	r.pulse, r.next = nil, m.now.Add(wait)
	r.idle = slices.DeleteFunc(r.idle, func(t time.Time) bool { return m.now.Sub(t) >= intensityOver })
	if r.worked {
		r.idle = nil
	} else {
		r.idle = append(r.idle, m.now)
	}
	switch {
	case r.worked && (wait != 0 || failed):
		m.failf("a process that had worked is started again after %v, failed %v", wait, failed)
	case failed != (len(r.idle) > intensity), failed && wait != halfOpenPeriod:
		m.failf("%d deaths without work in %v: failed %v, wait %v", len(r.idle), intensityOver, failed, wait)
	case !failed && wait >= maxBackoff:
		m.failf("wait %v", wait)
	}
}

// picked begins a call where the set says, and reports whether that is i.
func (m *machines) picked(i int) bool {
	avoid := m.rng.Uint64() & m.rng.Uint64()
	p := m.set.Pick(m.now, avoid)
	for j := range m.replicas {
		st := m.set.State(j)
		fit := (st == resilience.Ready || st == resilience.Suspect) && avoid&(1<<j) == 0
		if fit && p < 0 || !fit && p == j {
			m.failf("picked %d without %b, and %d is %s", p, avoid, j, st)
		}
	}
	if p != i {
		return false
	}
	m.set.Begin(i)
	return true
}

func (m *machines) ends(i int, h happening) {
	r := &m.replicas[i]
	r.calls--
	o := [...]resilience.Outcome{resilience.Answered, resilience.Failed, resilience.Invalid, resilience.Overtaken, resilience.Dropped}[h-answersCall]
	took := time.Duration(m.rng.Int64N(int64(8 * time.Millisecond)))
	if i == 0 { // an outlier
		took *= 5
	}
	verdict := m.set.End(m.now, i, o, took, 1+100*m.rng.Float64(), m.rng.Float64())
	if o == resilience.Answered {
		m.answers++
		r.worked = true
	}
	switch {
	case (verdict == resilience.Keep) != (o != resilience.Invalid):
		m.failf("outcome %v: verdict %v", o, verdict)
	case (verdict == resilience.Isolate) && m.set.State(i) != resilience.Quarantined:
		m.failf("isolated, and %s", m.set.State(i))
	case verdict == resilience.Replace && r.pulse != nil:
		m.happens(i, dies)
	}
}

// extra takes and gives back retries and hedges, and holds them against the budgets.
func (m *machines) extra() {
	switch n := m.rng.IntN(4); {
	case n == 0 && m.set.Retry():
		m.out[0]++
	case n == 1 && m.out[0] > 0:
		m.out[0]--
		m.set.EndRetry()
	case n == 2 && m.set.Hedge():
		m.out[1]++
		if m.hedges++; float64(m.hedges) > 10+0.05*float64(m.answers) {
			m.failf("%d hedges for %d answers", m.hedges, m.answers)
		}
	case n == 3 && m.out[1] > 0:
		m.out[1]--
		m.set.EndHedge()
	}
}

// looks has the heartbeats looked at: silentLooks looks in time without a beat are a death.
func (m *machines) looks() {
	pause := lookEvery
	late := m.rng.IntN(8) == 0
	if late {
		pause = 2*lookEvery + 1
	}
	m.now = m.now.Add(pause)
	for i := range m.replicas {
		r := &m.replicas[i]
		if r.pulse == nil {
			continue
		}
		m.events++
		r.pulse.seen = m.now.Add(-pause) // all are looked at at the same moments
		if m.rng.IntN(12) == 0 {
			r.beat++
			r.quiet = 0
		} else if !late {
			r.quiet++
		}
		if got, want := r.pulse.silent(m.now, r.beat), r.quiet >= int(silentLooks) && !late; got != want {
			m.failf("%d looks without a beat, late %v: silent %v", r.quiet, late, got)
		} else if got {
			m.happens(i, dies)
		}
	}
}

// TestMachines drives the state machines alone through more than ten million events.
func TestMachines(t *testing.T) {
	const steps = 2500
	histories, want := 15000, 10_000_000
	if raced {
		histories, want = histories/10, want/10
	}
	var seen [5][happenings][5]int
	events, began, virtual := 0, time.Now(), time.Duration(0)
	for seed := range uint64(histories) {
		rng := rand.New(rand.NewPCG(seed, 2))
		n := 1 + rng.IntN(5)
		m := &machines{t: t, seed: seed, rng: rng, now: time.Unix(1000, 0), replicas: make([]machine, n), seen: &seen}
		m.set = resilience.NewSet(n, rng.IntN(n), resilience.Options{BreakerThreshold: 1 + rng.IntN(12)})
		m.set.Violated = func(what string) { m.failf("%s", what) }
		for range steps {
			m.now = m.now.Add(time.Duration(rng.Int64N(int64(20 * time.Millisecond))))
			switch h := happening(rng.IntN(int(happenings) + 12)); {
			case h >= happenings+8:
				m.extra()
			case h >= happenings+7:
				m.looks()
			case h >= happenings+4:
				m.happens(rng.IntN(n), answersCall)
			case h >= happenings:
				m.happens(rng.IntN(n), getsCall)
			case (h == isDrained || h == isQuarantined || h == isReleased) && rng.IntN(8) > 0:
				m.happens(rng.IntN(n), comesUp)
			default:
				m.happens(rng.IntN(n), h)
			}
		}
		events += m.events
		virtual += m.now.Sub(time.Unix(1000, 0))
	}
	took := time.Since(began)
	t.Logf("measured: %d events, %.1f virtual days in %.1f s", events, virtual.Hours()/24, took.Seconds())
	if events < want {
		t.Errorf("%d events, want %d", events, want)
	}
	compareTransitions(t, &seen)
}

// compareTransitions holds what was seen against the table of all that may happen: each line of it must have been seen, and
// nothing else.
func compareTransitions(t *testing.T, seen *[5][happenings][5]int) {
	t.Helper()
	var b strings.Builder
	for from, state := range replicaStates {
		for h := range happenings {
			var to []string
			for i, s := range replicaStates {
				if seen[from][h][i] > 0 {
					to = append(to, string(s))
				}
			}
			if len(to) > 0 {
				fmt.Fprintf(&b, "%s, %s: %s\n", state, happeningNames[h], strings.Join(to, " or "))
			}
		}
	}
	const path = "testdata/transitions.txt"
	if os.Getenv("PIMOE_TEST_UPDATE") == "1" {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("other transitions than %s says (PIMOE_TEST_UPDATE=1 rewrites it):\n%s", path, b.String())
	}
}
