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
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
)

// State is where a process is in its life, in the words of FAULTS 5.2.
type State string

// The states.
const (
	StateStarting State = "starting" // launching, loading or being tested
	StateReady    State = "ready"
	StateFailed   State = "failed"      // a restart does not help now; tried again from time to time
	StateBarred   State = "quarantined" // it gave wrong answers; not started again until somebody says so
	StateStopped  State = "stopped"
	StateParked   State = "parked" // its group has fewer replicas just now; not started until it has more
)

const (
	// lookEvery is the period of looks at a heartbeat, and silentLooks how many may find no change: three beats. A process
	// that merely gets too little processor time must not be taken for a dead one.
	lookEvery   = time.Second
	silentLooks = 3 * client.BeatEvery / lookEvery
	// stopPatience is how long a process may be stopped. The kernel tells of a stop; somebody may let it go on at once.
	stopPatience = 200 * time.Millisecond
	// pingEvery and pingPatience stand in for the beats of a process without shared memory.
	pingEvery    = 300 * time.Millisecond
	pingPatience = 3 * time.Second
	// probeEvery is the period of a process's known-answer test, idle or busy, and probeShare the least time between two tests
	// in all: a test wakes an idle process, and there may be some dozens of them.
	probeEvery = 5 * time.Second
	probeShare = 500 * time.Millisecond
	probeSoon  = 200 * time.Millisecond // of a process in doubt
	probeLimit = 5 * time.Second
	stopWithin = 2 * time.Second
)

// process is what a supervisor needs of *client.Process.
type process interface {
	PID() int
	Exited() <-chan struct{}
	Death() client.Death
	Beat() (count uint64, beats bool)
	Stopped() bool // by a signal or a debugger
	Ping(ctx context.Context) error
	Lanes() (lanes, bound int)
	Confined() []client.Measure
	Kill() error
	Stop(ctx context.Context) error
}

// computing is what a group needs of *client.Expert.
type computing interface {
	Forward(ctx context.Context, call *expert.Call) error
	Start(ctx context.Context, call *expert.Call) expert.Pending
	Wake(all bool)
}

// incarnation is one process from its known-answer test to its death.
type incarnation struct {
	proc     process
	expert   computing      // of an expert process
	router   *client.Router // of a router process
	info     sdk.Info
	digest   string                          // of what it executes
	zone     string                          // where it runs, if it is on another machine and says so
	observes bool                            // a router that observes
	since    time.Time                       // it is ready; set before others see it
	served   atomic.Bool                     // has answered a real call
	inflight atomic.Int64                    // calls under way
	devices  atomic.Pointer[[]expert.Device] // as it has last told
	verdict  atomic.Pointer[string]
	condemn  chan struct{} // closed when verdict is set: the process must be replaced
	probe    func(ctx context.Context) error
}

// gone reports that the process has ended, whether or not its supervisor has noticed.
func (i *incarnation) gone() bool {
	select {
	case <-i.proc.Exited():
		return true
	default:
		return false
	}
}

// condemned marks the process for replacement, once; the first cause stays.
func (i *incarnation) condemned(cause string) {
	if i.verdict.CompareAndSwap(nil, &cause) {
		close(i.condemn)
	}
}

// supervisor keeps one process alive. run is its only goroutine; the fields under mu are what others read.
type supervisor struct {
	name      string // "e3/0" or "router"
	launch    func(ctx context.Context) (*incarnation, error)
	log       *slog.Logger
	timeout   time.Duration // of one start
	changed   *notifier     // of the group that waits for this process
	news      news          // what the group wants to know
	started   *metrics.Counter
	fleet     *fleet
	tell      func(Event)
	told      string         // the last cause that was told of, by run alone
	unreached bool           // the last start found nobody on another machine; by run alone
	draw      func() float64 // uniform in [0, 1), for the back-off
	lenient   bool           // the process may stand still as long as it likes: somebody debugs it

	barred  atomic.Pointer[string] // why no process is started any more; nil while there is no reason
	parked  atomic.Bool            // no process is wanted; one that is there may finish its calls
	release chan struct{}          // a token when barred or parked has changed
	leave   chan struct{}          // a token when the process of a parked replica shall end
	doubted chan struct{}          // a token when the process is in doubt
	anew    bool                   // run's own: it has been parked, and the next process is the first one since

	first     chan struct{} // closed after the first start, good or not
	firstOnce sync.Once

	mu       sync.Mutex
	state    State
	current  *incarnation // nil unless ready
	err      error        // why there is none now
	hopeless bool         // err will not mend itself soon: waiting makes no sense
	restarts uint64
	death    *Death
}

// news tells a group of its process; what is nil isn't told.
type news struct {
	changed func(inc *incarnation)            // the ready process, nil when there is none any more
	probed  func(inc *incarnation, err error) // it has been asked a question with a known answer
	hurry   func() bool                       // it should be asked more often
}

func newSupervisor(name string, o Options, changed *notifier, f *fleet, launch func(context.Context) (*incarnation, error)) *supervisor {
	return &supervisor{
		name: name, launch: launch, changed: changed, fleet: f, timeout: o.StartTimeout, state: StateStarting, draw: rand.Float64, tell: o.tell,
		log: o.Log.With("process", name), first: make(chan struct{}), release: make(chan struct{}, 1), doubted: make(chan struct{}, 1), leave: make(chan struct{}, 1),
		started: o.Metrics.Counter("pimoe_process_restarts_total", "process", name),
	}
}

// run starts the process again and again until ctx ends, and ends it then.
func (s *supervisor) run(ctx context.Context) {
	defer s.set(StateStopped, nil, fmt.Errorf("%s: stopped: %w", s.name, sdk.ErrUnavailable), true)
	var policy restarts
	var next time.Time // no start before
	for {
		if !s.admitted(ctx) || !s.rest(ctx, time.Until(next)) {
			return
		}
		if s.parked.Load() {
			continue
		}
		inc, err := s.start(ctx)
		end := broken
		switch {
		case err == nil:
			end = s.attend(ctx, inc)
		case ctx.Err() == nil:
			s.noteFailure(err)
			if failure := (*client.StartError)(nil); errors.As(err, &failure) && failure.Death != nil && deathOf(*failure.Death).struck() {
				end = struck
			}
			if errors.Is(err, errUnreachable) { // says nothing about the next try
				end = struck
			}
		}
		s.firstOnce.Do(func() { close(s.first) })
		if ctx.Err() != nil {
			return
		}
		if s.barred.Load() != nil { // whoever ends the quarantine should not wait, and the record is clean then
			policy, next = restarts{}, time.Time{}
			continue
		}
		if err == nil && s.anew { // it has ended because it was not wanted
			continue
		}
		wait, failed := policy.next(time.Now(), end, s.draw())
		if hopelessStart(err) { // looking again is cheap, and an operator who has mended it should not wait
			wait, failed = min(wait, maxBackoff), false
		}
		if failed {
			s.giveUp()
		}
		next = time.Now().Add(wait)
	}
}

// rest waits before the next start, unless none is wanted any more; false means that ctx ended.
func (s *supervisor) rest(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-s.leave:
	case <-t.C:
	}
	return true
}

var (
	// errBarred is why a quarantined replica has no process, errParked why one has none that its group does not want now.
	errBarred = errors.New("quarantined")
	errParked = errors.New("not wanted now")
)

// admitted waits while the replica is in quarantine or not wanted; false means that ctx ended. Whoever is set free is worth
// waiting for.
func (s *supervisor) admitted(ctx context.Context) bool {
	for waited := false; ; waited = true {
		why := s.barred.Load()
		switch {
		case s.parked.Load():
			s.unwanted()
		case why != nil:
			s.set(StateBarred, nil, fmt.Errorf("%w: it %s: %w", errBarred, *why, sdk.ErrUnavailable), true)
		default:
			if waited {
				s.set(StateStarting, nil, fmt.Errorf("%s: starting: %w", s.name, sdk.ErrUnavailable), false)
			}
			return ctx.Err() == nil
		}
		s.firstOnce.Do(func() { close(s.first) })
		select {
		case <-s.release:
		case <-ctx.Done():
			return false
		}
	}
}

// unwanted says that the replica has no process because none is wanted.
func (s *supervisor) unwanted() {
	s.anew = true
	s.set(StateParked, nil, fmt.Errorf("%s: %w: %w", s.name, errParked, sdk.ErrUnavailable), true)
}

// bar ends the process, also one that has taken the guilty one's place meanwhile, and keeps the supervisor from starting
// another one until free is called.
func (s *supervisor) bar(cause string) {
	if s.barred.CompareAndSwap(nil, &cause) {
		s.log.Error("replica is quarantined", "cause", cause)
		s.tell(Event{What: EventQuarantined, Object: s.name, Why: cause})
	}
	s.condemn(cause)
}

// free ends a quarantine. What it finds running has been part of it.
func (s *supervisor) free() {
	if s.barred.Swap(nil) != nil {
		s.tell(Event{What: EventReleased, Object: s.name, Why: "by an operator"})
	}
	s.condemn("was in quarantine")
	token(s.release)
}

// park keeps the supervisor from starting another process. The present one goes on until dismiss is called.
func (s *supervisor) park() {
	s.parked.Store(true)
	token(s.release)
}

// dismiss ends the process of a parked replica.
func (s *supervisor) dismiss() { token(s.leave) }

// unpark has a process started again.
func (s *supervisor) unpark() {
	select {
	case <-s.leave: // it had no process to end
	default:
	}
	s.parked.Store(false)
	token(s.release)
}

// token leaves one where there is none.
func token(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// condemn marks the process of the moment, if there is one.
func (s *supervisor) condemn(cause string) {
	if inc, _, _ := s.ready(); inc != nil {
		inc.condemned(cause)
	}
}

func (s *supervisor) start(ctx context.Context) (*incarnation, error) {
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	inc, err := s.launch(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("not ready within %v: %w", s.timeout, err)
	}
	return inc, err
}

// attend serves one incarnation: announce it, watch it, see it off.
func (s *supervisor) attend(ctx context.Context, inc *incarnation) ending {
	began := time.Now()
	inc.since = began
	select {
	case <-s.first:
		if !s.anew {
			s.countRestart()
		}
	default:
	}
	s.told, s.unreached = "", false
	s.anew = false
	s.set(StateReady, inc, nil, false)
	if why := s.barred.Load(); why != nil { // while it started
		inc.condemned(*why)
	}
	s.firstOnce.Do(func() { close(s.first) })
	s.log.Debug("process ready", "pid", inc.proc.PID(), "class", inc.info.NumericClass)
	cause := s.watch(ctx, inc)
	stopping := cause == "" || ctx.Err() != nil
	if !stopping {
		s.set(StateStarting, nil, fmt.Errorf("its process %s: %w", cause, sdk.ErrUnavailable), false)
		inc.proc.Kill()
	}
	stop, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	if err := inc.proc.Stop(stop); err != nil {
		s.log.Warn("stop process", "pid", inc.proc.PID(), "err", err)
	}
	switch {
	case !stopping:
		s.noteDeath(inc, cause)
	case ctx.Err() == nil:
		s.unwanted()
		return worked
	}
	lived := time.Since(began)
	outside := cause == causeStopped || deathOf(inc.proc.Death()).struck()
	switch {
	case inc.served.Load(), lived >= healthyAfter, outside && lived >= struckAfter:
		return worked
	case outside:
		return struck
	}
	return broken
}

// causeStopped is the death of a process that somebody has sent SIGSTOP.
const causeStopped = "hung (stopped)"

// watch returns the reason why the process has to be replaced, or "" when ctx ended or no process is wanted.
func (s *supervisor) watch(ctx context.Context, inc *incarnation) string {
	if s.lenient {
		return s.watchGuest(ctx, inc)
	}
	look := time.NewTimer(untilLook())
	defer look.Stop()
	probing, stopProbing := context.WithCancel(ctx)
	var probes sync.WaitGroup
	probes.Go(func() { s.probe(probing, inc) })
	if _, beats := inc.proc.Beat(); !beats {
		probes.Go(func() { s.ping(probing, inc) })
	}
	defer func() { stopProbing(); probes.Wait() }()
	pulse := newPulse(time.Now())
	var patience <-chan time.Time // runs while the process is stopped
	for {
		children := s.fleet.children.wait() // before the state: a change after this look is told
		stopped := inc.proc.Stopped()
		switch {
		case !stopped:
			patience = nil
		case patience == nil:
			patience = time.After(stopPatience)
		}
		select {
		case <-ctx.Done():
			return ""
		case <-s.leave:
			if s.parked.Load() {
				return ""
			}
		case <-inc.proc.Exited():
			return deathOf(inc.proc.Death()).describe()
		case <-inc.condemn:
			return *inc.verdict.Load()
		case <-children:
		case <-patience:
			if inc.proc.Stopped() {
				return causeStopped
			}
			patience = nil
		case now := <-look.C:
			look.Reset(untilLook())
			if count, ok := inc.proc.Beat(); ok && pulse.silent(now, count) {
				return "hung (no heartbeat)"
			}
		}
	}
}

// watchGuest is watch for a process that somebody debugs: only its end counts, or what it answers.
func (s *supervisor) watchGuest(ctx context.Context, inc *incarnation) string {
	select {
	case <-ctx.Done():
		return ""
	case <-inc.proc.Exited():
		return deathOf(inc.proc.Death()).describe()
	case <-inc.condemn:
		return *inc.verdict.Load()
	}
}

// untilLook is the time to the next look at the heartbeats. All supervisors look at the same moments: that is one waking of
// an idle host, and not one for each process.
func untilLook() time.Duration {
	return time.Until(time.Now().Truncate(lookEvery).Add(lookEvery))
}

// probe repeats the known-answer test while the process lives; a wrong or missing answer condemns the process.
func (s *supervisor) probe(ctx context.Context, inc *incarnation) {
	for s.awaitProbe(ctx) {
		one, cancel := context.WithTimeout(ctx, probeLimit)
		err := inc.probe(one)
		cancel()
		if s.news.probed != nil && ctx.Err() == nil {
			s.news.probed(inc, err)
		}
		if err != nil && ctx.Err() == nil {
			select {
			case <-inc.proc.Exited(): // its death says more than the failed probe
			default:
				s.log.Warn("known-answer test failed", "pid", inc.proc.PID(), "err", err)
				inc.condemned("failed its known-answer test")
			}
			return
		}
	}
}

// awaitProbe waits until the next known-answer test is due; false means that ctx ended.
func (s *supervisor) awaitProbe(ctx context.Context) bool {
	select { // an old doubt: untilProbe knows of those that last
	case <-s.doubted:
	default:
	}
	due := time.NewTimer(s.untilProbe())
	defer due.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-due.C:
		return true
	case <-s.doubted:
	}
	select {
	case <-due.C: // both at once are one
		return true
	default:
		return sleep(ctx, min(probeSoon, s.untilProbe()))
	}
}

// hasten has the process asked a known question soon: it is in doubt.
func (s *supervisor) hasten() { token(s.doubted) }

// untilProbe is the time to the next known-answer test. A process in doubt is asked soon.
func (s *supervisor) untilProbe() time.Duration {
	if s.news.hurry != nil && s.news.hurry() {
		return probeSoon
	}
	return max(probeEvery, time.Duration(s.fleet.size())*probeShare)
}

// ping stands in for the heartbeat of a process without shared memory.
func (s *supervisor) ping(ctx context.Context, inc *incarnation) {
	for sleep(ctx, pingEvery) {
		one, cancel := context.WithTimeout(ctx, pingPatience)
		err := inc.proc.Ping(one)
		cancel()
		if err != nil && ctx.Err() == nil {
			inc.condemned("hung (no answer to a ping)")
			return
		}
	}
}

// firstStart waits for the first start and returns its error.
func (s *supervisor) firstStart(ctx context.Context) error {
	select {
	case <-s.first:
	case <-ctx.Done():
		return fmt.Errorf("start %s: %w", s.name, ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != StateReady {
		return fmt.Errorf("start %s: %w", s.name, s.err)
	}
	return nil
}

func (s *supervisor) set(state State, inc *incarnation, err error, hopeless bool) {
	s.mu.Lock()
	s.state, s.current, s.err, s.hopeless = state, inc, err, hopeless
	s.mu.Unlock()
	if s.news.changed != nil {
		s.news.changed(inc)
	}
	s.changed.broadcast()
}

// noteFailure records a start that failed. A cause outside the process, such as a missing executable, is hopeless:
// calls that wait get their answer now, while the supervisor goes on trying.
func (s *supervisor) noteFailure(err error) {
	select {
	case <-s.first:
		level := slog.LevelError
		if s.unreached && errors.Is(err, errUnreachable) { // it has been said, and is tried about once a second
			level = slog.LevelDebug
		}
		s.log.Log(context.Background(), level, "process start failed", "err", err)
	default: // Start returns it
	}
	s.unreached = errors.Is(err, errUnreachable)
	state := StateStarting
	if hopelessStart(err) {
		state = StateFailed
		what := EventFailed
		if refused(err) {
			what = EventRefused
		}
		s.noteOnce(what, err.Error())
	}
	s.set(state, nil, err, state == StateFailed)
}

// countRestart counts a process that has taken the place of another.
func (s *supervisor) countRestart() {
	s.mu.Lock()
	s.restarts++
	s.mu.Unlock()
	s.started.Inc()
}

func (s *supervisor) noteDeath(inc *incarnation, cause string) {
	d := deathOf(inc.proc.Death())
	d.Cause, d.PID = cause, inc.proc.PID()
	s.mu.Lock()
	s.death = d
	s.mu.Unlock()
	s.log.Warn("process died", "pid", d.PID, "cause", cause, "signal", d.Signal, "exit_code", d.ExitCode, "oom", d.OOM, "last_lines", d.Log)
}

func (s *supervisor) giveUp() {
	s.mu.Lock()
	s.state, s.hopeless = StateFailed, true
	s.mu.Unlock()
	s.changed.broadcast()
	s.log.Error("process keeps dying before it answers; next try later", "after", halfOpenPeriod)
	s.noteOnce(EventFailed, "it keeps dying before it answers")
}

// ready is the living process, or nil and the reason.
func (s *supervisor) ready() (inc *incarnation, err error, hopeless bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current, s.err, s.hopeless
}

// hopelessStart reports whether a start failed for a reason that only an operator can mend.
func hopelessStart(err error) bool {
	return errors.Is(err, errNotExecutable) || errors.Is(err, errBadShard) || errors.Is(err, sdk.ErrInvalid) || errors.Is(err, sdk.ErrUnsupported)
}

// sleep waits; false means that ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// notifier wakes everybody who waits for a change.
type notifier struct {
	mu sync.Mutex
	ch chan struct{}
}

func newNotifier() *notifier { return &notifier{ch: make(chan struct{})} }

// wait is closed at the next change.
func (n *notifier) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ch
}

func (n *notifier) broadcast() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.ch)
	n.ch = make(chan struct{})
}
