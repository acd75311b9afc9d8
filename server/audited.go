package server

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/server/audit"
)

// Audit has every change that is asked for on the admin API recorded before it is done, and answers without an expert counted.
// Where the log can't be written, changes are refused. Without it nothing is recorded.
func Audit(l *audit.Log) Option { return func(o *options) { o.audit = l } }

// change is what the audit log holds of a route that changes something. Every POST of the admin API has one; a test says so.
type change struct {
	action string
	// fields are the members of the body that are recorded: words and numbers, never secrets.
	fields []string
}

// changing runs the handler of a route that changes something: first it is recorded who asks for what, then it is done, then
// what came of it is recorded. What can't be recorded isn't done.
func (x *exchange) changing(ctx context.Context, handle handler) (rep *reply, err error) {
	log := x.s.audit
	if log == nil || x.route.change == nil {
		return handle(ctx, x.req)
	}
	rec := audit.Record{Actor: x.actor(), Action: x.route.change.action, Object: x.object(), Outcome: audit.Asked, Details: x.asked()}
	if err := log.Record(rec); err != nil {
		return nil, err
	}
	rec.Outcome, rec.Details = audit.Failed, map[string]any{"request": x.req.id, "code": "panic"}
	defer func() { log.Finish(rec) }() // also when the handler panics, which ends this request alone
	rep, err = handle(ctx, x.req)
	delete(rec.Details, "code")
	if err != nil {
		f := x.s.faultOf(err)
		rec.Details["code"], rec.Details["status"] = f.code, f.status
		return nil, err
	}
	rec.Outcome = audit.Done
	for k, v := range rep.outcome {
		rec.Details[k] = v
	}
	return rep, nil
}

// actor is who asks, as the guard knows it: "local" for somebody on this machine who has sent no credential. The admin listener is
// on loopback only; with auth.public_admin changes come from elsewhere, too.
func (x *exchange) actor() audit.Actor {
	p, address := x.req.principal, "loopback"
	if !x.route.admin {
		address = "public"
	}
	return audit.Actor{Who: p.ID, Role: p.Role.String(), Address: address}
}

// object is what is to be changed.
func (x *exchange) object() string {
	if x.req.group != "" {
		return x.req.group
	}
	return x.s.service.id
}

// asked are the members of the body that may be recorded. Whether the body is right is the handler's to say.
func (x *exchange) asked() map[string]any {
	out := map[string]any{"request": x.req.id}
	var body map[string]any
	if json.Unmarshal(x.req.body, &body) != nil {
		return out
	}
	for k, v := range body {
		switch v.(type) {
		case string, float64, bool:
			if slices.Contains(x.route.change.fields, k) {
				out[k] = v
			}
		}
	}
	return out
}

// countQuality has the audit log count an answer that is not exact.
func (x *exchange) countQuality() {
	if q := x.req.quality; x.s.audit != nil && q != "" && q != engine.StatusExact {
		x.s.audit.Count("answer."+q, x.s.service.id)
	}
}

// auditWritable is 1 while changes can be recorded.
func (s *Server) auditWritable() float64 {
	if s.audit.Writable() == nil {
		return 1
	}
	return 0
}
