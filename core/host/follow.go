package host

import (
	"time"

	"github.com/pimoe/pimoe/core/spans"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/router"
)

// This file tells those who follow a layer of its calls on processes.

// followed is a call on a process that somebody follows.
type followed struct {
	span    spans.Span
	sent    time.Time
	carried client.Carried
}

func newFollowed(s spans.Span) *followed {
	f := &followed{span: s, sent: time.Now()}
	f.carried.Trace, f.carried.Span = s.ID()
	return f
}

// follow begins the span of the next try.
func (p *groupCall) follow(l spans.Layer, replica int, inc *incarnation) *followed {
	g := p.group
	return newFollowed(l.Call(spans.Call{
		Group: g.spec.Name, Replica: replica, PID: inc.proc.PID(), Backend: g.spec.Backend, Class: inc.info.NumericClass, Version: inc.info.Version,
		Attempt: p.sent, Hedge: p.beside, Rows: p.call.Y.Rows, Units: len(p.call.Segments),
	}))
}

// follow begins the span of a batch that goes to the plugin.
func (r *supervisedRouter) follow(l spans.Layer, inc *incarnation, b router.Batch) *followed {
	return newFollowed(l.Call(spans.Call{
		Router: true, Group: r.spec.Name, PID: inc.proc.PID(), Version: inc.info.Version, Attempt: 1, Rows: b.Logits.Rows,
	}))
}

// follow begins the span of a call that is computed here; nil = nobody follows.
func (c *localCall) follow() spans.Span {
	l := spans.LayerOf(c.ctx)
	if l == nil {
		return nil
	}
	a := c.group.answer(0)
	return l.Call(spans.Call{
		Group: a.Group, PID: a.PID, Backend: a.Backend, Class: a.Class, Version: a.Version, Attempt: 1, Rows: c.call.Y.Rows, Units: len(c.call.Segments),
	})
}

// end ends the span, if there is one. A call that was dropped is not over in its process: what that says comes too late.
func (f *followed) end(err error, dropped bool) {
	if f == nil {
		return
	}
	o := spans.Outcome{Err: err, Dropped: dropped}
	if !dropped {
		o.Began, o.Took = within(f.carried.Began, f.carried.Took, f.sent, time.Now())
	}
	f.span.End(o)
}

// within moves what a process says of its own time into the time in which the host waited for it: its clock may differ, and so may
// the truth.
func within(began time.Time, took time.Duration, sent, now time.Time) (time.Time, time.Duration) {
	if began.IsZero() {
		return began, 0
	}
	took = min(max(took, 0), now.Sub(sent))
	if began.Before(sent) || began.Add(took).After(now) {
		began = sent.Add((now.Sub(sent) - took) / 2)
	}
	return began, took
}
