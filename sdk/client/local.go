package client

import (
	"context"
	"fmt"
	"math"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/wire"
	"github.com/pimoe/pimoe/sdk/router"
)

// InProcessExpert is an expert in the caller's own process, with the same checks and errors as a remote one. Start runs the
// call in a goroutine of its own, which ends with the call, so that the experts of a layer run at the same time.
type InProcessExpert struct{ expert.Expert }

// Local wraps an expert.
func Local(e expert.Expert) InProcessExpert { return InProcessExpert{e} }

// Forward implements expert.Expert.
func (l InProcessExpert) Forward(ctx context.Context, call *expert.Call) error {
	if err := wire.CheckCall(call); err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return wire.FromContext(err)
	}
	if err := l.Expert.Forward(ctx, wire.Gather(call)); err != nil {
		return wire.FromContext(err)
	}
	return wire.Judge(call.Y)
}

// Start implements expert.Starter.
func (l InProcessExpert) Start(ctx context.Context, call *expert.Call) expert.Pending {
	return aside(func() error { return l.Forward(ctx, call) })
}

// InProcessRouter is a router in the caller's own process, with the same checks and errors as a remote one.
type InProcessRouter struct{ router.Router }

// LocalRouter wraps a router.
func LocalRouter(r router.Router) InProcessRouter { return InProcessRouter{r} }

// WantsHidden implements router.HiddenRouter.
func (l InProcessRouter) WantsHidden() bool {
	h, ok := l.Router.(router.HiddenRouter)
	return ok && h.WantsHidden()
}

// Observes implements router.Observer.
func (l InProcessRouter) Observes() bool {
	o, ok := l.Router.(router.Observer)
	return ok && o.Observes()
}

// Observe implements router.Observer.
func (l InProcessRouter) Observe(ctx context.Context, o router.Observation) error {
	to, ok := l.Router.(router.Observer)
	if !ok || !to.Observes() {
		return fmt.Errorf("observe: the router does not ask for it: %w", sdk.ErrUnsupported)
	}
	if err := wire.CheckObservation(o, math.MaxInt32); err != nil {
		return err
	}
	return wire.FromContext(to.Observe(ctx, o))
}

// Route implements router.Router.
func (l InProcessRouter) Route(ctx context.Context, b router.Batch, routes router.Routes) error {
	if err := wire.CheckBatch(b, routes); err != nil {
		return fmt.Errorf("route: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return wire.FromContext(err)
	}
	if err := l.Router.Route(ctx, b, routes); err != nil {
		return wire.FromContext(err)
	}
	return wire.JudgeRoutes(routes, b.Logits.Cols)
}

var (
	_ expert.Expert       = InProcessExpert{}
	_ expert.Starter      = InProcessExpert{}
	_ router.HiddenRouter = InProcessRouter{}
	_ router.Observer     = InProcessRouter{}
)
