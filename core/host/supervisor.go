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
)

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
	// replaced says whether another one does the work of a process that has ended.
	replaced func() bool
}

func newSupervisor(name string, o Options, changed *notifier, f *fleet, launch func(context.Context) (*incarnation, error)) *supervisor {
	return &supervisor{
		name: name, launch: launch, changed: changed, fleet: f, timeout: o.StartTimeout, state: StateStarting, draw: rand.Float64, tell: o.tell,
		log: o.Log.With("process", name), first: make(chan struct{}), release: tokens(), doubted: tokens(), leave: tokens(),
		started: o.Metrics.Counter("pimoe_process_restarts_total", "process", name),
	}
}

// run starts the process again and again until ctx ends, and ends it then.
func (s *supervisor) run(ctx context.Context) {
	defer s.set(StateStopped, nil, fmt.Errorf("%s: stopped: %w", s.name, sdk.ErrUnavailable), true)
	var policy restarts
	var next time.Time // no start before
	for s.admitted(ctx) {
		s.rest(ctx, time.Until(next))
		if s.parked.Load() || ctx.Err() != nil {
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

// rest waits before the next start, unless none is wanted any more.
func (s *supervisor) rest(ctx context.Context, wait time.Duration) {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-s.leave:
	case <-t.C:
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
		s.giveWay(ctx)
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

// wayFor is how long what a dead process leaves behind, and its successor, wait while others do its work. The calls that have
// been thrown back on those are what somebody waits for just now, and a start takes a core for two dozen milliseconds.
const wayFor = 20 * time.Millisecond

// giveWay waits as long as there is somebody who does the process's work.
func (s *supervisor) giveWay(ctx context.Context) {
	until := time.After(wayFor)
	for s.news.replaced != nil {
		changed := s.changed.wait()
		if !s.news.replaced() {
			return
		}
		select {
		case <-changed:
		case <-until:
			return
		case <-ctx.Done():
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
