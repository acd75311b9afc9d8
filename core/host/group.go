package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/resilience"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
)

// group is one expert group: its replicas, and the calls that outlive them. Of the replicas some may be parked: they are there
// for when the group grows.
type group struct {
	spec     GroupSpec
	replicas []*supervisor // spec.most() of them, then those that stand by
	changed  *notifier
	lanes    lanes
	cores    []int // of the plan, one for each lane of each replica
	stats    []*replicaStats
	answers  *knownAnswers
	recheck  *recheck
	seen     *observations
	heat     *heat
	draw     func() float64
	log      *slog.Logger
	counts   groupCounts
	// maxInvalid is how many invalid answers to one call are repeated on another process; more would hide a plugin that always
	// lies.
	maxInvalid int
	pool       *pool // the endpoints of a group on other machines; nil for one of this host

	executed client.Program     // by all its processes
	life     context.Context    // of its processes, set before they start
	cease    context.CancelFunc // ends its life
	running  sync.WaitGroup     // their supervisors

	mu     sync.Mutex // guards what follows
	set    *resilience.Set
	living []*incarnation // by replica; nil while there is none
	demand demand
	digest string // of what the last process executes
}

// groupCounts are what the group has done about slow and failed calls.
type groupCounts struct{ retries, hedges, hedgesWon, nonfinite *metrics.Counter }

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
	spec.Replicas = max(spec.Replicas, 1)
	if spec.Remote != nil {
		spec.Replicas, spec.MaxReplicas, spec.Standby = 1, spec.Remote.places(), 0
	}
	all := spec.most() + spec.Standby
	m, label := l.options.Metrics, []string{"group", spec.Name}
	g := &group{
		spec: spec, changed: newNotifier(), lanes: l.lanes, cores: l.lanes.of(n), answers: answers, draw: rand.Float64,
		log: l.options.Log.With("group", spec.Name), living: make([]*incarnation, all),
		maxInvalid: l.options.MaxRetries, demand: newDemand(all, time.Now()),
		set: resilience.NewSet(all, spec.Standby, l.options.Resilience),
		counts: groupCounts{
			retries: m.Counter("pimoe_expert_retries_total", label...), hedges: m.Counter("pimoe_expert_hedges_total", label...),
			hedgesWon: m.Counter("pimoe_expert_hedges_won_total", label...), nonfinite: m.Counter("pimoe_expert_nonfinite_total", label...),
		},
	}
	broken := m.Counter("pimoe_invariant_violations_total", label...)
	g.set.Violated = func(what string) {
		broken.Inc()
		g.log.Error("invariant violated", "what", what)
	}
	g.recheck, g.seen, g.heat = l.recheck, l.seen, l.heat
	if spec.Remote != nil {
		g.pool = newPool(*spec.Remote, all, l.options.StartTimeout, g.log)
	}
	for r := range all {
		name, cores := fmt.Sprintf("%s/%d", spec.Name, r), l.lanes.replica(n, r, spec)
		launch := func(ctx context.Context) (*incarnation, error) {
			if g.pool != nil {
				return l.connect(ctx, spec, g.pool.at(r), answers)
			}
			return l.expert(ctx, name, spec, cores, answers, &g.executed)
		}
		s := newSupervisor(name, l.options, g.changed, l.fleet, launch)
		s.lenient = spec.Guest != nil
		g.adopt(r, s)
		g.replicas[r].parked.Store(r >= spec.Replicas && r < spec.most() || g.pool != nil) // until it has an endpoint
		labels := []string{"group", spec.Name, "replica", fmt.Sprint(r)}
		g.stats = append(g.stats, newReplicaStats(m, labels))
	}
	return g, nil
}

// adopt makes a supervisor's process the group's r-th replica.
func (g *group) adopt(r int, s *supervisor) {
	s.news = news{
		changed:  func(inc *incarnation) { g.now(r, inc) },
		probed:   func(inc *incarnation, err error) { g.probed(r, inc, err) },
		hurry:    func() bool { return g.state(r) == resilience.Suspect },
		replaced: g.usable,
	}
	g.replicas = append(g.replicas, s)
}

// now takes a replica's new process, nil when it has none any more. One that was being started when the replica came into
// quarantine ends before its first call.
func (g *group) now(r int, inc *incarnation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.living[r] = inc
	g.demand.takes(r, inc)
	if inc != nil {
		g.digest = inc.digest
	}
	if inc != nil && g.pool != nil {
		g.set.StandBy(r, g.pool.far(inc.zone))
	}
	switch {
	case inc == nil:
		g.set.Down(r)
	case g.replicas[r].parked.Load(): // while it started
	case g.set.State(r) != resilience.Quarantined: // else it has started meanwhile, and is being ended
		g.set.Up(r)
	}
}

// probed takes the outcome of a known-answer test. A wrong answer to it counts as one to a call does.
func (g *group) probed(r int, inc *incarnation, err error) {
	g.mu.Lock()
	verdict := resilience.Keep
	if g.living[r] == inc {
		g.set.Probed(r, err == nil)
		if errors.Is(err, sdk.ErrInvalidOutput) {
			verdict = g.set.Accuse(r)
		}
	}
	g.mu.Unlock()
	if verdict == resilience.Isolate {
		g.replicas[r].bar("failed its known-answer test again and again")
	}
}

func (g *group) state(r int) resilience.State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.set.State(r)
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
	return g.begun(ctx, call, false)
}

// begun is Start, and with now StartNow.
func (g *group) begun(ctx context.Context, call *expert.Call, now bool) *groupCall {
	p := groupCalls.Get().(*groupCall)
	p.group, p.ctx, p.call, p.now = g, ctx, call, now
	if r, inc := g.begin(0); inc != nil {
		p.send(r, inc)
	}
	return p
}

// Cores implements moe.Bound.
func (g *group) Cores() []int { return g.cores }

// Here implements moe.Neighbour.
func (g *group) Here() int { return g.lanes.here() }

// begin picks a replica for a call, other than those whose bit is set in avoid, and counts the call; nil if there is none.
func (g *group) begin(avoid uint64) (int, *incarnation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	r, inc := g.pick(now, avoid)
	if inc != nil {
		g.set.Begin(r)
		g.demand.begin(now, r)
	}
	return r, inc
}

// pick is begin that counts nothing. The caller holds mu.
func (g *group) pick(now time.Time, avoid uint64) (int, *incarnation) {
	for {
		r := g.set.Pick(now, avoid)
		if r < 0 {
			return -1, nil
		}
		if inc := g.living[r]; inc.verdict.Load() == nil && !inc.proc.Ending() {
			return r, inc
		}
		avoid |= 1 << r // it is being replaced, or will be as soon as its supervisor has noticed
	}
}

// end takes a call's outcome, and does with the process what follows from it.
func (g *group) end(r int, inc *incarnation, o resilience.Outcome, took time.Duration, work float64) {
	g.mu.Lock()
	now := time.Now()
	verdict := g.set.End(now, r, o, took, work, g.draw())
	g.demand.end(now, r)
	doubted := g.set.State(r) == resilience.Suspect
	g.mu.Unlock()
	if doubted {
		g.replicas[r].hasten()
	}
	switch verdict {
	case resilience.Replace:
		inc.condemned("gave an invalid answer")
	case resilience.Isolate:
		g.replicas[r].bar("gave invalid answers")
	}
}

// quarantine takes a replica out that has been caught with wrong numbers.
func (g *group) quarantine(r int, cause string) {
	g.mu.Lock()
	g.set.Quarantine(r)
	g.mu.Unlock()
	g.replicas[r].bar(cause)
}

// release implements member.
func (g *group) release(r int) bool {
	g.mu.Lock()
	held := g.set.State(r) == resilience.Quarantined || g.replicas[r].barred.Load() != nil
	g.set.Release(r)
	g.mu.Unlock()
	if held {
		g.executed.Close() // whoever has mended the file means the new one
		g.replicas[r].free()
	}
	return held
}

// await waits for a replica other than avoid until ctx ends or waiting makes no sense, and counts the call on it. One that
// was avoided is better than none once it has another process.
func (g *group) await(ctx context.Context, avoid *incarnation) (int, *incarnation, error) {
	for waits := false; ; {
		changed := g.changed.wait()
		if r, inc := g.begin(g.mask(avoid)); inc != nil {
			return r, inc, nil
		}
		if err := g.hopeless(); err != nil {
			return 0, nil, err
		}
		if !waits {
			waits = true
			g.wait(1)
			defer g.wait(-1)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, nil, g.timedOut(ctx)
		}
	}
}

// mask is the bit of the replica whose process inc is; 0 if it is none's any more.
func (g *group) mask(inc *incarnation) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	for r, other := range g.living {
		if inc != nil && other == inc {
			return 1 << r
		}
	}
	return 0
}

// numerics is the backend's name and numeric class: an unknown plugin of the same class may compute something else.
func (g *group) numerics() string { return g.spec.Path + " " + g.class() }

func (g *group) program() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.digest
}

func (g *group) class() string { return g.answers.numericClass() }

// usable reports whether a process would take a call.
func (g *group) usable() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, inc := g.pick(time.Now(), 0)
	return inc != nil
}

var (
	_ member        = (*group)(nil)
	_ moe.Bound     = (*group)(nil)
	_ moe.Neighbour = (*group)(nil)
)
