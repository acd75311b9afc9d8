package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
)

// maxInvalid is how many invalid answers to one call are repeated on a fresh process; more would hide a plugin that
// always lies.
const maxInvalid = 2

// UnavailableError says that an expert group or the router can't answer and why. Its text holds nothing that a client
// must not see.
type UnavailableError struct {
	What  string // "expert group e3" or "router model"
	Cause string // "its process was killed by SIGKILL"
	err   error  // the whole story, for logs
}

func (e *UnavailableError) Error() string { return e.What + " is unavailable: " + e.Cause }

// Unwrap makes it an sdk.ErrUnavailable.
func (e *UnavailableError) Unwrap() []error { return []error{sdk.ErrUnavailable, e.err} }

// group is one expert group: its replicas, and the calls that outlive them.
type group struct {
	spec     GroupSpec
	replicas []*supervisor
	changed  *notifier
	lanes    lanes
	cores    []int // of the plan, one for each lane of each replica
	stats    []*replicaStats
}

// replicaStats are the counts of one replica over all its incarnations.
type replicaStats struct {
	calls, rows, errors atomic.Uint64
	mCalls, mRows, mErr *metrics.Counter
	seconds             *metrics.Histogram
}

// newGroup makes the n-th group.
func newGroup(n int, spec GroupSpec, l *launcher) (*group, error) {
	answers, err := newKnownAnswers(spec, l.options.Experts, l.shards, source(l.options.Model, spec.Packed))
	if err != nil {
		return nil, err
	}
	g := &group{spec: spec, changed: newNotifier(), lanes: l.lanes, cores: l.lanes.of(n)}
	for r := range max(spec.Replicas, 1) {
		name := fmt.Sprintf("%s/%d", spec.Name, r)
		launch := func(ctx context.Context) (*incarnation, error) { return l.expert(ctx, name, spec, g.cores, answers) }
		g.replicas = append(g.replicas, newSupervisor(name, l.options, g.changed, l.fleet, launch))
		labels := []string{"group", spec.Name, "replica", fmt.Sprint(r)}
		g.stats = append(g.stats, newReplicaStats(l.options.Metrics, labels))
		s := g.replicas[r]
		l.options.Metrics.Gauge("pimoe_expert_ready", func() float64 {
			if inc, _, _ := s.ready(); inc != nil {
				return 1
			}
			return 0
		}, labels...)
	}
	return g, nil
}

func newReplicaStats(m *metrics.Registry, labels []string) *replicaStats {
	return &replicaStats{
		mCalls:  m.Counter("pimoe_expert_calls_total", labels...),
		mRows:   m.Counter("pimoe_expert_rows_total", labels...),
		mErr:    m.Counter("pimoe_expert_errors_total", labels...),
		seconds: m.Histogram("pimoe_expert_call_seconds", nil, labels...),
	}
}

// count takes the outcome of a call of so many rows.
func (st *replicaStats) count(rows int, took time.Duration, err error) {
	if err != nil {
		st.errors.Add(1)
		st.mErr.Inc()
		return
	}
	st.calls.Add(1)
	st.mCalls.Inc()
	st.rows.Add(uint64(rows))
	st.mRows.Add(rows)
	st.seconds.Update(took.Seconds())
}

func (st *replicaStats) status(spec GroupSpec) Status {
	return Status{
		Group: spec.Name, Units: len(spec.Units), Backend: spec.Backend,
		Calls: st.calls.Load(), Rows: st.rows.Load(), Errors: st.errors.Load(),
	}
}

// Start sends the call to the replica with the least work. If there is none, the waiting happens in Wait, so that the
// calls of the other groups are not held up.
func (g *group) Start(ctx context.Context, call *expert.Call) expert.Pending {
	p := groupCalls.Get().(*groupCall)
	p.group, p.ctx, p.call = g, ctx, call
	if r, inc := g.pick(nil); inc != nil {
		p.send(r, inc)
	}
	return p
}

// Wake implements moe.Sleeper.
func (p *groupCall) Wake(all bool) {
	if p.pending != nil {
		p.inc.expert.Wake(all)
	}
}

// Cores implements moe.Bound.
func (g *group) Cores() []int { return g.cores }

// Here implements moe.Neighbour.
func (g *group) Here() int { return g.lanes.here() }

// pick is the ready replica with the fewest calls under way, other than avoid; nil if there is none.
func (g *group) pick(avoid *incarnation) (int, *incarnation) {
	best, at := (*incarnation)(nil), -1
	for r, s := range g.replicas {
		inc, _, _ := s.ready()
		if inc != nil && inc != avoid && inc.verdict.Load() == nil && (best == nil || inc.inflight.Load() < best.inflight.Load()) {
			best, at = inc, r
		}
	}
	return at, best
}

// await waits for a ready replica other than avoid until ctx ends or waiting makes no sense.
func (g *group) await(ctx context.Context, avoid *incarnation) (int, *incarnation, error) {
	for {
		changed := g.changed.wait()
		if r, inc := g.pick(avoid); inc != nil {
			return r, inc, nil
		}
		if err := g.hopeless(); err != nil {
			return 0, nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, nil, g.timedOut(ctx)
		}
	}
}

// hopeless is the reason why no replica will be there soon, or nil while one may.
func (g *group) hopeless() error {
	var last error
	for _, s := range g.replicas {
		inc, err, hopeless := s.ready()
		if inc != nil || !hopeless {
			return nil
		}
		last = errors.Join(err, s.lastDeath())
	}
	return g.unavailable(last)
}

// timedOut tells a passed deadline, which is an answer about the group, from a caller that went away.
func (g *group) timedOut(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		for _, s := range g.replicas {
			if inc, err, _ := s.ready(); inc == nil {
				return g.unavailable(errors.Join(err, s.lastDeath()))
			}
		}
	}
	return fmt.Errorf("expert group %s: %w", g.spec.Name, ctx.Err())
}

func (g *group) unavailable(err error) error {
	return &UnavailableError{What: "expert group " + g.spec.Name, Cause: publicCause(err), err: err}
}

// available is nil if a replica is ready.
func (g *group) available() error {
	if _, inc := g.pick(nil); inc != nil {
		return nil
	}
	for _, s := range g.replicas {
		if _, err, _ := s.ready(); err != nil {
			return g.unavailable(errors.Join(err, s.lastDeath()))
		}
	}
	return g.unavailable(errors.New("starting"))
}

// groupCall is a call on a group: the same call on one process after the other until one answers.
type groupCall struct {
	group   *group
	ctx     context.Context
	call    *expert.Call
	replica int
	inc     *incarnation
	pending expert.Pending
	sent    time.Time
}

var groupCalls = sync.Pool{New: func() any { return new(groupCall) }}

func (p *groupCall) send(replica int, inc *incarnation) {
	p.replica, p.inc, p.sent = replica, inc, time.Now()
	inc.inflight.Add(1)
	p.pending = inc.expert.Start(p.ctx, p.call)
}

// Wait repeats the call until a process answers. Calls are pure, so a repeated one gives the same bits.
func (p *groupCall) Wait() error {
	err := p.wait()
	*p = groupCall{}
	groupCalls.Put(p)
	return err
}

func (p *groupCall) wait() error {
	for invalid := 0; ; {
		if p.pending == nil {
			replica, inc, err := p.group.await(p.ctx, p.inc)
			if err != nil {
				return err
			}
			p.send(replica, inc)
		}
		err := p.pending.Wait()
		p.pending = nil
		p.inc.inflight.Add(-1)
		p.count(err)
		if err == nil {
			return nil
		}
		if errors.Is(err, sdk.ErrInvalidOutput) {
			p.inc.condemned("gave an invalid answer")
			if invalid++; invalid > maxInvalid {
				return fmt.Errorf("expert group %s: %w", p.group.spec.Name, err)
			}
		}
		if !isProcessFault(err) || p.ctx.Err() != nil {
			if p.ctx.Err() != nil {
				return p.group.timedOut(p.ctx)
			}
			return fmt.Errorf("expert group %s: %w", p.group.spec.Name, err)
		}
	}
}

func (p *groupCall) count(err error) {
	if err == nil {
		p.inc.served.Store(true)
	}
	p.group.stats[p.replica].count(p.call.Y.Rows, time.Since(p.sent), err)
}

// Status is what is shown of one process.
type Status struct {
	Group        string `json:"group"`
	Replica      int    `json:"replica"`
	PID          int    `json:"pid"`
	State        string `json:"state"`
	Units        int    `json:"units"`
	Backend      string `json:"backend"`
	NumericClass string `json:"numeric_class"`
	Calls        uint64 `json:"calls"`
	Rows         uint64 `json:"rows"`
	Errors       uint64 `json:"errors"`
	Restarts     uint64 `json:"restarts"`
	PrivateBytes uint64 `json:"private_bytes"`
	Lanes        int    `json:"lanes"`       // threads that serve calls; 0 over gRPC and in process
	BoundLanes   int    `json:"bound_lanes"` // of them, those that the system let bind to a core
	LastDeath    *Death `json:"last_death"`
	// Confinement lists what was done to confine the process, and what was not and why; none in process.
	Confinement []client.Measure `json:"confinement"`
}

func (g *group) status() []Status {
	var out []Status
	for r, s := range g.replicas {
		st := g.stats[r].status(g.spec)
		st.Replica = r
		s.describe(&st)
		out = append(out, st)
	}
	return out
}

func (s *supervisor) describe(st *Status) {
	s.mu.Lock()
	inc := s.current
	st.State, st.Restarts, st.LastDeath = string(s.state), s.restarts, s.death
	s.mu.Unlock()
	if inc != nil {
		st.PID, st.NumericClass = inc.proc.PID(), inc.info.NumericClass
		st.PrivateBytes = privateBytes(st.PID)
		st.Lanes, st.BoundLanes = inc.proc.Lanes()
		st.Confinement = inc.proc.Confined()
	}
}

// lastDeath is the last death as an error, nil if the process never died.
func (s *supervisor) lastDeath() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.death == nil {
		return nil
	}
	return &deathError{s.death}
}

// deathError carries a Death inside an error chain.
type deathError struct{ *Death }

func (e *deathError) Error() string { return "the process " + e.Cause }

// publicCause says in fixed words why there is no process: the last death, and what hinders a new start.
func publicCause(err error) string {
	var d *deathError
	died := ""
	if errors.As(err, &d) {
		died = "its process " + d.Cause
	}
	why := ""
	switch {
	case errors.Is(err, errNotExecutable):
		why = "the plugin executable is missing or not executable"
	case errors.Is(err, errBadShard):
		why = "a weight shard is damaged or missing"
	case errors.Is(err, errWrongAnswer):
		why = "it fails its known-answer test"
	case errors.Is(err, errLoad):
		why = "it can't load its weights"
	case errors.Is(err, errHandshake):
		why = "the plugin does not complete its handshake"
	}
	switch {
	case died == "" && why == "":
		return "no process is ready"
	case why == "":
		return died
	case died == "":
		return "it can't be started: " + why
	default:
		return died + " and can't be restarted: " + why
	}
}

var (
	_ member        = (*group)(nil)
	_ moe.Bound     = (*group)(nil)
	_ moe.Neighbour = (*group)(nil)
	_ moe.Sleeper   = (*groupCall)(nil)
)
