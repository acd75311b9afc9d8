package host

import (
	"errors"
	"time"

	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
)

// UnitCounts is what one unit has had to do since the host's start.
type UnitCounts struct {
	Rows, Calls, Errors int64
	Busy                time.Duration // of its calls; one call for several units is shared out by rows
}

// UnitCounts puts the counts of all units into to, in the order of Layout.Units, and returns it; to may be nil. It is empty where
// nothing has a process.
func (h *Host) UnitCounts(to []UnitCounts) []UnitCounts {
	to = to[:0]
	if h.heat == nil {
		return to
	}
	for i := range h.heat.units {
		u := &h.heat.units[i]
		to = append(to, UnitCounts{u.rows.Load(), u.calls.Load(), u.errors.Load(), time.Duration(u.busy.Load())})
	}
	return to
}

// wrong counts a call that has failed, in the units that it was for. Nobody is blamed for NaNs that came of its own rows.
func (g *group) wrong(c *expert.Call, err error) {
	g.heat.failed(c)
	if client.NotFinite(err) && !errors.Is(err, errUnsound) {
		g.counts.nonfinite.Inc()
	}
}

// Running is a process that runs now.
type Running struct {
	Name    string // of its group, or "router"
	Replica int
	PID     int
}

// Running lists the processes that run now, without asking the system about them; none in process.
func (h *Host) Running() []Running {
	if h.fleet == nil {
		return nil
	}
	var out []Running
	for _, s := range h.groups {
		g := s.own()
		if g == nil {
			continue
		}
		for r, p := range g.replicas {
			if pid := p.pid(); pid != 0 {
				out = append(out, Running{s.name, r, pid})
			}
		}
	}
	if pid := h.routers.of(0).process.pid(); pid != 0 {
		out = append(out, Running{"router", 0, pid})
	}
	return out
}

// pid is the process's id, 0 while there is none.
func (s *supervisor) pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return 0
	}
	return s.current.proc.PID()
}
