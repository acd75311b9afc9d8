package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/resilience"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
)

// fakeProcess lives until it is killed.
type fakeProcess struct {
	pid    int
	once   sync.Once
	exited chan struct{}
}

func (p *fakeProcess) PID() int                   { return p.pid }
func (p *fakeProcess) Exited() <-chan struct{}    { return p.exited }
func (p *fakeProcess) Ending() bool               { return isClosed(p.exited) }
func (p *fakeProcess) Death() client.Death        { return client.Death{Signal: "SIGKILL", ExitCode: -1} }
func (p *fakeProcess) Beat() (uint64, bool)       { return uint64(time.Now().UnixNano()), true }
func (p *fakeProcess) Stopped() bool              { return false }
func (p *fakeProcess) AtWork() bool               { return false }
func (p *fakeProcess) Ping(context.Context) error { return nil }
func (p *fakeProcess) Lanes() (int, int)          { return 0, 0 }
func (*fakeProcess) Confined() []client.Measure   { return nil }
func (p *fakeProcess) Kill() error                { p.once.Do(func() { close(p.exited) }); return nil }
func (p *fakeProcess) Stop(context.Context) error { return p.Kill() }

// replicaOf makes a group with one replica whose processes the test starts: each launch waits for the gate.
func replicaOf(t *testing.T, gate <-chan struct{}) (g *group, started func() int) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	fleet := &fleet{children: newNotifier()}
	g = &group{spec: GroupSpec{Name: "e0"}, changed: newNotifier(), living: make([]*incarnation, 1), demand: newDemand(1, time.Now()), log: log, set: resilience.NewSet(1, 0, resilience.Options{})}
	g.set.Violated = func(what string) { t.Errorf("invariant: %s", what) }
	var mu sync.Mutex
	count := 0
	launch := func(ctx context.Context) (*incarnation, error) {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		mu.Lock()
		defer mu.Unlock()
		count++
		inc := &incarnation{proc: &fakeProcess{pid: count, exited: make(chan struct{})}, condemn: make(chan struct{}), probe: func(context.Context) error { return nil }}
		inc.served.Store(true)
		return inc, nil
	}
	g.stats = append(g.stats, &replicaStats{})
	g.adopt(0, newSupervisor("e0/0", Options{StartTimeout: time.Minute, Metrics: metrics.New(), Log: log}, g.changed, fleet, launch))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { g.replicas[0].run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return g, func() int { mu.Lock(); defer mu.Unlock(); return count }
}

// statusOf is the replica's line in Status.
func (g *group) statusOf(r int) Status { return g.status()[r] }

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("not %s", what)
		}
	}
}

func (g *group) processOf(r int) *incarnation {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.living[r]
}

// TestQuarantineOfSuccessor: a verdict about a process that has gone meanwhile also ends the one in its place, none follows,
// and a released replica gets a fresh one that is used.
func TestQuarantineOfSuccessor(t *testing.T) {
	gate := make(chan struct{}, 10)
	gate <- struct{}{}
	g, started := replicaOf(t, gate)
	until(t, "up", func() bool { return g.state(0) == resilience.Ready })
	first := g.processOf(0)
	gate <- struct{}{}
	first.condemned("gave an invalid answer")
	until(t, "replaced", func() bool { now := g.processOf(0); return now != nil && now != first })

	gate <- struct{}{} // for a third that must not be started
	g.quarantine(0, "gave other numbers than another replica")
	until(t, "ended", func() bool { return g.processOf(0) == nil })
	inc, err, hopeless := g.replicas[0].ready()
	until(t, "barred", func() bool { inc, err, hopeless = g.replicas[0].ready(); return hopeless })
	if inc != nil || !errors.Is(err, errBarred) || started() != 2 || g.state(0) != resilience.Quarantined {
		t.Errorf("process %v, err %v, %d started, state %s", inc, err, started(), g.state(0))
	}
	if st := g.statusOf(0); st.Quarantine != "gave other numbers than another replica" || st.Health != "quarantined" {
		t.Errorf("status %+v", st)
	}
	if !g.release(0) || g.release(0) {
		t.Error("release does not say whether there was a quarantine")
	}
	until(t, "ready again", func() bool { return g.state(0) == resilience.Ready })
	if st := g.statusOf(0); st.Quarantine != "" || started() != 3 {
		t.Errorf("status %+v, %d started", st, started())
	}
}

// TestQuarantineDuringStart: a process that comes up while its replica is put into quarantine is ended and gets no calls.
func TestQuarantineDuringStart(t *testing.T) {
	gate := make(chan struct{}, 10)
	g, started := replicaOf(t, gate)
	g.quarantine(0, "gave invalid answers")
	gate <- struct{}{}
	until(t, "barred", func() bool { _, _, hopeless := g.replicas[0].ready(); return hopeless && g.processOf(0) == nil })
	if r, _ := g.begin(0); r >= 0 || started() > 1 {
		t.Errorf("replica %d gets a call, %d processes were started", r, started())
	}
}

// TestWrongProbesCount: wrong answers to known questions bring a replica into quarantine as those to calls do.
func TestWrongProbesCount(t *testing.T) {
	gate := make(chan struct{}, 10)
	g, _ := replicaOf(t, gate)
	for n := range 3 {
		gate <- struct{}{}
		until(t, "up", func() bool { return g.state(0) == resilience.Ready })
		inc := g.processOf(0)
		g.probed(0, inc, fmt.Errorf("wrong numbers: %w", sdk.ErrInvalidOutput))
		inc.condemned("failed its known-answer test")
		want := n == 2
		until(t, "gone", func() bool { return g.processOf(0) != inc })
		if got := g.state(0) == resilience.Quarantined; got != want {
			t.Fatalf("after %d wrong answers: quarantined = %v", n+1, got)
		}
	}
}

// silentProcess answers nobody; steady answers everybody alike.
type (
	silentProcess struct{ asked chan struct{} }
	steady        struct{}
)

func (h silentProcess) Forward(ctx context.Context, _ *expert.Call) error {
	close(h.asked)
	<-ctx.Done()
	return ctx.Err()
}

func (steady) Forward(_ context.Context, call *expert.Call) error {
	clear(call.Y.Data)
	return nil
}

// TestHangingNewcomer: a new process that does not answer its first test keeps nobody else's test waiting.
func TestHangingNewcomer(t *testing.T) {
	k := &knownAnswers{spec: GroupSpec{Units: []expert.Unit{{}}}, shape: ExpertShape{Hidden: 4}, input: knownInput(4), bits: map[expert.Unit][]float32{}}
	if err := k.admit(t.Context(), sdk.Info{Name: "steady"}, steady{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	newcomer, ended := silentProcess{make(chan struct{})}, make(chan error)
	go func() { ended <- k.admit(ctx, sdk.Info{Name: "silentProcess"}, newcomer) }()
	<-newcomer.asked
	probed := make(chan error, 1)
	go func() { probed <- k.probe(t.Context(), steady{}) }()
	select {
	case err := <-probed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the test of another process waits")
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the newcomer was let in")
	}
}
