package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// stage is a group of a real host whose processes do what the test has written for them, call by call, in virtual time. Its
// supervisors do not run: the test says which processes there are.
type stage struct {
	t      *testing.T
	l      *launcher
	g      *group
	actors []*actor // by replica: its latest process
	pids   int
}

// staged runs f on a stage with a process for each replica of the group.
func staged(t *testing.T, spec GroupSpec, f func(s *stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := Options{
			StartTimeout: time.Second, MaxRetries: 2, Experts: ExpertShape{Hidden: simHidden},
			Metrics: metrics.New(), Log: slog.New(slog.DiscardHandler),
		}
		l := &launcher{options: o, fleet: &fleet{shards: &shardSet{}, children: newNotifier()}, lanes: lanes{cores: []int{0, 1}, most: 1}}
		l.shards = l.fleet.shards
		routed := router.Spec{Layers: []int{0}, Experts: 2}
		l.seen, l.heat = newObservations(routed, o.Metrics), newHeat(routed)
		l.recheck = newRecheck(o, func(context.Context, *group) (*twin, error) { return nil, errNoTwin })
		g, err := newGroup(1, spec, l)
		if err != nil {
			t.Fatal(err)
		}
		var end context.CancelFunc
		g.life, end = context.WithCancel(context.Background())
		defer end()
		g.set.Violated = func(what string) { t.Errorf("invariant: %s", what) }
		g.draw = func() float64 { return 0.5 }
		s := &stage{t: t, l: l, g: g, actors: make([]*actor, len(g.replicas))}
		for r := range g.replicas {
			if !g.replicas[r].parked.Load() {
				s.enter(r)
			}
		}
		f(s)
		synctest.Wait() // what is abandoned ends, too
		s.balanced()
	})
}

// pair is a group of so many replicas with two units in layer 0.
func pair(replicas int) GroupSpec {
	return GroupSpec{Name: "e0", Replicas: replicas, Units: []expert.Unit{{}, {Expert: 1}}, Packed: &weights.Variant{}}
}

// balanced checks that what calls have taken they have given back: each replica's calls, each process's, and the retries.
func (s *stage) balanced() {
	s.t.Helper()
	for r := range s.g.replicas {
		if n := s.g.set.Inflight(r); n != 0 {
			s.t.Errorf("replica %d has %d calls, and nobody waits", r, n)
		}
		if a := s.actors[r]; a != nil && a.inc.inflight.Load() != 0 {
			s.t.Errorf("the process of replica %d has %d calls, and nobody waits", r, a.inc.inflight.Load())
		}
	}
	if d := s.g.demand; d.under != 0 || d.waiting != 0 {
		s.t.Errorf("%d calls are under way and %d wait, and nobody does", d.under, d.waiting)
	}
	for range 10 { // uses up what is saved
		if s.g.set.Retry() {
			s.g.set.EndRetry()
		}
	}
	n := 0
	for s.g.set.Retry() {
		n++
	}
	if n != 3 {
		s.t.Errorf("%d retries at once are left, want 3", n)
	}
}

// enter has a replica's next process come up.
func (s *stage) enter(r int) *actor {
	s.pids++
	a := newActor(s.pids)
	s.actors[r] = a
	sup := s.g.replicas[r]
	sup.mu.Lock()
	sup.state, sup.current, sup.err, sup.hopeless = StateReady, a.inc, nil, false
	sup.mu.Unlock()
	s.g.now(r, a.inc)
	s.g.changed.broadcast()
	return a
}

// leave has a replica's process end. why is the reason that there is none, as a supervisor would give it.
func (s *stage) leave(r int, why error, hopeless bool) {
	s.actors[r].exit()
	sup := s.g.replicas[r]
	sup.mu.Lock()
	sup.state, sup.current, sup.err, sup.hopeless = StateStarting, nil, why, hopeless
	sup.mu.Unlock()
	s.g.now(r, nil)
	s.g.changed.broadcast()
}

// rows is a call of so many rows for the first unit.
func rows(n int) *expert.Call {
	c := &expert.Call{Threads: 1, Segments: []expert.Segment{{Rows: n}}, X: tensor.NewMatrix(n, simHidden), Y: tensor.NewMatrix(n, simHidden)}
	for i := range c.X.Data {
		c.X.Data[i] = float32(i + 1)
	}
	return c
}

// ask makes a call, and holds an answer against what is right.
func (s *stage) ask(ctx context.Context, c *expert.Call) error {
	s.t.Helper()
	err := s.g.Start(ctx, c).Wait()
	if err == nil {
		want := *c
		want.Y = tensor.NewMatrix(c.Y.Rows, c.Y.Cols)
		compute(&want)
		if !sameBits(want.Y.Data, c.Y.Data) {
			s.t.Errorf("answer %v, want %v", c.Y.Data, want.Y.Data)
		}
	}
	return err
}

// practise has the group learn how long calls of a row take: a millisecond.
func (s *stage) practise() {
	s.t.Helper()
	for range 64 {
		if err := s.ask(context.Background(), rows(1)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// tally is what a group has counted.
type tally struct{ calls, rows, errors, retries, hedges, won, nonfinite int }

func (s *stage) tally() tally {
	c := s.g.counts
	t := tally{retries: int(c.retries.Get()), hedges: int(c.hedges.Get()), won: int(c.hedgesWon.Get()), nonfinite: int(c.nonfinite.Get())}
	for _, st := range s.g.status() {
		t.calls, t.rows, t.errors = t.calls+int(st.Calls), t.rows+int(st.Rows), t.errors+int(st.Errors)
	}
	return t
}

// since is what has been counted since then.
func (s *stage) since(before tally) tally {
	t := s.tally()
	return tally{t.calls - before.calls, t.rows - before.rows, t.errors - before.errors, t.retries - before.retries,
		t.hedges - before.hedges, t.won - before.won, t.nonfinite - before.nonfinite}
}

func (s *stage) counted(what string, before, want tally) {
	s.t.Helper()
	if got := s.since(before); got != want {
		s.t.Errorf("%s: counted %+v, want %+v", what, got, want)
	}
}

// line is how a process answers one call; the zero one is a right answer after a millisecond.
type line struct {
	after time.Duration // 0 = a millisecond, negative = never
	err   error
	wrong bool // its numbers
	dies  bool // then, and nothing is answered
	blind bool // nobody can look at the call without waiting for it
}

var never = line{after: -1}

// actor is a process that has been told how to answer. It implements process and computing.
type actor struct {
	pid      int
	inc      *incarnation
	exited   chan struct{}
	working  bool // as others see it
	fading   bool // is being taken down
	stopped  bool // so too
	death    client.Death
	killed   int    // how often it has been
	asked    int    // to end
	ending   func() // happens while it ends
	stubborn error  // why it does not end when it is asked to

	mu        sync.Mutex // guards what follows
	lines     []line     // for the next calls
	got       []*expert.Call
	woken     []bool
	abandoned int
}

func newActor(pid int) *actor {
	a := &actor{pid: pid, exited: make(chan struct{}), death: client.Death{Signal: "SIGKILL", ExitCode: -1}}
	a.inc = &incarnation{
		proc: a, expert: a, info: sdk.Info{NumericClass: "f32", Version: "1.2"}, digest: fmt.Sprintf("sha256:%d", pid), condemn: make(chan struct{}),
		probe: func(context.Context) error { return nil },
	}
	return a
}

func (a *actor) plays(lines ...line) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lines = lines
}

func (a *actor) exit() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.inc.gone() {
		close(a.exited)
	}
}

func (a *actor) calls() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.got)
}

// condemnedFor is why the process has to be replaced; empty if it has not.
func (a *actor) condemnedFor() string {
	if why := a.inc.verdict.Load(); why != nil {
		return *why
	}
	return ""
}

// fades has the kernel take the process down.
func (a *actor) fades() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fading = true
}

func (a *actor) PID() int                   { return a.pid }
func (a *actor) Exited() <-chan struct{}    { return a.exited }
func (a *actor) Ending() bool               { a.mu.Lock(); defer a.mu.Unlock(); return a.fading || a.inc.gone() }
func (a *actor) Death() client.Death        { return a.death }
func (a *actor) Beat() (uint64, bool)       { return uint64(time.Now().UnixNano()), true }
func (a *actor) Stopped() bool              { return a.stopped }
func (a *actor) AtWork() bool               { return a.working }
func (a *actor) Ping(context.Context) error { return nil }
func (a *actor) Lanes() (int, int)          { return 1, 1 }
func (*actor) Confined() []client.Measure   { return nil }
func (a *actor) Kill() error                { a.killed++; a.exit(); return nil }

func (a *actor) Stop(context.Context) error {
	if a.asked++; a.ending != nil {
		a.ending()
	}
	a.exit()
	return a.stubborn
}

func (a *actor) Wake(all bool) { a.woken = append(a.woken, all) }

func (a *actor) Forward(ctx context.Context, call *expert.Call) error {
	return a.Start(ctx, call).Wait()
}

func (a *actor) Start(ctx context.Context, call *expert.Call) expert.Pending {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := &part{actor: a, ctx: ctx, call: call, done: make(chan struct{})}
	if len(a.lines) > 0 {
		p.line, a.lines = a.lines[0], a.lines[1:]
	}
	a.got = append(a.got, call)
	switch after := p.line.after; {
	case after < 0:
	case after == 0:
		time.AfterFunc(time.Millisecond, p.end)
	default:
		time.AfterFunc(after, p.end)
	}
	if p.line.blind {
		return struct{ expert.Pending }{p}
	}
	return p
}

// part is a call on an actor. It implements client.Settling.
type part struct {
	actor *actor
	ctx   context.Context
	call  *expert.Call
	line  line
	done  chan struct{}
}

func (p *part) end() {
	if p.line.dies {
		p.actor.exit()
	} else {
		close(p.done)
	}
}

func (p *part) Settled(within time.Duration) bool { return settled(within, p.done, p.actor.exited) }

func (p *part) Abandon() {
	p.actor.mu.Lock()
	defer p.actor.mu.Unlock()
	p.actor.abandoned++
}

func (p *part) Wait() error {
	select {
	case <-p.done:
	case <-p.actor.exited:
		return errDied
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
	if p.line.err == nil {
		compute(p.call)
		if p.line.wrong {
			p.call.Y.Row(0)[0]++
		}
	}
	return p.line.err
}

// What processes answer.
var (
	errDied    = fmt.Errorf("gone: %w", &client.LostError{Address: "a", Death: client.Death{Lost: "gone"}})
	errGarbled = fmt.Errorf("a row is missing: %w", sdk.ErrInvalidOutput)
	errRefused = errors.New("I do not like this call")
	errBusy    = fmt.Errorf("no room: %w", sdk.ErrUnavailable)
)

var (
	_ process         = (*actor)(nil)
	_ computing       = (*actor)(nil)
	_ client.Settling = (*part)(nil)
)
