package acceptance

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk/client"
)

// logTo is a test's log as a writer.
type logTo struct{ t *testing.T }

func (l logTo) Write(b []byte) (int, error) { l.t.Logf("%s", b); return len(b), nil }

// TestAttach: a plugin that its author has started gets a group's place, stands at a breakpoint, goes on, and ends in three ways.
// Requests run all the time, and each gets its text.
func TestAttach(t *testing.T) {
	i := open(t, func(c *config.Config) { c.Plugins.Dev = true })
	request := greedy(story(i, "a fox and a lamp"), 20)
	want := run(t.Context(), i, request)
	if want.err != nil {
		t.Fatal(want.err)
	}
	former := i.Host.Status()[3]
	var asked atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if a := run(t.Context(), i, request); a.err != nil || a.text != want.text {
				t.Errorf("error %v, text %q, want %q", a.err, a.text, want.text)
			}
			asked.Add(1)
		}
	}()
	for _, way := range []string{"leave", "kill", "kill while stopped"} {
		ctx, leave := context.WithCancel(t.Context())
		socket, err := i.Lend(former.Group, 300*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			command := []string{filepath.Join(coretest.Binaries(t), "pimoe-expert-ref")}
			ended <- client.Attach(ctx, socket, command, logTo{t}, func(note string) { t.Log(note) })
		}()
		var guest host.Status
		more := func(what string, holds func(s host.Status) bool) {
			t.Helper()
			wait(t, what, func() bool {
				for _, s := range i.Host.Status() {
					if s.Backend == "attached" && holds(s) {
						guest = s
						return true
					}
				}
				return false
			})
		}
		more("calls of the guest", func(s host.Status) bool { return s.Calls > 20 })
		if _, err := i.Lend(former.Group, time.Second); err == nil {
			t.Error("a second guest gets the same place")
		}
		unix.Kill(guest.PID, unix.SIGSTOP)
		before := asked.Load()
		wait(t, "answers while it stands still", func() bool { return asked.Load() > before+3 })
		more("a living guest", func(s host.Status) bool { return s.PID == guest.PID })
		if way == "kill while stopped" {
			unix.Kill(guest.PID, unix.SIGKILL)
		}
		unix.Kill(guest.PID, unix.SIGCONT)
		if way == "leave" {
			calls := guest.Calls
			more("calls after the pause", func(s host.Status) bool { return s.Calls > calls+20 })
			leave()
		} else if way == "kill" {
			unix.Kill(guest.PID, unix.SIGKILL)
		}
		err = <-ended
		if way == "leave" && err != nil {
			t.Errorf("left: %v", err)
		}
		wait(t, "the former process", func() bool { return len(i.Host.Status()) == 8 })
		if now := i.Host.Status()[3]; now.PID != former.PID {
			t.Errorf("%s: the former process was %d, it is %d", way, former.PID, now.PID)
		}
		leave()
	}
	before := asked.Load()
	wait(t, "requests afterwards", func() bool { return asked.Load() > before+3 })
	close(stop)
	<-stopped
	t.Logf("measured: %d requests", asked.Load())
}

// TestAttachRefused: only a host of a developer lends places, of groups that it has.
func TestAttachRefused(t *testing.T) {
	if _, err := open(t).Lend("e3", time.Second); err == nil {
		t.Error("a host without plugins.dev lends a place")
	}
	if _, err := open(t, func(c *config.Config) { c.Plugins.Dev = true }).Lend("nobody", time.Second); err == nil {
		t.Error("a group that is not there is lent")
	}
}
