package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/pimoe/pimoe/sdk"

	"golang.org/x/sys/unix"
)

// killAfter is how long a process may take to end after SIGTERM, unless Stop's context ends sooner.
const killAfter = 2 * time.Second

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
func (p *Process) reap(s *streams) {
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

	p.drainOutput(s)
}

// reapGuest is reap for a process that is not a child.
func (p *Process) reapGuest(s *streams) {
	p.tell(p.guest.wait())
	p.drainOutput(s)
}

// drainOutput ends the reading of an ended process's streams.
func (p *Process) drainOutput(s *streams) {
	s.end(100 * time.Millisecond)
	p.out.wg.Wait()
	s.close()
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

func (p *Process) hasExited() bool { return isClosed(p.exited) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// ending is the error of a call on a process whose end the kernel has begun and not yet told.
func (p *Process) ending() error {
	return &DeadError{Process: p, Death: Death{ExitCode: -1, Asked: p.asked.Load(), At: time.Now()}, Early: true}
}

// dead is the error of a call on an ended process.
func (p *Process) dead() error { return &DeadError{Process: p, Death: p.deathNow()} }
