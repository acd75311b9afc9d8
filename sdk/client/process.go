package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/cgroup"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/plane"
	"github.com/pimoe/pimoe/sdk/internal/wire"

	"golang.org/x/sys/unix"
)

// killAfter is how long a process may take to end after SIGTERM, unless Stop's context ends sooner.
const killAfter = 2 * time.Second

// Process is a running plugin. Its owner calls Stop when done with it, also after it has died. All methods are safe for
// concurrent use.
type Process struct {
	name   string // of the executable's file
	digest string // of what is executed, set before Start returns
	cmd    *exec.Cmd
	guest  *guest // instead of cmd, if its author has started it
	dir    string // private folder
	life   *os.File
	plane  *plane.Host   // nil with gRPC
	group  *cgroup.Group // its own; nil if it is in the host's
	bare   bool          // it leaves the plane alone; set before Start returns
	bounds []Measure     // set before Start returns
	out    *output
	client *goplugin.Client
	conn   *grpc.ClientConn
	link   *link

	asked   atomic.Bool // to end
	exited  chan struct{}
	drained chan struct{} // the output is read to its end
	gone    context.Context
	cancel  context.CancelFunc // of gone, at death
	death   Death              // written before exited is closed, except LastLines

	stop    sync.Once
	stopped chan struct{}
	stopErr error
}

// PID is the process's number.
func (p *Process) PID() int {
	if p.guest != nil {
		return p.guest.pid
	}
	if p.cmd == nil || p.cmd.Process == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Digest is "sha256:..." of what the process executes.
func (p *Process) Digest() string { return p.digest }

// Info is what the plugin says of itself, after Load with its numeric class.
func (p *Process) Info() sdk.Info { return p.link.Info() }

// Exited is closed as soon as the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Death tells how the process ended. It waits for the end, and for a moment until the last lines are read.
func (p *Process) Death() Death {
	<-p.drained
	return p.deathNow()
}

func (p *Process) deathNow() Death {
	d := p.death
	d.LastLines = p.out.lines()
	return d
}

// Core is the core that the caller runs on just now, as Command.Cores counts them; -1 if the system doesn't tell.
func Core() int { return plane.Core() }

// BeatEvery is the period of heartbeats.
const BeatEvery = plane.BeatEvery

// Confined lists what was done to confine the process, as the kernel confirms it, and why not more.
func (p *Process) Confined() []Measure { return slices.Clone(p.bounds) }

// Beat is the process's heartbeat counter, which rises every BeatEvery; false where there is none (gRPC) or no more.
func (p *Process) Beat() (uint64, bool) {
	theOOM.look()
	if p.shared() == nil {
		return 0, false
	}
	return p.plane.Beat()
}

// Ping asks the control plane for a sign of life.
func (p *Process) Ping(ctx context.Context) error { return p.link.ping(ctx) }

// Stats asks the process what it has done.
func (p *Process) Stats(ctx context.Context) (calls, rows, errors uint64, err error) {
	s, err := p.link.stats(ctx)
	return s.GetCalls(), s.GetRows(), s.GetErrors(), err
}

// Drain tells the process to refuse new calls and waits until the running ones have ended.
func (p *Process) Drain(ctx context.Context) error { return p.link.drain(ctx) }

// Expert is the process as an expert; nil for a router.
func (p *Process) Expert() *Expert {
	if p.link.kind != sdk.KindExpert {
		return nil
	}
	return &Expert{link: p.link}
}

// Router is the process as a router; nil for an expert.
func (p *Process) Router() *Router {
	if p.link.kind != sdk.KindRouter {
		return nil
	}
	return &Router{link: p.link}
}

// shared is the plane, if the plugin serves it.
func (p *Process) shared() *plane.Host {
	if p.bare {
		return nil
	}
	return p.plane
}

// SharedBytes is the memory of the process's plane, 0 with gRPC.
func (p *Process) SharedBytes() int64 {
	if p.shared() == nil {
		return 0
	}
	return p.plane.Bytes()
}

// Lanes are the threads that serve the process's calls, and how many of them are bound to a core; none with gRPC.
func (p *Process) Lanes() (lanes, bound int) {
	if p.shared() == nil {
		return 0, 0
	}
	return p.plane.Layout().Lanes, p.plane.Pinned()
}

// Transport is how tensors travel: TransportGRPC if shared memory was asked for and isn't there.
func (p *Process) Transport() Transport {
	if p.shared() == nil {
		return TransportGRPC
	}
	return TransportSHM
}

// Kill ends the process now, without waiting. Stop is still to be called.
func (p *Process) Kill() error { return p.signal(syscall.SIGKILL) }

// signal goes through the process's pidfd where there is one, so that it can't hit another process.
func (p *Process) signal(s syscall.Signal) error {
	p.asked.Store(true)
	if p.guest != nil {
		say(p.guest.conn, word{Signal: int(s)}) // where it fails, its end is told anyway
		return nil
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal plugin %s (pid %d): %w", p.name, p.PID(), err)
	}
	return nil
}

// Stop ends the process and frees everything that belongs to it: SIGTERM, SIGKILL when the context ends or after 2 s,
// its process group, the shared memory, the sockets, the goroutines. Calls under way fail with a DeadError. It may be
// called several times; all callers wait for the end.
func (p *Process) Stop(ctx context.Context) error {
	p.stop.Do(func() {
		p.stopErr = p.end(ctx)
		close(p.stopped)
	})
	<-p.stopped
	return p.stopErr
}

func (p *Process) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killAfter)
	defer cancel()
	err := p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-ctx.Done():
		err = errors.Join(err, p.Kill())
	}
	if !p.dies() {
		return errors.Join(err, fmt.Errorf("plugin %s (pid %d) survives SIGKILL: %w", p.name, p.PID(), sdk.ErrUnavailable))
	}
	p.free()
	return err
}

const (
	// diesWithin is longer than a busy kernel takes for a process that was killed. One that lives on is stuck in a device.
	diesWithin = 10 * time.Second
	// leavesWithin is how long a guest's starter may take to pass a kill on and to say that it has.
	leavesWithin = 500 * time.Millisecond
)

// dies waits for the end of a process that was killed; false if there is none. A guest whose starter says nothing, since it is
// stopped, can't keep the host: the end of the connection is the end of the stay.
func (p *Process) dies() bool {
	limit := diesWithin
	if p.guest != nil {
		limit = leavesWithin
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-p.exited:
		return true
	case <-t.C:
	}
	if p.guest == nil {
		return false
	}
	p.guest.conn.Close()
	<-p.exited
	return true
}

// free gives everything back after the process has ended, or before it was made.
func (p *Process) free() {
	if p.conn != nil {
		p.conn.Close()
	}
	if p.client != nil && p.conn != nil {
		// go-plugin's Kill blocks on a process that doesn't answer; this one is dead and its connection closed. It waits
		// for go-plugin's own goroutines.
		p.client.Kill()
	}
	if p.plane != nil {
		p.plane.Close()
	}
	if p.life != nil {
		p.life.Close()
	}
	if p.cmd != nil || p.guest != nil && p.guest.pid != 0 {
		<-p.drained
	}
	if p.group != nil {
		p.group.Close() // what can't be removed now, the next start removes
	}
	if p.guest != nil {
		p.guest.conn.Close()
	}
	os.Chmod(p.dir, 0o700) // it was closed to the process
	os.RemoveAll(p.dir)
}

// ending is how a process ended.
type ending struct {
	code   int // -1 if a signal ended it
	signal syscall.Signal
}

// reap waits for the process's end and tells everybody: at once where the system says how it ended before it is waited for,
// since the kernel may take its time until then.
func (p *Process) reap(stdout, stderr *os.File) {
	e, known := awaitDeath(p.PID())
	if known {
		p.tell(e)
	}
	unix.Kill(-p.PID(), unix.SIGKILL) // what it started and left in its group
	state, err := p.cmd.Process.Wait()
	theStarter.release()
	if !known {
		e = ending{code: -1}
		if err == nil {
			if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
				e.signal = ws.Signal()
			} else {
				e.code = state.ExitCode()
			}
		}
		p.tell(e)
	}

	p.drainOutput(stdout, stderr)
}

// reapGuest is reap for a process that is not a child.
func (p *Process) reapGuest(stdout, stderr *os.File) {
	p.tell(p.guest.wait())
	p.drainOutput(stdout, stderr)
}

// drainOutput ends the reading of an ended process's streams.
func (p *Process) drainOutput(stdout, stderr *os.File) {
	// What is in the pipes is read; a grandchild that keeps them open is not waited for.
	deadline := time.Now().Add(100 * time.Millisecond)
	stdout.SetReadDeadline(deadline)
	stderr.SetReadDeadline(deadline)
	p.out.wg.Wait()
	stdout.Close()
	stderr.Close()
	close(p.drained)
}

// tell ends all that waits for the process.
func (p *Process) tell(e ending) {
	p.death = Death{ExitCode: e.code, Asked: p.asked.Load(), At: time.Now()}
	if e.signal != 0 {
		p.death.Signal = unix.SignalName(e.signal)
		p.death.OOM, p.death.OOMLimit = p.outOfMemory(e)
	}
	if p.plane != nil {
		p.plane.Abort()
	}
	close(p.exited) // before the calls are cancelled: they look here for the reason
	p.cancel()
}

// outOfMemory reports whether the kernel has killed the process for lack of memory. Its cgroup knows; without one it is a guess.
func (p *Process) outOfMemory(e ending) (oom, limit bool) {
	switch {
	case e.signal != syscall.SIGKILL:
		return false, false
	case p.group != nil:
		return p.group.Killed()
	default:
		return !p.death.Asked && theOOM.rose(), false
	}
}

func (p *Process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// dead is the error of a call on an ended process.
func (p *Process) dead() error { return &DeadError{Process: p, Death: p.deathNow()} }

// link is a connection to a plugin as calls see it. Process has one; NewExpert and NewRouter make one of a bare
// connection.
type link struct {
	process *Process // nil for a bare connection
	remote  *Remote  // of another machine; nil elsewhere
	kind    sdk.Kind
	expert  pb.ExpertClient
	router  pb.RouterClient
	plane   *plane.Host // nil with gRPC
	info    atomic.Pointer[pb.InfoReply]
}

func newLink(p *Process, conn grpc.ClientConnInterface) *link {
	l := &link{process: p, expert: pb.NewExpertClient(conn), router: pb.NewRouterClient(conn)}
	if p != nil {
		l.plane = p.plane
	}
	return l
}

func (l *link) Info() sdk.Info { return wire.InfoBack(l.info.Load()) }

// call runs one RPC under a context that ends with the process too, and gives its error a class and a name.
func (l *link) call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if l.process != nil {
		defer context.AfterFunc(l.process.gone, cancel)()
	}
	if l.remote != nil {
		l.remote.calls.Add(1)
		defer l.remote.calls.Add(-1)
	}
	return l.failure(ctx, wire.FromStatus(f(ctx)))
}

// failure names the cause of a failed call: a dead process before anything else.
func (l *link) failure(ctx context.Context, err error) error {
	if err != nil && l.remote != nil {
		return l.remote.failure(ctx, err)
	}
	if err == nil || l.process == nil {
		return wire.FromContext(err)
	}
	p := l.process
	if errors.Is(err, context.Canceled) && p.hasExited() { // cancelled because of it
		return p.dead()
	}
	if errors.Is(err, plane.ErrClosed) || errors.Is(err, sdk.ErrUnavailable) {
		// The connection's end is often seen before the process's.
		wait := time.NewTimer(250 * time.Millisecond)
		defer wait.Stop()
		select {
		case <-p.exited:
		case <-ctx.Done():
		case <-wait.C:
		}
		if p.hasExited() {
			return p.dead()
		}
	}
	if errors.Is(err, plane.ErrClosed) {
		return fmt.Errorf("plugin %s (pid %d) is being stopped: %w", p.name, p.PID(), sdk.ErrUnavailable)
	}
	return wire.FromContext(err)
}

func (l *link) ping(ctx context.Context) error {
	return l.call(ctx, func(ctx context.Context) (err error) {
		if l.kind == sdk.KindRouter {
			_, err = l.router.Ping(ctx, &pb.PingRequest{})
		} else {
			_, err = l.expert.Ping(ctx, &pb.PingRequest{})
		}
		return err
	})
}

func (l *link) stats(ctx context.Context) (s *pb.StatsReply, err error) {
	err = l.call(ctx, func(ctx context.Context) (err error) {
		if l.kind == sdk.KindRouter {
			s, err = l.router.Stats(ctx, &pb.StatsRequest{})
		} else {
			s, err = l.expert.Stats(ctx, &pb.StatsRequest{})
		}
		return err
	})
	return s, err
}

func (l *link) drain(ctx context.Context) error {
	return l.call(ctx, func(ctx context.Context) (err error) {
		if l.kind == sdk.KindRouter {
			_, err = l.router.Drain(ctx, &pb.DrainRequest{})
		} else {
			_, err = l.expert.Drain(ctx, &pb.DrainRequest{})
		}
		return err
	})
}

// shortName is a plugin's name for messages.
func shortName(path string) string { return filepath.Base(path) }
