// Package nemesis makes the faults of a schedule happen to a running server and finds out what became of each: whether it
// really fired, when the server had noticed it, and when the processes were complete again.
//
// The command chaos uses it. It acts by signals, limits and memory of the server's children, as a hostile machine would, and
// refuses to touch a process that the server does not list.
package nemesis

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/program"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/schedule"
)

const (
	// pollEvery is how exactly times are known. Each look costs the server about a millisecond.
	pollEvery = 10 * time.Millisecond
	// askAgain is when the server is asked for its processes again while one of them is missing, although no counter has changed.
	askAgain = 100 * time.Millisecond
	// harmlessAfter is when a fault that a process may survive, such as slowness, counts as survived.
	harmlessAfter = time.Second
	// lies is how often the answers of one replica are corrupted. The server takes a replica that has lied three times for
	// hostile and never uses it again, as it should; a group of such replicas is out of service.
	lies = 2
)

// Outcome is what became of one fault. Times are in milliseconds since the fault, -1 where there is none.
type Outcome struct {
	schedule.Fault
	Era       uint64    `json:"era,omitempty"`
	Fired     time.Time `json:"fired"`         // zero: it did not
	Why       string    `json:"why,omitempty"` // it did not fire
	Process   string    `json:"process"`       // such as "e3/0" or "router"
	PID       int       `json:"pid"`
	Note      string    `json:"note,omitempty"`  // what exactly was done
	Detected  float64   `json:"detected_ms"`     // until the server no longer used it, or a successor was there
	Survived  bool      `json:"survived"`        // it did not end the process, which serves
	Recovered float64   `json:"recovered_ms"`    // until all processes of its group were there again
	Cause     string    `json:"cause,omitempty"` // the server's word for the death
}

// Nemesis is at work on one server. Make it with Begin, end it with End.
type Nemesis struct {
	server *program.Server
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex // guards all below
	status   program.Status
	asked    time.Time // for the status
	counters program.Counters
	pending  []*pending
	done     []Outcome
	err      error
	// corrupted counts by replica.
	corrupted map[string]int
}

// pending is a fault whose outcome is not known yet.
type pending struct {
	Outcome
	group    string
	restarts uint64    // of its process when it fired
	trusted  bool      // the server used its process when it fired
	ends     time.Time // when the server may call it survived; zero: it must be noticed
}

// Begin starts to watch a server that is ready.
func Begin(ctx context.Context, server *program.Server) (*Nemesis, error) {
	n := &Nemesis{server: server, corrupted: map[string]int{}}
	if err := n.look(ctx); err != nil {
		return nil, err
	}
	ctx, n.stop = context.WithCancel(ctx)
	n.wg.Go(func() { n.watch(ctx) })
	return n, nil
}

// End waits for the faults under way and returns all outcomes in the order in which they were decided.
func (n *Nemesis) End() ([]Outcome, error) {
	n.stop()
	n.wg.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pending {
		n.done = append(n.done, p.Outcome)
	}
	n.pending = nil
	return n.done, n.err
}

// Run fires the faults of a plan at their times, counted from now, and returns when the last one has fired or ctx ends.
func (n *Nemesis) Run(ctx context.Context, plan []schedule.Fault, era uint64) {
	began := time.Now()
	for _, f := range plan {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(began.Add(f.At))):
		}
		n.fire(ctx, f, era)
	}
}

// Settle waits until the outcome of every fault is known, or the limit has passed: then false.
func (n *Nemesis) Settle(ctx context.Context, limit time.Duration) bool {
	for deadline := time.Now().Add(limit); ; {
		n.mu.Lock()
		open := len(n.pending)
		n.mu.Unlock()
		if open == 0 {
			return true
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return false
		}
		time.Sleep(pollEvery)
	}
}

// Restarts is how many processes have taken the place of another since the server's start.
func (n *Nemesis) Restarts() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return restarts(n.counters)
}

func restarts(c program.Counters) (sum uint64) {
	for _, k := range c.Restarts {
		sum += k
	}
	return sum
}

// watch looks again and again, until ctx ends or the server can't be asked.
func (n *Nemesis) watch(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := n.look(ctx); err != nil && ctx.Err() == nil {
			n.mu.Lock()
			n.err = cmp.Or(n.err, fmt.Errorf("watch the server: %w", err))
			n.mu.Unlock()
			return
		}
	}
}

// look asks the server for its counters, and for its processes if one has changed.
func (n *Nemesis) look(ctx context.Context) error {
	now, err := n.server.Counters(ctx)
	if err != nil {
		return err
	}
	n.mu.Lock()
	stale := !maps.Equal(now.Restarts, n.counters.Restarts) || !maps.Equal(now.Ready, n.counters.Ready) || n.missing() && time.Since(n.asked) > askAgain
	n.mu.Unlock()
	at, status := time.Now(), program.Status{}
	if stale {
		if status, err = n.server.Status(ctx); err != nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counters = now
	if stale {
		n.status, n.asked = status, at
	}
	open := slices.Clone(n.pending) // decided looks at all of them
	n.pending = slices.DeleteFunc(open, func(p *pending) bool {
		if !n.decided(p, at) {
			return false
		}
		n.done = append(n.done, p.Outcome)
		return true
	})
	return nil
}

// missing reports whether a process was not there when the server was last asked. n.mu is held.
func (n *Nemesis) missing() bool {
	return n.status.Router.PID == 0 || slices.ContainsFunc(n.status.Experts, func(s host.Status) bool { return s.PID == 0 })
}

func nameOf(s host.Status) string { return fmt.Sprintf("%s/%d", s.Group, s.Replica) }

// decided completes an outcome with what was seen at a time, and reports whether that is all there is to know.
func (n *Nemesis) decided(p *pending, at time.Time) bool {
	since := float64(at.Sub(p.Fired).Microseconds()) / 1e3
	replaced := n.replaced(p)
	if p.Detected < 0 && (replaced || p.trusted && !n.counters.Ready[p.Process]) {
		p.Detected = since
	}
	if !replaced {
		p.Survived = !p.ends.IsZero() && at.After(p.ends)
		return p.Survived
	}
	if slices.ContainsFunc(n.pending, func(o *pending) bool { return o.group == p.group && !n.replaced(o) && o.ends.IsZero() }) {
		return false
	}
	p.Recovered, p.Cause = since, causeOf(n.status, p.Process)
	return true
}

func (n *Nemesis) replaced(p *pending) bool { return n.counters.Restarts[p.Process] != p.restarts }

// fire chooses whom a fault hits, among those that live and are not hit already, and does it.
func (n *Nemesis) fire(ctx context.Context, f schedule.Fault, era uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := &pending{Outcome: Outcome{Fault: f, Era: era, Detected: -1, Recovered: -1}}
	targets := n.targets(f.Kind)
	if len(targets) == 0 {
		p.Why = "no process may be hit at the moment"
		n.done = append(n.done, p.Outcome)
		return
	}
	t := targets[f.Draw%uint64(len(targets))]
	p.Process, p.PID, p.group, p.restarts, p.trusted = t.name, t.pid, groupOf(t.name), n.counters.Restarts[t.name], n.counters.Ready[t.name]
	began := time.Now()
	what, err := n.strike(ctx, f, t)
	if err != nil {
		p.Why = err.Error()
		n.done = append(n.done, p.Outcome)
		return
	}
	p.Fired, p.Note = began, what.note
	if f.Kind == schedule.Corrupt {
		n.corrupted[t.name]++
	}
	if what.lasts > 0 {
		p.ends = p.Fired.Add(what.lasts + harmlessAfter)
	}
	n.pending = append(n.pending, p)
}

// target is a process that can be hit.
type target struct {
	name string
	pid  int
}

// targets are the living processes for a kind, in the server's order. n.mu is held.
func (n *Nemesis) targets(kind schedule.Kind) []target {
	var all []target
	if kind == schedule.Router {
		if n.status.Router.PID != 0 {
			all = append(all, target{router, n.status.Router.PID})
		}
	} else {
		for _, s := range n.status.Experts {
			if s.PID != 0 {
				all = append(all, target{nameOf(s), s.PID})
			}
		}
	}
	return slices.DeleteFunc(all, func(t target) bool {
		return kind == schedule.Corrupt && n.corrupted[t.name] >= lies ||
			slices.ContainsFunc(n.pending, func(p *pending) bool { return p.Process == t.name })
	})
}

// router is the process of routes in the server's metrics.
const router = "router"

// struck is what was done.
type struck struct {
	note  string
	lasts time.Duration // of a fault that a process may survive; 0: it must not
}

func groupOf(process string) string {
	group, _, _ := strings.Cut(process, "/")
	return group
}

// causeOf is the server's word for the last death of a process.
func causeOf(s program.Status, process string) string {
	if process == router {
		if s.Router.LastDeath != nil {
			return s.Router.LastDeath.Cause
		}
		return ""
	}
	for _, e := range s.Experts {
		if nameOf(e) == process && e.LastDeath != nil {
			return e.LastDeath.Cause
		}
	}
	return ""
}
