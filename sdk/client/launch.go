package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/go-plugin/runner"

	"github.com/pimoe/pimoe/sdk/internal/bootstrap"
	"github.com/pimoe/pimoe/sdk/internal/confine"
)

// launch is go-plugin's runner: the fork, the exec and the handshake are ours, and go-plugin sees only a line that was
// checked.
type launch struct {
	p       *Process
	c       Command
	ctx     context.Context
	doc     bootstrap.Document
	env     []string // what a go-plugin server expects to find
	line    string   // the handshake
	address string   // of the control socket

	exe     *confine.Executable // nil = the process is not confined, as is confine
	script  *confine.Executable // what an interpreter executes, if it is confined
	confine *confine.Launch

	stranger atomic.Pointer[error] // somebody else listens there
}

// Start implements runner.Runner.
func (l *launch) Start(ctx context.Context) error {
	spawn := l.spawn
	if l.c.Guest != nil {
		spawn = func() error { return l.invite(ctx) }
	}
	if err := spawn(); err != nil {
		return err
	}
	return l.shake()
}

// spawn makes the process with everything that it inherits.
func (l *launch) spawn() error {
	p := l.p
	fail := func(err error) error { return fmt.Errorf("start plugin %s: %w", l.c.Path, err) }
	pipes, err := newStreams()
	if err != nil {
		return fail(err)
	}
	defer pipes.given()
	cmd, closeAfter, err := l.command()
	defer func() { l.inherited(closeAfter) }()
	if err == nil {
		theOOM.look()
		err = l.run(cmd, func(cmd *exec.Cmd) error {
			cmd.Stdout, cmd.Stderr = pipes.childOut, pipes.childErr
			return theStarter.run(cmd.Start)
		})
	}
	if err != nil {
		pipes.close()
		return l.unstarted(err, fail)
	}
	p.out = newOutput(l.c.Log, pipes)
	go p.reap(pipes)
	if l.confine != nil {
		deadline, _ := l.ctx.Deadline()
		if err := l.confine.Wait(deadline); errors.Is(err, os.ErrDeadlineExceeded) {
			return l.late()
		} else if err != nil {
			return l.unstarted(err, fail)
		}
	}
	return nil
}

// invite is spawn for a process that its author starts.
func (l *launch) invite(ctx context.Context) error {
	p := l.p
	fail := func(err error) error { return fmt.Errorf("attach plugin %s: %w", l.c.Path, err) }
	p.guest = &guest{conn: l.c.Guest, in: bufio.NewReader(l.c.Guest)}
	pipes, err := newStreams()
	if err != nil {
		return fail(err)
	}
	defer pipes.given()
	cmd, closeAfter, err := l.command()
	if err == nil {
		files := append([]*os.File{pipes.childOut, pipes.childErr}, cmd.ExtraFiles...)
		err = p.guest.give(ctx, gift{Env: cmd.Env, Dir: cmd.Dir}, files)
	}
	l.inherited(closeAfter)
	if err != nil {
		p.guest.pid = 0
		pipes.close()
		return fail(err)
	}
	p.out = newOutput(l.c.Log, pipes)
	go p.reapGuest(pipes)
	return nil
}

// inherited closes what the process has now, or never will have.
func (l *launch) inherited(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
	if l.p.plane != nil {
		l.p.plane.CloseFiles()
	}
}

// run starts the command, as it is or by way of the launch that confines it.
func (l *launch) run(cmd *exec.Cmd, start func(*exec.Cmd) error) error {
	if l.confine == nil {
		l.p.cmd = cmd
		if err := start(cmd); err != nil {
			l.p.cmd = nil
			return err
		}
		return nil
	}
	if err := l.confine.Start(start); err != nil {
		return err
	}
	l.p.cmd, l.p.group = l.confine.Cmd, l.confine.Group
	return nil
}

// unstarted is the error of a process that was not made or did not become the plugin.
func (l *launch) unstarted(err error, fail func(error) error) error {
	if errors.Is(err, syscall.ENOEXEC) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return notExecutable(l.c.Path, "it can't be executed here: "+err.Error(), err)
	}
	return fail(err)
}

// take checks what shall be executed, and keeps sealed copies of it.
func (l *launch) take(c Command) (err error) {
	if c.Guest != nil {
		return nil
	}
	if c.Profile != nil {
		if l.c.Profile, err = c.Profile.Resolve(c.Path); err != nil {
			return notExecutable(c.Path, err.Error(), err)
		}
	}
	if !l.c.Profile.script() {
		l.exe, l.p.digest, err = c.Confinement.executable(c.Path, c.Program)
		if err == nil && l.c.Profile != nil {
			if err = l.c.Profile.checkReads(c.Confinement.options.Trusting); err != nil {
				err = refusedFile(c.Path, err)
			}
		}
		return err
	}
	l.exe, l.script, l.p.digest, err = c.Confinement.interpreted(c.Path, l.c.Profile, c.Program)
	return err
}

// bounds are the measures that confine the process.
func (l *launch) bounds() ([]Measure, error) {
	if l.c.Guest != nil {
		return []Measure{{Name: "confinement", Detail: "attached: its author has started it"}}, nil
	}
	if l.confine == nil {
		return l.c.Confinement.unconfined(), nil
	}
	measures, err := l.confine.Verify(l.p.PID())
	if err == nil && l.c.Profile != nil {
		measures = append(measures, l.c.Profile.measure(l.exe.Digest))
	}
	return measures, err
}

// close frees what only the start needed.
func (l *launch) close() {
	if l.exe != nil {
		l.exe.Close()
	}
	if l.script != nil {
		l.script.Close()
	}
	if l.confine != nil {
		l.confine.Close()
	}
}

// The rest of runner.Runner: what go-plugin sees of the process.

// Stdout gives go-plugin the checked line and nothing else.
func (l *launch) Stdout() io.ReadCloser { return io.NopCloser(strings.NewReader(l.line)) }

// Stderr is read by output.
func (l *launch) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name implements runner.Runner.
func (l *launch) Name() string { return l.c.Path }

// Diagnose implements runner.Runner.
func (l *launch) Diagnose(context.Context) string { return "" }

// Wait blocks until the process has ended.
func (l *launch) Wait(context.Context) error {
	<-l.p.exited
	return nil
}

// Kill ends the process.
func (l *launch) Kill(context.Context) error {
	if l.p.cmd == nil && l.p.guest == nil {
		return nil
	}
	return l.p.Kill()
}

// ID implements runner.Runner.
func (l *launch) ID() string { return strconv.Itoa(l.p.PID()) }

// PluginToHost implements runner.Runner; the address has been checked.
func (l *launch) PluginToHost(network, address string) (string, string, error) {
	return network, address, nil
}

// HostToPlugin implements runner.Runner.
func (l *launch) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

var _ runner.Runner = (*launch)(nil)
