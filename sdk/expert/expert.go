// Package expert is the contract of an expert plugin: a program that holds the weights of some units, (layer, expert)
// pairs of a Mixture-of-Experts model, and computes their feed-forward blocks for the rows routed to them.
//
// A plugin author implements Expert and calls serve.Expert from main; the host sees the same interface through
// sdk/client, and callers cannot tell whether it is in their process, in another one or on another machine.
//
// Life of an Expert: Info may be called at any time; Load once; Forward any number of times, from several goroutines
// at once; Close once, also after a failed Load. An expert is a pure function of (weights, input row): the bits of
// Y's row i must depend on X's row i and on the unit alone, not on other rows, on Threads or on earlier calls.
//
// Optional interfaces, found by assertion:
//   - Starter: begins a call without waiting for it. Implemented by the host's remote values.
//   - Sharing: is told of the memory in which calls come and answers go, such as one whose device copies from it by itself.
//   - Reporting: tells of the devices that compute for it.
//   - Backward is reserved for training.
//
// The package refuses to know where weights come from (a Weight has the bytes) and how values travel.
package expert

import (
	"context"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Expert computes the feed-forward blocks of its units.
type Expert interface {
	// Info describes the plugin; NumericClass is meaningful once Load has succeeded.
	Info() sdk.Info
	// Load takes the units' weights. The views stay valid and unchanged until Close returns. A wrong shape, dtype or
	// activation is sdk.ErrInvalid or sdk.ErrUnsupported and names the unit and the tensor.
	Load(ctx context.Context, spec Spec) error
	// Forward fills call.Y. It may be called concurrently. It does not keep X or Y after it returned.
	Forward(ctx context.Context, call *Call) error
	// Close releases everything. It is called once, after the last Forward returned.
	Close() error
}

// Starter begins a call and returns before it is done, so that all calls of a layer are sent before any reply is read.
type Starter interface {
	Start(ctx context.Context, call *Call) Pending
}

// Pending is a call under way. Wait blocks until call.Y is filled or the call failed; it is called exactly once.
// After it returned, nobody touches X or Y.
type Pending interface {
	Wait() error
}

// Sharing is an expert that is told of the memory in which calls come, which it may only read, and in which answers go. X and Y of
// a call may lie elsewhere. Share comes before Load; release is called after the last Forward, before Close and before the memory
// goes.
type Sharing interface {
	Share(calls, answers []byte) (release func() error)
}

// Reporting is an expert that tells of its devices, at any time and without waiting for a call.
type Reporting interface {
	Devices() []Device
}

// Unit is one expert of one layer: the smallest thing that can be placed.
type Unit struct {
	Layer  int // index of the transformer layer
	Expert int // 0..E-1
}

// Spec is all that an expert needs to know to compute.
type Spec struct {
	Hidden       int               // width of X and Y
	Intermediate int               // inner width of the feed-forward block
	Activation   string            // "silu" (SwiGLU: down(silu(gate x) * up x)), "gelu_tanh"
	NumericClass string            // the class the host asks for, such as "bf16w-f32"; empty or "auto" = by the weights' dtype
	Units        []UnitWeights     // what this process serves
	Params       map[string]string // from the operator's configuration, for the plugin alone
}

// UnitWeights are one unit's matrices, row-major [out, in]: Gate and Up are [Intermediate, Hidden], Down is
// [Hidden, Intermediate].
type UnitWeights struct {
	Unit
	Gate, Up, Down tensor.View
}

// Segment says that the next Rows rows of a call belong to one expert.
type Segment struct {
	Expert int
	Rows   int
}

// Call is one layer's work for one process. X and Y are [sum of Segments.Rows, Hidden]; row i of Y is the unweighted
// output of the segment's expert for row i of X. Experts ascend, and no segment is empty.
type Call struct {
	Layer    int
	Threads  int // how many threads the host's plan leaves to this call, at least 1; never changes the bits
	Lane     int // which of the process's cores the host's plan means the call for, from 1; 0 = any. A hint for whoever carries it
	Segments []Segment
	X, Y     tensor.Matrix
	Edition  uint64  // the host's own: which state of its groups is meant; 0 = the current one. It never crosses a process boundary
	From     []int32 // the host's own: its rows are not gathered yet, row i is row From[i] of X. nil in every call that comes from another process
}
