package host

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/resilience"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// world is everything in a simulation that is not the product: processes that break in all the ways that processes break,
// and the record of what happened, by which the product is judged. What is random in it follows from the seed and from who
// asks at which virtual moment, never from the order in which goroutines of one moment run.
type world struct {
	t     testing.TB
	seed  uint64
	began time.Time
	told  *notifier // stands in for the kernel's news of children

	witnessed bool // the host can compute what its experts compute
	peaceful  bool // nothing goes wrong by itself
	slowly    bool // every call takes fifty times as long

	mu       sync.Mutex // guards what follows
	events   int
	digest   uint64 // of all events, whatever their order within one moment
	failures int
	sites    []*site
	counts   map[string]int
	pairs    map[[2]State]int
}

// site is where the processes of one replica run, one after the other.
type site struct {
	world    *world
	group    *group
	replica  int
	answers  *knownAnswers
	rotten   bool   // many of its processes give answers that are not right: its core is broken
	honest   bool   // nobody could tell its lies from the truth, so it tells none
	silent   bool   // its processes have no heartbeat: they are pinged
	runs     uint64 // processes so far, started or not
	bad      int    // starts that are still to fail: somebody has removed the executable, or broken it
	how      startFault
	live     *fake       // nil while there is none
	invalid  int         // invalid answers since the replica was last set free
	lied     time.Time   // the latest wrong one, since then; zero if there was none
	idle     []time.Time // ends by themselves of processes that had not worked, of the last half minute
	last     State       // of the supervisor, when last looked at
	unfit    time.Time   // since when the replica is seen not to be fit for calls; zero while it is
	isolated time.Time   // since when it is seen in quarantine
}

// stream is a source of random numbers that belongs to what the parts name.
func (w *world) stream(parts ...uint64) *rand.Rand {
	h := w.seed
	for _, p := range parts {
		h = mixed(h ^ p)
	}
	return rand.New(rand.NewPCG(w.seed, h))
}

// mixed is splitmix64's step: near numbers become far ones.
func mixed(z uint64) uint64 {
	z += 0x9E3779B97F4A7C15
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

func (w *world) now() uint64 { return uint64(time.Since(w.began)) }

// event counts something that happened and has every invariant looked at that holds at any moment.
func (w *world) event(what string, s *site, id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events++
	w.counts[what]++
	h := w.now()
	for _, c := range what {
		h = mixed(h ^ uint64(c))
	}
	w.digest += mixed(h ^ id<<8 ^ uint64(s.replica))
	w.look(s)
}

// failf reports a broken invariant, with the seed that repeats it. The caller holds mu.
func (w *world) failf(format string, args ...any) {
	if w.failures++; w.failures > 10 {
		return
	}
	w.t.Errorf("seed %d, after %v: %s\nrepeat it with: PIMOE_SIM_SEED=%d go test -run TestSimulation$ ./core/host", w.seed, time.Since(w.began), fmt.Sprintf(format, args...), w.seed)
}

// look checks what must hold of a replica at any moment. The caller holds mu.
func (w *world) look(s *site) {
	g := s.group
	g.mu.Lock()
	st, calls := g.set.State(s.replica), g.set.Inflight(s.replica)
	g.mu.Unlock()
	if calls < 0 {
		w.failf("%s: %d calls under way", s.name(), calls)
	}
	now := time.Now()
	note(&s.unfit, st != resilience.Ready && st != resilience.Suspect, now)
	note(&s.isolated, st == resilience.Quarantined, now)
	sup := g.replicas[s.replica]
	sup.mu.Lock()
	state := sup.state
	sup.mu.Unlock()
	if state != s.last {
		w.pairs[[2]State{s.last, state}]++
		s.last = state
	}
}

// note keeps since when something is so.
func note(since *time.Time, is bool, now time.Time) {
	switch {
	case !is:
		*since = time.Time{}
	case since.IsZero():
		*since = now
	}
}

func (s *site) name() string { return s.group.replicas[s.replica].name }

func (s *site) id() uint64 {
	h := uint64(s.replica)
	for _, c := range s.group.spec.Name {
		h = mixed(h ^ uint64(c))
	}
	return h
}

// startFault is how a start goes wrong.
type startFault int

const (
	startMissing   startFault = iota // there is no executable: an operator must mend it
	startDies                        // it ends before it has said a word
	startHangs                       // it says nothing
	startWrong                       // it fails its known-answer test
	startLoad                        // it can't load its weights
	startDiesLater                   // it is admitted, and ends before the first call
	startFaults
)

// launch stands in for launcher.expert.
func (s *site) launch(ctx context.Context) (*incarnation, error) {
	w := s.world
	w.mu.Lock()
	s.runs++
	run := s.runs
	rng := w.stream(s.id(), run)
	if s.bad == 0 && run > 1 && !w.peaceful && rng.IntN(12) == 0 {
		s.bad, s.how = 1+rng.IntN(12), startFault(rng.IntN(int(startFaults)))
	}
	bad, how := s.bad > 0, s.how
	s.bad = max(s.bad-1, 0)
	w.mu.Unlock()
	w.event("start", s, run)
	if bad && how == startMissing {
		return nil, fmt.Errorf("%w: no such file", errNotExecutable)
	}
	f := s.spawn(run, rng)
	if !sleep(ctx, some(rng, 30*time.Millisecond)) {
		return nil, f.abandon(ctx.Err())
	}
	if bad {
		switch how {
		case startDies:
			f.exit(client.Death{ExitCode: 1})
			return nil, fmt.Errorf("%w: exit code 1: %w", errHandshake, sdk.ErrUnavailable)
		case startHangs:
			<-ctx.Done()
			return nil, f.abandon(fmt.Errorf("%w: %w", errHandshake, ctx.Err()))
		case startLoad:
			return nil, f.abandon(fmt.Errorf("%w: out of memory: %w", errLoad, sdk.ErrUnavailable))
		case startWrong:
			f.trait = fails
		case startDiesLater:
			f.fate, f.fateIn = killed, some(rng, 20*time.Millisecond)
		}
	}
	info := sdk.Info{Name: "fake", NumericClass: "f32"}
	if err := s.answers.admit(ctx, info, f); err != nil {
		return nil, f.abandon(fmt.Errorf("%w: %w", errWrongAnswer, err))
	}
	inc := &incarnation{proc: f, expert: f, info: info, condemn: make(chan struct{})}
	inc.probe = func(ctx context.Context) error { return s.answers.probe(ctx, f) }
	w.mu.Lock()
	f.inc, f.admitted = inc, time.Now()
	w.mu.Unlock()
	if !w.peaceful {
		f.meetFate()
	}
	return inc, nil
}

// some is a random time, exponential with the given mean.
func some(rng *rand.Rand, mean time.Duration) time.Duration {
	return time.Duration(rng.ExpFloat64()*float64(mean)) + 1
}

// fate is what ends a process, or nearly.
type fate int

const (
	killed    fate = iota // by a signal, of somebody else or of its own making
	falls                 // in the midst of its next call
	hangs                 // no beat, no answer
	stopped               // by SIGSTOP, for good
	continued             // by SIGSTOP, and goes on
	fates
)

// trait is how a process answers.
type trait int

const (
	good    trait = iota
	slow          // twenty times as long
	deaf          // loses some calls
	garbles       // some answers can't be right
	lies          // some answers look right and are not
	fails         // its known-answer test
)

// liesWithin and two hundred wrong answers are what a process that gives plausible lies may take until it is caught.
const liesWithin = 5 * time.Minute

// fake is a process. It implements process and computing.
type fake struct {
	site     *site
	run      uint64
	inc      *incarnation
	born     time.Time
	admitted time.Time
	fate     fate
	fateIn   time.Duration
	trait    trait
	from     time.Time // when the trait begins to show
	each     time.Duration
	exited   chan struct{}

	mu      sync.Mutex // guards what follows
	death   client.Death
	stopped bool
	hung    time.Time // since when it neither beats nor answers, stopped or not; zero while it does
	fall    bool      // the next call kills it
	end     *time.Timer

	lied    int       // wrong answers that somebody got; guarded by the world's mu
	firstly time.Time // the first of them
}

// spawn makes a process live. A replica must never have two.
func (s *site) spawn(run uint64, rng *rand.Rand) *fake {
	f := &fake{site: s, run: run, born: time.Now(), exited: make(chan struct{}), each: 200*time.Microsecond + some(rng, 2*time.Millisecond)}
	f.fate, f.fateIn = fate(rng.IntN(int(fates))), some(rng, 4*time.Minute)
	if one := rng.IntN(6); run > 1 && !s.world.peaceful && (one < 2 || one < 5 && s.rotten) { // the first one of all is good, since the others are measured by it
		f.trait = slow + trait(rng.IntN(int(fails-slow)))
		if s.rotten {
			f.trait = garbles + trait(rng.IntN(2))
		}
		f.from = f.born.Add(some(rng, time.Minute))
		if f.trait == lies && s.honest {
			f.trait = slow
		}
	}
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	s.idle = slices.DeleteFunc(s.idle, func(t time.Time) bool { return time.Since(t) >= intensityOver })
	if len(s.idle) > intensity {
		w.failf("%s: %d processes have died in %v without work, and another one is started", s.name(), len(s.idle), intensityOver)
	}
	if s.live != nil {
		w.failf("%s: a second process is started while one lives", s.name())
	}
	if !s.isolated.IsZero() && time.Since(s.isolated) > 0 {
		w.failf("%s: a process is started in quarantine", s.name())
	}
	s.live = f
	return f
}

// meetFate has the process end as it must, later.
func (f *fake) meetFate() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end = time.AfterFunc(f.fateIn, func() {
		f.site.world.event([...]string{"killed", "falls", "hangs", "stopped", "continued"}[f.fate], f.site, f.run)
		switch f.fate {
		case killed:
			f.exit(client.Death{Signal: [...]string{"SIGKILL", "SIGSEGV"}[f.run%2], ExitCode: -1})
		case falls:
			f.mu.Lock()
			f.fall = true
			f.mu.Unlock()
		case hangs:
			f.halt(false)
		case stopped:
			f.halt(true)
		case continued:
			f.halt(true)
			time.AfterFunc(stopPatience/2, f.goOn)
		}
	})
}

func (f *fake) halt(stop bool) {
	f.mu.Lock()
	f.hung, f.stopped = time.Now(), stop
	f.mu.Unlock()
	f.site.world.told.broadcast()
}

func (f *fake) goOn() {
	f.mu.Lock()
	f.hung, f.stopped = time.Time{}, false
	f.mu.Unlock()
	f.site.world.told.broadcast()
}

// exit ends the process, once.
func (f *fake) exit(d client.Death) {
	f.mu.Lock()
	if f.gone() {
		f.mu.Unlock()
		return
	}
	d.At = time.Now()
	f.death = d
	if f.end != nil {
		f.end.Stop()
	}
	close(f.exited)
	f.mu.Unlock()
	w := f.site.world
	w.mu.Lock()
	s := f.site
	s.live = nil
	switch {
	case f.inc != nil && (f.inc.served.Load() || time.Since(f.admitted) >= healthyAfter):
		s.idle = nil
	case f.inc != nil && (f.stopped || d.Signal == "SIGKILL" && !d.Asked): // no doing of its own
	case d.Asked && f.inc != nil && f.inc.verdict.Load() == nil: // it was not wanted any more
	default:
		s.idle = append(s.idle, time.Now())
	}
	w.mu.Unlock()
	w.told.broadcast()
	w.event("exit", f.site, f.run)
}

func (f *fake) gone() bool { return isClosed(f.exited) }

func (f *fake) abandon(cause error) error {
	f.exit(client.Death{Signal: "SIGKILL", ExitCode: -1, Asked: true})
	return cause
}

func (f *fake) PID() int                 { return int(f.run) }
func (f *fake) Exited() <-chan struct{}  { return f.exited }
func (f *fake) Ending() bool             { return f.gone() }
func (f *fake) Lanes() (int, int)        { return 1, 1 }
func (*fake) Confined() []client.Measure { return nil }
func (f *fake) Wake(bool)                {}

func (f *fake) Death() client.Death {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.death
}

// Beat counts on while the process is well.
func (f *fake) Beat() (uint64, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	until := time.Now()
	if !f.hung.IsZero() {
		until = f.hung
	}
	return uint64(until.Sub(f.born) / client.BeatEvery), !f.site.silent
}

func (f *fake) Stopped() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stopped
}

// AtWork shows every other process at work while it is well, whatever becomes of its calls.
func (f *fake) AtWork() bool { return f.run%2 == 1 && f.well() && !f.gone() }

func (f *fake) well() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hung.IsZero()
}

// hangs is for how long the process has neither beaten nor answered.
func (f *fake) hangs() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hung.IsZero() {
		return 0
	}
	return time.Since(f.hung)
}

func (f *fake) Ping(ctx context.Context) error {
	if f.well() && sleep(ctx, 100*time.Microsecond) && !f.gone() {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-f.exited:
		return sdk.ErrUnavailable
	}
}

// Kill takes as long as a kernel takes.
func (f *fake) Kill() error {
	time.AfterFunc(time.Millisecond, func() { f.exit(client.Death{Signal: "SIGKILL", ExitCode: -1, Asked: true}) })
	return nil
}

// Stop ends a process that is well with a word, another one with a kill at the end of the patience.
func (f *fake) Stop(ctx context.Context) error {
	if f.well() {
		time.AfterFunc(3*time.Millisecond, func() { f.exit(client.Death{Asked: true}) })
	}
	select {
	case <-f.exited:
		return nil
	case <-ctx.Done():
		f.Kill()
		<-f.exited
		return ctx.Err()
	}
}

// Forward is a known-answer test.
func (f *fake) Forward(ctx context.Context, call *expert.Call) error {
	p := f.begin(ctx, call)
	p.test = true
	f.site.world.event("test", f.site, f.run)
	return p.Wait()
}

// Start is a call. Some go where they can only be waited for, as those do that find no free slot.
func (f *fake) Start(ctx context.Context, call *expert.Call) expert.Pending {
	w := f.site.world
	w.event("call", f.site, f.run)
	w.mu.Lock()
	if s := f.site; !s.unfit.IsZero() && time.Since(s.unfit) > 0 {
		w.failf("%s gets a call, and has been unfit for %v", s.name(), time.Since(s.unfit))
	}
	w.mu.Unlock()
	p := f.begin(ctx, call)
	if p.rng.IntN(50) == 0 {
		return struct{ expert.Pending }{p}
	}
	return p
}

// flight is a call on a process. It implements client.Settling.
type flight struct {
	process *fake
	ctx     context.Context
	call    *expert.Call
	rng     *rand.Rand // of this call on this process
	done    chan struct{}
	test    bool
}

func (f *fake) begin(ctx context.Context, call *expert.Call) *flight {
	p := &flight{process: f, ctx: ctx, call: call, done: make(chan struct{})}
	p.rng = f.site.world.stream(f.site.id(), f.run, f.site.world.now(), uint64(math.Float32bits(call.X.Data[0])))
	f.mu.Lock()
	fall := f.fall
	f.fall = false
	f.mu.Unlock()
	took := 50*time.Microsecond + time.Duration(p.rng.ExpFloat64()*float64(f.each))*time.Duration(call.Y.Rows+4)/8
	if f.shows(slow) {
		took *= 20
	}
	if f.site.world.slowly {
		took *= 50
	}
	switch {
	case fall:
		time.AfterFunc(took/2, func() { f.exit(client.Death{Signal: "SIGSEGV", ExitCode: -1}) })
	case f.shows(deaf) && p.rng.IntN(10) == 0:
	default:
		time.AfterFunc(took, p.arrive)
	}
	return p
}

// shows reports whether the process is of that sort, and it is time to show it.
func (f *fake) shows(t trait) bool { return f.trait == t && !time.Now().Before(f.from) }

// arrive answers, if the process is well, later if it goes on later.
func (p *flight) arrive() {
	switch f := p.process; {
	case f.gone():
	case f.well():
		close(p.done)
	case f.Stopped():
		time.AfterFunc(stopPatience/4, p.arrive)
	}
}

// Settled implements client.Settling. Like the original it knows nothing of the call's context.
func (p *flight) Settled(within time.Duration) bool { return settled(within, p.done, p.process.exited) }

// settled reports whether a call has been answered, or its process has ended, within that time.
func settled(within time.Duration, done, exited <-chan struct{}) bool {
	if within > 0 {
		t := time.NewTimer(within)
		defer t.Stop()
		select {
		case <-done:
		case <-exited:
		case <-t.C:
		}
	}
	select {
	case <-done:
		return true
	case <-exited:
		return true
	default:
		return false
	}
}

// Abandon implements client.Settling.
func (p *flight) Abandon() { p.process.site.world.event("abandoned", p.process.site, p.process.run) }

// Wait implements expert.Pending.
func (p *flight) Wait() error {
	select {
	case <-p.done:
	case <-p.process.exited:
	case <-p.ctx.Done():
	}
	select {
	case <-p.done:
		return p.answer()
	default:
	}
	if p.process.gone() {
		return fmt.Errorf("its process is dead: %w", sdk.ErrUnavailable)
	}
	return p.ctx.Err()
}

// answer fills Y as the process does, rightly or not.
func (p *flight) answer() error {
	f, s := p.process, p.process.site
	w := s.world
	compute(p.call)
	switch {
	case f.trait == fails && p.test:
		flip(p.call.Y, p.rng)
	case p.test:
	case f.shows(garbles) && p.rng.IntN(4) == 0:
		w.mu.Lock()
		s.invalid++
		w.mu.Unlock()
		w.event("garbled", s, f.run)
		return fmt.Errorf("a value is not finite: %w", sdk.ErrInvalidOutput)
	case f.shows(lies) && p.rng.IntN(3) == 0:
		flip(p.call.Y, p.rng)
		w.mu.Lock()
		s.lied = time.Now()
		if f.lied++; f.lied == 1 {
			f.firstly = s.lied
		}
		if f.lied > 200 && time.Since(f.firstly) > liesWithin {
			w.failf("%s has given %d wrong answers in %v and is still asked", s.name(), f.lied, time.Since(f.firstly))
		}
		w.mu.Unlock()
		w.event("lie", s, f.run)
	}
	return nil
}

// flip changes one bit.
func flip(y tensor.Matrix, rng *rand.Rand) {
	row := y.Row(rng.IntN(y.Rows))
	row[rng.IntN(len(row))]++
}

// compute is the experts' function.
func compute(call *expert.Call) {
	r := 0
	for _, seg := range call.Segments {
		for range seg.Rows {
			from := r
			if call.From != nil {
				from = int(call.From[r])
			}
			x, y := call.X.Row(from), call.Y.Row(r)
			for i := range y {
				y[i] = x[i]*float32(seg.Expert+2) + float32(call.Layer+1)
			}
			r++
		}
	}
}

// witness is the host's own version of the experts.
type witness struct{}

func (witness) Info() sdk.Info                          { return sdk.Info{Name: "fake"} }
func (witness) Load(context.Context, expert.Spec) error { return nil }
func (witness) Close() error                            { return nil }
func (witness) Forward(_ context.Context, call *expert.Call) error {
	compute(call)
	return nil
}

var (
	_ process         = (*fake)(nil)
	_ computing       = (*fake)(nil)
	_ client.Settling = (*flight)(nil)
	_ expert.Expert   = witness{}
)
