package host

import (
	"context"
	"errors"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk/expert"
)

// This file is what a group is for callers that have something else to do than to wait for a restart.

// StartNow implements moe.Impatient.
func (g *group) StartNow(ctx context.Context, call *expert.Call) expert.Pending {
	return g.begun(ctx, call, true)
}

// Available implements moe.Availability.
func (g *group) Available() error { return g.available() }

// Hopeless implements moe.Availability.
func (g *group) Hopeless() error { return g.hopeless() }

// next is the process that takes the call: one that is ready, or, for a call that may wait, one that will be.
func (p *groupCall) next() (int, *incarnation, error) {
	if !p.now {
		return p.group.await(p.ctx, p.last)
	}
	if r, inc := p.group.begin(p.group.mask(p.last)); inc != nil {
		return r, inc, nil
	}
	if err := p.group.available(); err != nil {
		return 0, nil, err
	}
	return 0, nil, p.group.unavailable(errors.New("its process has just failed"))
}

// StartNow implements moe.Impatient.
func (s *seat) StartNow(ctx context.Context, call *expert.Call) expert.Pending {
	if g, ok := s.of(call.Edition).(moe.Impatient); ok {
		return g.StartNow(ctx, call)
	}
	return s.Start(ctx, call)
}

// Available implements moe.Availability.
func (s *seat) Available() error { return s.available() }

// Hopeless implements moe.Availability.
func (s *seat) Hopeless() error {
	if g, ok := s.table.Load().current.(moe.Availability); ok {
		return g.Hopeless()
	}
	return nil
}

// Available says why a group, by its number in Options.Groups, can't answer now; nil if it can.
func (h *Host) Available(group int) error { return h.groups[group].available() }

// Class is the numeric class of a group's processes, empty while none is ready.
func (h *Host) Class(group int) string {
	return h.groups[group].table.Load().current.class()
}

// RouterAvailable says why the router can't answer now; nil if it can.
func (h *Host) RouterAvailable() error { return h.router.available() }

var (
	_ moe.Impatient    = (*group)(nil)
	_ moe.Availability = (*group)(nil)
	_ moe.Impatient    = (*seat)(nil)
	_ moe.Availability = (*seat)(nil)
)
