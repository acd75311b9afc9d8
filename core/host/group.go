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
	cease    context.CancelFunc // ends its processes
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
		name, cores := fmt.Sprintf("%s/%d", spec.Name, r), g.cores
		if r >= spec.Replicas && r < spec.most() { // what load has called for shall have cores that the others do not keep busy
			cores = l.lanes.of(n + r)
		}
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
		changed: func(inc *incarnation) { g.now(r, inc) },
		probed:  func(inc *incarnation, err error) { g.probed(r, inc, err) },
		hurry:   func() bool { return g.state(r) == resilience.Suspect },
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
	p := groupCalls.Get().(*groupCall)
	p.group, p.ctx, p.call = g, ctx, call
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
	for now := time.Now(); ; {
		r := g.set.Pick(now, avoid)
		if r < 0 {
			return -1, nil
		}
		if inc := g.living[r]; inc.verdict.Load() == nil && !inc.gone() {
			g.set.Begin(r)
			g.demand.begin(now, r)
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
	held := g.set.State(r) == resilience.Quarantined
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

// hopeless is the reason why no replica will be there soon, or nil while one may.
func (g *group) hopeless() error {
	var last error
	all := g.serving()
	if g.pool != nil && len(all) == 0 { // its source may name somebody soon
		return nil
	}
	for _, s := range all {
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
		for _, s := range g.serving() {
			if inc, err, _ := s.ready(); inc == nil {
				return g.unavailable(errors.Join(err, s.lastDeath()))
			}
		}
		if g.pool != nil && len(g.serving()) == 0 {
			return g.unavailable(g.pool.trouble())
		}
	}
	return fmt.Errorf("expert group %s: %w", g.spec.Name, ctx.Err())
}

func (g *group) unavailable(err error) error {
	return &UnavailableError{What: "expert group " + g.spec.Name, Cause: publicCause(err), err: err}
}

// available is nil if a replica can take a call.
func (g *group) available() error {
	if g.usable() {
		return nil
	}
	for _, s := range g.serving() {
		if _, err, _ := s.ready(); err != nil {
			return g.unavailable(errors.Join(err, s.lastDeath()))
		}
	}
	if g.pool != nil {
		return g.unavailable(g.pool.trouble())
	}
	return g.unavailable(errors.New("starting"))
}

// numerics is the backend's name and numeric class: an unknown plugin of the same class may compute something else.
func (g *group) numerics() string { return g.spec.Path + " " + g.class() }

func (g *group) program() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.digest
}

func (g *group) class() string { return g.answers.numericClass() }

func (g *group) usable() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for avoid := uint64(0); ; {
		r := g.set.Pick(time.Now(), avoid)
		if r < 0 {
			return false
		}
		if g.living[r].verdict.Load() == nil {
			return true
		}
		avoid |= 1 << r
	}
}

// Status is what is shown of one process.
type Status struct {
	Group        string `json:"group"`
	Replica      int    `json:"replica"`
	PID          int    `json:"pid"`
	State        string `json:"state"`      // of the process
	Health       string `json:"health"`     // what the replica is used for: ready, suspect, quarantined, draining or down
	Quarantine   string `json:"quarantine"` // why it is in quarantine; empty if it is not
	Units        int    `json:"units"`
	Backend      string `json:"backend"`
	NumericClass string `json:"numeric_class"`
	Digest       string `json:"digest"`             // "sha256:..." of what the process executes
	Endpoint     string `json:"endpoint,omitempty"` // HOST:PORT of one on another machine
	Zone         string `json:"zone,omitempty"`     // where that is, as it says
	Calls        uint64 `json:"calls"`
	Rows         uint64 `json:"rows"`
	Errors       uint64 `json:"errors"`
	Restarts     uint64 `json:"restarts"`
	PrivateBytes uint64 `json:"private_bytes"`
	Lanes        int    `json:"lanes"`       // threads that serve calls; 0 over gRPC and in process
	BoundLanes   int    `json:"bound_lanes"` // of them, those that the system let bind to a core
	LastDeath    *Death `json:"last_death"`
	// ReadySince is when the process passed its first known-answer test; nil while there is none.
	ReadySince *time.Time `json:"ready_since"`
	Aside      bool       `json:"aside"` // it serves requests of another edition only, while the group is being changed
	// Confinement lists what was done to confine the process, and what was not and why; none in process.
	Confinement []client.Measure `json:"confinement"`
	// Devices compute for the process, as it said when it was last asked (Host.Devices); none for one that computes on processors.
	Devices []expert.Device `json:"devices,omitempty"`
}

func (g *group) status() []Status {
	var out []Status
	for r, s := range g.replicas {
		st := g.stats[r].status(g.spec)
		st.Replica = r
		s.describe(&st)
		if g.pool != nil {
			st.Endpoint = g.pool.at(r).Address
		}
		if s.parked.Load() && st.PID == 0 && s.barred.Load() == nil {
			continue
		}
		st.Health = string(g.state(r))
		if why := s.barred.Load(); why != nil {
			st.Quarantine = *why
		}
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
		st.PID, st.NumericClass, st.Digest, st.Zone = inc.proc.PID(), inc.info.NumericClass, inc.digest, inc.zone
		st.PrivateBytes = privateBytes(st.PID)
		st.Lanes, st.BoundLanes = inc.proc.Lanes()
		st.Confinement = inc.proc.Confined()
		st.ReadySince = &inc.since
		st.Devices = inc.lastDevices()
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
	case errors.Is(err, errBarred):
		return "it is quarantined: it gave wrong answers (see: pimoe experts)"
	case errors.Is(err, errNotExecutable):
		why = "the plugin executable is missing or not executable"
	case errors.Is(err, errBadShard):
		why = "a weight shard is damaged or missing"
	case errors.Is(err, errWrongAnswer):
		why = "it fails its known-answer test"
	case errors.Is(err, errLoad):
		why = "it can't load its weights"
	case errors.Is(err, errUntrusted):
		why = "a certificate is not accepted"
	case errors.Is(err, errDisagrees):
		why = "what runs on the other machine is not what this host expects"
	case errors.Is(err, errNoEndpoint):
		return "no endpoint of it is known"
	case errors.Is(err, errUnreachable):
		why = "no endpoint can be reached"
	case errors.Is(err, errNoBackend):
		why = "its backend can't compute on this machine"
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
)
