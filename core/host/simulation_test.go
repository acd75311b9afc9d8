package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/resilience"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

const simHidden = 4

// late is how much later than its deadline a call may end: the longest time that it does not look at its context.
const late = time.Millisecond

// simulate runs one history: real supervisors, groups, calls and rechecks over fake processes, for so much virtual time.
func simulate(t *testing.T, seed uint64, length time.Duration) *world {
	w := &world{t: t, seed: seed, counts: map[string]int{}, pairs: map[[2]State]int{}}
	synctest.Test(t, func(t *testing.T) {
		w.began, w.told = time.Now(), newNotifier()
		w.run(length)
	})
	return w
}

func (w *world) run(length time.Duration) {
	rng := w.stream(1)
	fl := &fleet{shards: &shardSet{}, children: w.told}
	fl.life, fl.stop = context.WithCancel(context.Background())
	o := Options{
		StartTimeout: 3 * time.Second, MaxRetries: 2, RecheckRate: 0.2, RecheckHere: true, Experts: ExpertShape{Hidden: simHidden},
		Resilience: resilience.Options{BreakerThreshold: 3 + rng.IntN(10)},
		Metrics:    metrics.New(), Log: slog.New(slog.DiscardHandler),
	}
	l := &launcher{options: o, fleet: fl, shards: fl.shards}
	w.witnessed = rng.IntN(3) > 0
	l.recheck = newRecheck(o, func(context.Context, *group) (*twin, error) {
		if w.witnessed {
			return &twin{expert: witness{}}, nil
		}
		return nil, errNoTwin
	})
	fl.wg.Go(func() { l.recheck.run(fl.life) })
	var groups []*group
	for n := range 2 + rng.IntN(2) {
		groups = append(groups, w.group(n, l, randomSpec(n, rng)))
	}
	if err := fl.awaitReady(fl.life); err != nil {
		w.t.Fatalf("seed %d: %v", w.seed, err)
	}
	load, endLoad := context.WithTimeout(fl.life, length)
	var clients sync.WaitGroup
	for n, g := range groups {
		for c := range 1 + rng.IntN(3) {
			clients.Go(func() { w.client(load, g, uint64(n), uint64(c)) })
		}
	}
	clients.Go(func() { w.operator(load) })
	clients.Go(func() { w.resizer(load, fl, groups) })
	clients.Go(func() { w.watch(load) })
	clients.Wait()
	endLoad()
	time.Sleep((recheckQueue + 1) * recheckLimit) // what is still repeated behind the clients' backs
	synctest.Wait()
	w.settled(groups)
	w.mu.Lock()
	last := w.sites[rng.IntN(len(w.sites))].live
	w.mu.Unlock()
	if last != nil { // the host ends while a process starts
		last.exit(client.Death{Signal: "SIGKILL", ExitCode: -1})
		time.Sleep(some(rng, 5*time.Millisecond))
	}
	fl.stop()
	fl.wg.Wait()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sites {
		w.look(s)
		if s.live != nil {
			w.failf("%s: a process outlives its host", s.name())
		}
	}
}

// randomSpec is the n-th group's.
func randomSpec(n int, rng *rand.Rand) GroupSpec {
	spec := GroupSpec{Name: fmt.Sprintf("e%d", n), Replicas: 1 + rng.IntN(3), Standby: rng.IntN(2), Packed: &weights.Variant{}}
	if rng.IntN(2) == 0 {
		spec.MaxReplicas = spec.Replicas + 1 + rng.IntN(2)
	}
	for e := range 1 + rng.IntN(2) {
		spec.Units = append(spec.Units, expert.Unit{Layer: n, Expert: e})
	}
	return spec
}

// group makes the n-th group over fakes and has it supervised.
func (w *world) group(n int, l *launcher, spec GroupSpec) *group {
	g, err := newGroup(n, spec, l)
	if err != nil {
		w.t.Fatalf("seed %d: %v", w.seed, err)
	}
	violated := g.set.Violated
	g.set.Violated = func(what string) {
		violated(what)
		w.t.Errorf("seed %d, after %v: %s: invariant violated: %s", w.seed, time.Since(w.began), spec.Name, what)
	}
	g.draw = w.drawing(2, uint64(n))
	rng := w.stream(7, uint64(n))
	silent := rng.IntN(4) == 0
	for r, sup := range g.replicas {
		s := &site{world: w, group: g, replica: r, answers: g.answers, silent: silent, last: StateStarting, rotten: rng.IntN(6) == 0}
		s.honest = !w.witnessed && (len(g.replicas) < 3 || spec.MaxReplicas > 0)
		w.sites = append(w.sites, s)
		sup.launch, sup.draw = s.launch, w.drawing(3, s.id())
	}
	l.fleet.enlist(g)
	l.fleet.all = append(l.fleet.all, g.serving()...)
	return g
}

// drawing is a source of numbers in [0, 1) that may be used by several goroutines.
func (w *world) drawing(parts ...uint64) func() float64 {
	rng := w.stream(parts...)
	var mu sync.Mutex
	return func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return rng.Float64()
	}
}

// client makes one call after the other, in bursts and now and then, with long and short deadlines, and judges the outcomes.
func (w *world) client(ctx context.Context, g *group, n, c uint64) {
	burst := 0
	for id := uint64(0); ; id++ {
		rng := w.stream(4, n, c, id)
		think := some(rng, time.Second)
		if burst--; burst > 0 {
			think = some(rng, 5*time.Millisecond)
		} else if rng.IntN(20) == 0 {
			burst = rng.IntN(50)
		}
		if !sleep(ctx, think) {
			return
		}
		w.one(ctx, g, rng, n<<40|c<<32|id)
	}
}

// one makes a call and holds its only outcome against what was promised.
func (w *world) one(ctx context.Context, g *group, rng *rand.Rand, id uint64) {
	patience := 30 * time.Second
	if rng.IntN(4) == 0 {
		patience = some(rng, 50*time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if rng.IntN(30) == 0 { // the client goes away
		gone := time.AfterFunc(some(rng, 3*time.Millisecond), cancel)
		defer gone.Stop()
	}
	call := randomCall(g, rng)
	began := time.Now()
	pending := g.Start(ctx, call)
	if s, ok := pending.(moe.Sleeper); ok {
		s.Wake(true)
	}
	err := pending.Wait()
	took := time.Since(began)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events += 2
	w.digest += mixed(id ^ uint64(took)<<20)
	if took > patience+late {
		w.failf("%s: a call with %v to live ended after %v: %v", g.spec.Name, patience, took, err)
	}
	var unavailable *UnavailableError
	switch {
	case err == nil:
		w.counts["answered"]++
		w.rightly(g, call)
	case ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.As(err, &unavailable)):
		w.counts["out of time"]++
	case errors.As(err, &unavailable):
		w.counts["unavailable"]++
	case errors.Is(err, sdk.ErrInvalidOutput), errors.Is(err, sdk.ErrUnavailable):
		w.counts["given up"]++
	default:
		w.failf("%s: a call ended with %v", g.spec.Name, err)
	}
}

// rightly holds an answer against what the experts should have said. A wrong one must come from a process that has just
// told a lie, and those are caught. The caller holds mu.
func (w *world) rightly(g *group, call *expert.Call) {
	want := *call
	want.Y = tensor.NewMatrix(call.Y.Rows, call.Y.Cols)
	compute(&want)
	if sameBits(want.Y.Data, call.Y.Data) {
		return
	}
	w.counts["answered wrongly"]++
	for _, s := range w.sites {
		if s.group == g && !s.lied.IsZero() && time.Since(s.lied) < time.Minute {
			return
		}
	}
	w.failf("%s: a wrong answer, and nobody has lied", g.spec.Name)
}

func randomCall(g *group, rng *rand.Rand) *expert.Call {
	call := &expert.Call{Layer: g.spec.Units[0].Layer, Threads: 1}
	rows := 0
	for _, u := range g.spec.Units {
		if n := rng.IntN(8); n > 0 {
			call.Segments = append(call.Segments, expert.Segment{Expert: u.Expert, Rows: n})
			rows += n
		}
	}
	if rows == 0 {
		rows = 1
		call.Segments = []expert.Segment{{Expert: g.spec.Units[0].Expert, Rows: 1}}
	}
	call.X, call.Y = tensor.NewMatrix(rows, simHidden), tensor.NewMatrix(rows, simHidden)
	for i := range call.X.Data {
		call.X.Data[i] = rng.Float32()
	}
	if rng.IntN(2) == 0 {
		for range rows {
			call.From = append(call.From, int32(rng.IntN(rows)))
		}
	}
	return call
}

// operator sets quarantined replicas free, sooner or later.
func (w *world) operator(ctx context.Context) {
	rng := w.stream(5)
	for sleep(ctx, some(rng, 2*time.Minute)) {
		s := w.sites[rng.IntN(len(w.sites))]
		if s.group.release(s.replica) {
			w.mu.Lock()
			s.invalid, s.lied, s.isolated = 0, time.Time{}, time.Time{}
			w.mu.Unlock()
			w.event("released", s, 0)
		}
	}
}

// resizer has groups grow and shrink, one at a time, whatever state their replicas are in.
func (w *world) resizer(ctx context.Context, fl *fleet, groups []*group) {
	rng := w.stream(8)
	for sleep(ctx, some(rng, 20*time.Second)) {
		g := groups[rng.IntN(len(groups))]
		if g.spec.MaxReplicas == 0 {
			continue
		}
		n := 1 + rng.IntN(g.spec.most())
		began, before := time.Now(), g.size()
		err := fl.resize(fl.life, g, n)
		w.mu.Lock()
		w.events++
		w.counts["resized"]++
		w.digest += mixed(w.now() ^ uint64(g.size()))
		switch long := time.Since(began); {
		case err == nil && g.size() != n:
			w.failf("%s has %d replicas, want %d", g.spec.Name, g.size(), n)
		case err != nil && n < before:
			w.failf("%s could not shrink from %d to %d: %v", g.spec.Name, before, n, err)
		case long > 2*time.Minute:
			w.failf("%s went from %d to %d in %v: %v", g.spec.Name, before, n, long, err)
		}
		w.mu.Unlock()
	}
}

// watch looks now and then at what must hold once everybody has done what there is to do at a moment.
func (w *world) watch(ctx context.Context) {
	rng := w.stream(6)
	for sleep(ctx, some(rng, time.Second)) {
		synctest.Wait()
		w.mu.Lock()
		for _, s := range w.sites {
			w.look(s)
			w.still(s)
		}
		w.mu.Unlock()
	}
}

// still checks a replica while nobody runs. The caller holds mu.
func (w *world) still(s *site) {
	w.events++
	g, sup := s.group, s.group.replicas[s.replica]
	g.mu.Lock()
	defer g.mu.Unlock()
	sup.mu.Lock()
	defer sup.mu.Unlock()
	state, health := sup.state, g.set.State(s.replica)
	inc := sup.current
	switch {
	case (state == StateReady) != (inc != nil):
		w.failf("%s is %s, and its process is there: %v", s.name(), state, inc != nil)
	case inc != nil && (s.live == nil || s.live.inc != inc):
		w.failf("%s is said to have a process that is not the living one", s.name())
	case g.living[s.replica] != inc:
		w.failf("%s: the group knows another process than the supervisor", s.name())
	case (state == StateBarred || state == StateStopped || state == StateParked) && s.live != nil:
		w.failf("%s is %s and has a process", s.name(), state)
	case inc == nil && (health == resilience.Ready || health == resilience.Suspect):
		w.failf("%s is %s without a process", s.name(), health)
	case inc != nil && inc.verdict.Load() == nil && health == resilience.Down && !sup.parked.Load():
		w.failf("%s has a good process that is down for ever", s.name())
	case health == resilience.Quarantined && s.live != nil && time.Since(s.isolated) > stopWithin+time.Second:
		w.failf("%s is in quarantine for %v and has a process", s.name(), time.Since(s.isolated))
	case inc != nil && s.live.hangs() > 15*time.Second:
		w.failf("%s hangs for %v and is still there", s.name(), s.live.hangs())
	case health == resilience.Quarantined && !s.honest && s.lied.IsZero() && s.invalid < 3 && w.witnessed:
		w.failf("%s is in quarantine with %d invalid answers and no lie", s.name(), s.invalid)
	}
	if hedges, calls := g.counts.hedges.Get(), g.answered(); float64(hedges) > 10+0.05*float64(calls) {
		w.failf("%s: %d hedges for %d answers", g.spec.Name, hedges, calls)
	}
}

// answered are the answers of all replicas.
func (g *group) answered() (n uint64) {
	for _, st := range g.stats {
		n += st.calls.Load()
	}
	return n
}

// settled checks that what was taken has been given back when no call is under way.
func (w *world) settled(groups []*group) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range groups {
		for r := range g.replicas {
			if n := g.set.Inflight(r); n != 0 {
				w.failf("%s/%d: %d calls are under way, and nobody waits", g.spec.Name, r, n)
			}
			if inc := g.living[r]; inc != nil && inc.inflight.Load() != 0 {
				w.failf("%s/%d: its process has %d calls, and nobody waits", g.spec.Name, r, inc.inflight.Load())
			}
		}
		for range 11 { // uses up what is saved
			if g.set.Retry() {
				g.set.EndRetry()
			}
			if g.set.Hedge() {
				g.set.EndHedge()
			}
		}
		atOnce := 0
		for g.set.Retry() {
			atOnce++
		}
		if atOnce != 3 || g.set.Hedge() {
			w.failf("%s: %d retries at once are left, want 3", g.spec.Name, atOnce)
		}
	}
}

// simulated is what the environment asks for: PIMOE_SIM_SEED, one history again; PIMOE_SIM_FOR, other histories for so long,
// with seeds from the clock. Else it is nil.
func simulated(t *testing.T) func(n int) (seed uint64, more bool) {
	if v := os.Getenv("PIMOE_SIM_SEED"); v != "" {
		seed, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("PIMOE_SIM_SEED: %v", err)
		}
		return func(n int) (uint64, bool) { return seed, n == 0 }
	}
	if v := os.Getenv("PIMOE_SIM_FOR"); v != "" {
		long, err := time.ParseDuration(v)
		if err != nil {
			t.Fatalf("PIMOE_SIM_FOR: %v", err)
		}
		until := time.Now().Add(long)
		return func(int) (uint64, bool) { return uint64(time.Now().UnixNano()), time.Now().Before(until) }
	}
	return nil
}

// TestSimulation is hours of random faults in seconds.
func TestSimulation(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // goroutines of one moment then run in the same order, but for the runtime's own affairs
	seeds := simulated(t)
	bounded := seeds == nil
	if bounded {
		hours := 24
		if v := os.Getenv("PIMOE_SIM_HOURS"); v != "" || raced {
			bounded, hours = false, 2
			if n, err := strconv.Atoi(v); err == nil {
				hours = n
			}
		}
		seeds = func(n int) (uint64, bool) { return uint64(n + 1), n < hours }
	}
	const length = time.Hour
	events, runs, began := 0, 0, time.Now()
	counts, pairs := map[string]int{}, map[[2]State]int{}
	for ; ; runs++ {
		seed, more := seeds(runs)
		if !more || t.Failed() {
			break
		}
		w := simulate(t, seed, length)
		events += w.events
		for what, n := range w.counts {
			counts[what] += n
		}
		for pair, n := range w.pairs {
			pairs[pair] += n
		}
	}
	took := time.Since(began)
	t.Logf("measured: %d virtual hours, %d events, %.1f virtual days a second, %.0f events a second", runs, events,
		float64(runs)*length.Hours()/24/took.Seconds(), float64(events)/took.Seconds())
	t.Logf("what happened: %v", counts)
	t.Logf("changes of state: %v", pairs)
	if !bounded {
		return
	}
	for _, pair := range [][2]State{
		{StateStarting, StateReady}, {StateStarting, StateFailed}, {StateStarting, StateBarred}, {StateStarting, StateStopped},
		{StateReady, StateStarting}, {StateReady, StateFailed}, {StateReady, StateStopped},
		{StateFailed, StateStarting}, {StateFailed, StateReady}, {StateBarred, StateStarting}, {StateBarred, StateStopped},
		{StateStarting, StateParked}, {StateReady, StateParked}, {StateFailed, StateParked}, {StateBarred, StateParked},
		{StateParked, StateStarting}, {StateParked, StateStopped},
	} {
		if pairs[pair] == 0 {
			t.Errorf("no supervisor went from %s to %s", pair[0], pair[1])
		}
		delete(pairs, pair)
	}
	if len(pairs) > 0 {
		t.Errorf("supervisors went where nobody thought of: %v", pairs)
	}
}

// A failure is of use only if its seed shows it again: two runs of a seed are the same, event by event.
func TestSimulationRepeats(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for seed := range uint64(4) {
		first, second := simulate(t, seed, time.Hour/4), simulate(t, seed, time.Hour/4)
		if first.events != second.events || first.digest != second.digest {
			t.Errorf("seed %d: %d events with digest %x, then %d with %x", seed, first.events, first.digest, second.events, second.digest)
		}
	}
}

// peace is a world where nothing goes wrong by itself, with one group in a host that is run as long as f runs.
func peace(t *testing.T, replicas int, f func(t *testing.T, w *world, g *group)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, seed: 1, began: time.Now(), told: newNotifier(), counts: map[string]int{}, pairs: map[[2]State]int{}, peaceful: true}
		fl := &fleet{shards: &shardSet{}, children: w.told}
		fl.life, fl.stop = context.WithCancel(context.Background())
		l := &launcher{fleet: fl, shards: fl.shards, options: Options{
			StartTimeout: 3 * time.Second, MaxRetries: 2, Experts: ExpertShape{Hidden: simHidden},
			Metrics: metrics.New(), Log: slog.New(slog.DiscardHandler),
		}}
		g := w.group(0, l, GroupSpec{Name: "e0", Replicas: replicas, Units: []expert.Unit{{}}, Packed: &weights.Variant{}})
		if err := fl.awaitReady(fl.life); err != nil {
			t.Fatal(err)
		}
		f(t, w, g)
		fl.stop()
		fl.wg.Wait()
	})
}

// What a process is found guilty of late is its successor's end, too: the replica is in quarantine, not the process.
func TestQuarantineMeetsASuccessor(t *testing.T) {
	for name, wait := range map[string]time.Duration{"that starts": time.Millisecond, "that serves": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			peace(t, 1, func(t *testing.T, w *world, g *group) {
				s := w.sites[0]
				_, old := g.begin(0)
				g.end(0, old, resilience.Answered, time.Millisecond, 1)
				old.served.Store(true)
				old.proc.(*fake).exit(client.Death{Signal: "SIGKILL"})
				time.Sleep(wait)
				w.mu.Lock()
				if s.live == nil || s.live.run != 2 {
					t.Error("there is no successor")
				}
				w.mu.Unlock()
				g.quarantine(0, "gave other numbers")
				time.Sleep(5 * time.Second)
				var st Status
				g.replicas[0].describe(&st)
				if st.PID != 0 || w.alive(s) || st.State != string(StateBarred) || g.state(0) != resilience.Quarantined {
					t.Errorf("process %d, alive %v, supervisor %s, replica %s", st.PID, w.alive(s), st.State, g.state(0))
				}
				if g.hopeless() == nil {
					t.Error("calls wait for a replica in quarantine")
				}
				g.release(0)
				synctest.Wait()
				if err := g.hopeless(); err != nil {
					t.Errorf("calls do not wait for a replica that has been set free: %v", err)
				}
				time.Sleep(time.Second)
				if g.state(0) != resilience.Ready || !w.alive(s) {
					t.Errorf("set free: %s", g.state(0))
				}
			})
		})
	}
}

// Nobody is sent to a process that has ended, although its supervisor has not noticed: a call that did so again and again would
// think that it kills whoever computes it.
func TestTheDeadGetNoCalls(t *testing.T) {
	peace(t, 2, func(t *testing.T, w *world, g *group) {
		for r := range 2 {
			g.living[r].proc.(*fake).exit(client.Death{Signal: "SIGKILL"})
			if _, inc := g.begin(0); r == 0 && inc != g.living[1] || r == 1 && inc != nil {
				t.Errorf("%d ended: a call went to the process %v", r+1, inc)
			}
		}
		began := time.Now()
		if _, inc, err := g.await(t.Context(), nil); err != nil || inc.gone() || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func (w *world) alive(s *site) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.live != nil
}

// hanging is a process that does not answer its first test.
type hanging struct{}

func (hanging) Forward(ctx context.Context, _ *expert.Call) error {
	<-ctx.Done()
	return ctx.Err()
}

// A new process that does not answer its test must not hold up the tests of those that serve: they would be taken for dead.
func TestAdmissionHoldsUpNobody(t *testing.T) {
	peace(t, 2, func(t *testing.T, w *world, g *group) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		refused := make(chan error, 1)
		go func() { refused <- g.answers.admit(ctx, sdk.Info{NumericClass: "f32"}, hanging{}) }()
		synctest.Wait()
		began := time.Now()
		_, inc := g.begin(0)
		for range 3 {
			if err := inc.probe(ctx); err != nil || time.Since(began) > time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		}
		if err := <-refused; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("admitted: %v", err)
		}
		if err := g.answers.admit(t.Context(), sdk.Info{NumericClass: "bf16"}, witness{}); !errors.Is(err, sdk.ErrUnsupported) {
			t.Errorf("another class: %v", err)
		}
	})
}
