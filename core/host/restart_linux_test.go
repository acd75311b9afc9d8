package host

import (
	"errors"
	"log/slog"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/resilience"
	"github.com/pimoe/pimoe/sdk"
)

// hostOf is a host of one group with one replica, whose process nobody supervises.
func hostOf(p process) *Host {
	log := slog.New(slog.DiscardHandler)
	f := &fleet{children: newNotifier()}
	g := &group{
		spec: GroupSpec{Name: "e0", Replicas: 1}, changed: newNotifier(), living: make([]*incarnation, 1), demand: newDemand(1, time.Now()), log: log,
		set: resilience.NewSet(1, 0, resilience.Options{}), stats: []*replicaStats{{}},
	}
	s := newSupervisor("e0/0", Options{Metrics: metrics.New(), Log: log}, g.changed, f, nil)
	g.adopt(0, s)
	s.set(StateReady, &incarnation{proc: p, condemn: make(chan struct{})}, nil, false)
	return &Host{fleet: f, groups: []*seat{newSeat(0, "e0", g)}, log: log}
}

// TestHurt: the signal reaches the replica's process, and what can't be hurt is an error that says so.
func TestHurt(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &fakeProcess{pid: cmd.Process.Pid, exited: make(chan struct{})}
	h := hostOf(p)
	for name, c := range map[string]struct {
		group   string
		replica int
		fault   string
		want    error
	}{
		"no such group": {"e9", 0, FaultKill, sdk.ErrNotFound}, "no such replica": {"e0", 1, FaultKill, sdk.ErrNotFound}, "no such fault": {"e0", 0, "shoot", sdk.ErrInvalid},
	} {
		if _, err := h.Hurt(c.group, c.replica, c.fault); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (&Host{}).Hurt("e0", 0, FaultKill); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("in process: %v", err)
	}
	if _, err := h.Drain("e0", 0); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("the last replica is drained: %v", err)
	}
	pid, err := h.Hurt("e0", 0, FaultKill)
	if err != nil || pid != cmd.Process.Pid {
		t.Errorf("pid %d: %v", pid, err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", err)
	}
	close(p.exited)
	if _, err := h.Hurt("e0", 0, FaultKill); err == nil {
		t.Error("a process that has ended is hurt: its number may be another's")
	}
}
