package host

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Restart gives a group fresh processes of the same program: all of them with a negative number, which is a Swap, or one replica.
// Nobody waits for it: the new processes of a whole group are ready before the old ones end, and one replica of several ends
// when it has finished its calls, while the others serve. A group with one replica only is restarted as a whole.
func (h *Host) Restart(ctx context.Context, name string, replica int) error {
	g, err := h.replicaOf("restart", name, max(replica, 0))
	if err != nil {
		return err
	}
	if replica < 0 || g.size() == 1 {
		_, err := h.Swap(ctx, name, func(*GroupSpec) error { return nil })
		return err
	}
	h.changing.Lock()
	defer h.changing.Unlock()
	if g, err = h.replicaOf("restart", name, replica); err != nil { // it may have been changed meanwhile
		return err
	}
	if g.size() == 1 {
		return fmt.Errorf("restart %s: its other replicas have gone meanwhile: %w", name, sdk.ErrUnavailable)
	}
	life, s := h.fleet.life, g.replicas[replica]
	err = h.fleet.shrink(life, g, replica)
	h.fleet.count.Add(1)
	s.unpark()
	if err == nil {
		limited, cancel := context.WithTimeout(life, s.timeout+stopWithin)
		defer cancel()
		err = g.awaitStart(limited, s)
	}
	if err != nil {
		return fmt.Errorf("restart %s: %w", name, err)
	}
	g.log.Info("replica restarted", "replica", replica)
	return nil
}

// Drain takes one replica out of use: it gets no new calls, finishes those that it has, and ends. The group has one replica fewer
// from then on, whatever its load, until Scale says otherwise. The last one can't be drained.
func (h *Host) Drain(name string, replica int) (*GroupStatus, error) {
	if _, err := h.replicaOf("drain", name, replica); err != nil {
		return nil, err
	}
	h.changing.Lock()
	defer h.changing.Unlock()
	g, err := h.replicaOf("drain", name, replica)
	if err != nil {
		return nil, err
	}
	if err := g.away("drain"); err != nil {
		return nil, err
	}
	if g.size() == 1 {
		return nil, fmt.Errorf("drain %s: it is the group's last replica: restart it instead: %w", name, sdk.ErrInvalid)
	}
	n := h.seat(name).number
	s := h.scale
	s.mu.Lock()
	d, ok, err := s.scaler.Set(time.Now(), n, g.size()-1, 0, s.room())
	s.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("drain %s: %w", name, err)
	}
	err = h.fleet.shrink(h.fleet.life, g, replica)
	if ok {
		s.mu.Lock()
		if err != nil {
			s.scaler.Failed(time.Now(), publicCause(err))
		} else {
			s.scaler.Done(time.Now())
		}
		s.mu.Unlock()
	}
	if err != nil {
		return nil, fmt.Errorf("drain %s: %w", name, err)
	}
	g.log.Info("replica drained", "replica", replica, "from", d.From, "to", d.To)
	return &h.Scaling()[n], nil
}

// The faults of Hurt.
const (
	FaultKill = "kill" // SIGKILL
	FaultStop = "stop" // SIGSTOP: the process hangs until the host notices
)

// Hurt does to a replica's process what an accident does, so that people can watch what comes of it: the host is not told and has
// to notice by itself. It returns the process's number.
func (h *Host) Hurt(name string, replica int, fault string) (pid int, err error) {
	signal, known := map[string]syscall.Signal{FaultKill: syscall.SIGKILL, FaultStop: syscall.SIGSTOP}[fault]
	if !known {
		return 0, fmt.Errorf("hurt %s: fault %q: want %s or %s: %w", name, fault, FaultKill, FaultStop, sdk.ErrInvalid)
	}
	g, err := h.replicaOf("hurt", name, replica)
	if err != nil {
		return 0, err
	}
	inc, _, _ := g.replicas[replica].ready()
	if inc == nil {
		return 0, fmt.Errorf("hurt %s: replica %d has no process now: %w", name, replica, sdk.ErrUnavailable)
	}
	if away, ok := inc.proc.(interface{ Cut() }); ok {
		if fault != FaultKill {
			return 0, fmt.Errorf("hurt %s: fault %q: the replica runs on another machine, only its connection can be cut (%s): %w", name, fault, FaultKill, sdk.ErrUnsupported)
		}
		away.Cut()
		g.log.Warn("connection cut on purpose", "replica", replica)
		return 0, nil
	}
	p, err := os.FindProcess(inc.proc.PID())
	if err != nil {
		return 0, fmt.Errorf("hurt %s: %w", name, err)
	}
	defer func() { _ = p.Release() }()
	if inc.gone() { // its number may be another's by now; p, made before this look, is not
		return 0, fmt.Errorf("hurt %s: replica %d has just ended: %w", name, replica, sdk.ErrUnavailable)
	}
	if err := p.Signal(signal); err != nil {
		return 0, fmt.Errorf("hurt %s: %w", name, err)
	}
	g.log.Warn("process hurt on purpose", "replica", replica, "pid", inc.proc.PID(), "fault", fault)
	return inc.proc.PID(), nil
}

// replicaOf is the group that has a replica which may be acted on.
func (h *Host) replicaOf(what, name string, replica int) (*group, error) {
	if h.fleet == nil {
		return nil, fmt.Errorf("%s: the experts run in the host's own process: %w", what, sdk.ErrUnsupported)
	}
	s := h.seat(name)
	if s == nil {
		return nil, fmt.Errorf("%s %q: %w", what, name, errUnknownGroup)
	}
	g, err := s.group()
	if err != nil {
		return nil, err
	}
	switch {
	case replica >= g.spec.most() || g.replicas[replica].parked.Load():
		return nil, fmt.Errorf("%s: expert group %s has no replica %d: %w", what, name, replica, sdk.ErrNotFound)
	case g.replicas[replica].barred.Load() != nil:
		return nil, fmt.Errorf("%s: replica %d of expert group %s is quarantined: release it: %w", what, replica, name, sdk.ErrInvalid)
	}
	return g, nil
}
