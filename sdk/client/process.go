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

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/cgroup"
	"github.com/pimoe/pimoe/sdk/internal/plane"
)

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

// Ending reports that the process has exited, or that a call has met the beginning of its end. One that lives on is broken.
func (p *Process) Ending() bool { return p.hasExited() || p.shared() != nil && p.plane.Ending() }

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

// shortName is a plugin's name for messages.
func shortName(path string) string { return filepath.Base(path) }
