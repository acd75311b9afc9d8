// Package spans is the seam by which a request is followed on its way through the engine: the steps that it is part of,
// their layers, and the calls on processes, each attempt for itself, with what the process says of its own time.
//
// core/engine, core/moe and core/host tell; server/tracing listens and makes spans of it. Hardly any request is followed,
// and what is not followed costs one look into a context for each layer and each call: nothing is allocated, and no clock
// is read. The package refuses to know about OpenTelemetry, to keep what it is told and to see what a request says.
package spans

import (
	"context"
	"time"
)

// Request follows one request of the engine. The decode loop calls it; it must not block.
type Request interface {
	// Step is asked when a step with a part of the request begins; nil = this one is not followed. leader is the Step of
	// another request in the same step that has its layers; without one, a Step that is returned gets them. A part that is
	// computed again, after an outage, is asked for again.
	Step(p Part, leader Step) Step
}

// Part is a request's part of a step.
type Part struct {
	Position  int  // of its first token
	Tokens    int  // that are computed
	Prompt    bool // the last of them is no token that the request has chosen
	Sequences int  // in the whole step
	Rows      int  // in the whole step
}

// Step follows one step. Its layers come one after the other.
type Step interface {
	Layer(layer, rows int) Layer
	// End comes last, when nothing of the step is under way.
	End(err error)
}

// Layer follows one sparse layer. Calls may overlap.
type Layer interface {
	Call(c Call) Span
	End(err error)
}

// Span follows one call on one process.
type Span interface {
	// ID goes to the process with the call: a trace and a span in it, as in W3C Trace Context.
	ID() (trace [16]byte, span [8]byte)
	End(o Outcome)
}

// Call is one attempt of a call.
type Call struct {
	Router  bool // of the router's plugin; else of an expert group's process
	Group   string
	Replica int
	PID     int // 0 = unknown
	Backend string
	Class   string // the numeric class
	Version string // of the plugin, as it says
	Attempt int    // from 1
	Hedge   bool   // beside another attempt that takes long
	Rows    int
	Units   int // experts that are asked
}

// Outcome is how an attempt ended.
type Outcome struct {
	Err     error
	Dropped bool // another attempt was quicker, and its answer counts
	// Began and Took are when the process computed, as it says; a zero Began = it does not say.
	Began time.Time
	Took  time.Duration
}

type (
	stepKey  struct{}
	layerKey struct{}
)

// WithStep makes layers of a context's calls known to s.
func WithStep(ctx context.Context, s Step) context.Context {
	return context.WithValue(ctx, stepKey{}, s)
}

// StepOf is who follows the step that ctx belongs to; nil = nobody.
func StepOf(ctx context.Context) Step {
	s, _ := ctx.Value(stepKey{}).(Step)
	return s
}

// WithLayer makes a context's calls known to l.
func WithLayer(ctx context.Context, l Layer) context.Context {
	return context.WithValue(ctx, layerKey{}, l)
}

// LayerOf is who follows the layer that ctx belongs to; nil = nobody.
func LayerOf(ctx context.Context) Layer {
	l, _ := ctx.Value(layerKey{}).(Layer)
	return l
}
