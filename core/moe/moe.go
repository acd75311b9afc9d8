// Package moe is one Mixture-of-Experts layer as the host runs it: route, dispatch, experts, combine, in this order.
// Route asks the router for expert ids and weights; dispatch deals the routed rows to cores, at most one call for each lane
// of an expert group's process, and sends all calls before any reply is read; combine adds the weighted rows in expert-id order.
// The many rows of a prompt are dealt in smaller calls, to whichever core has time (see Layer.deals).
//
// Where a group can't answer, the Policy of that group says what becomes of the rows that it has got, each row for itself.
//
// core/model calls a Block once per sparse layer; core/host supplies the Groups. Planning is a pure function of
// values. The package refuses to know about processes, retries or weights.
package moe

import (
	"context"

	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Block runs the routed experts of a layer.
type Block interface {
	// Forward fills y, [rows, hidden], with the combined output of the routed experts for in. y is overwritten.
	Forward(ctx context.Context, in Input, y tensor.Matrix) error
}

// Input is one layer's input: one row per token. Tokens and Positions have one entry a row.
type Input struct {
	Layer     int
	X         tensor.Matrix // [rows, hidden], normalised hidden states; unchanged until Forward returns
	Logits    tensor.Matrix // [rows, experts], gate logits
	Tokens    []int32       // token id of each row; -1 where a row is no token
	Positions []int32
	Edition   uint64                                                  // of the experts that compute it (see Editions); 0 = whatever is current
	Meanwhile func()                                                  // called once, if not nil, when the calls are on their way and before their answers are read
	Observe   func(layer, row, k int, ids []int32, weights []float32) // called for each row after routing if not nil; the slices are only lent
	// Judge, if not nil, lets a Lenient block answer without an expert that is missing, and is told of it. Then no row waits
	// for a restart. nil = every row waits for its experts, as long as ctx lets it.
	Judge Judge
	// Trace, if not nil, is told of rows' ways through the layer.
	Trace Tracer
}

// Predicted is a router.Router whose answer can be known before it comes, because the host has the rule too. The experts
// then begin at once, and the router's own answer, which counts, is compared while they work.
type Predicted interface {
	router.Router
	// Begin asks the router without waiting; the Pending's Wait fills routes.
	Begin(ctx context.Context, batch router.Batch, routes router.Routes) expert.Pending
	// Predict fills routes with the answer that the router should give. False: it can't be known.
	Predict(ctx context.Context, batch router.Batch, routes router.Routes) bool
}

// Bound is a Group whose processes serve calls on some cores only.
type Bound interface {
	// Cores are the plan's cores, counted from 0, on which the group's calls can run: that of Call.Lane 1 first.
	Cores() []int
}

// Neighbour is a Group that knows on which of the plan's cores its caller runs just now. That core gets less to do, since the
// caller gathers rows on it and reads answers.
type Neighbour interface {
	// Here is -1 where that isn't known.
	Here() int
}

// Sleeper is a Pending whose process may be asleep after Start: Wake wakes it without waiting. All calls of a layer are sent
// before anybody is woken, because a thread that is woken may take the host's core; for the same reason the first Wake leaves
// out threads of that core, and a second one, with all, wakes the rest. Wait does it too.
type Sleeper interface {
	expert.Pending
	Wake(all bool)
}

// Editions numbers the states that the experts have had while they were changed under load. A request is computed by one
// edition from its first token to its last, so that no answer mixes two of them.
type Editions interface {
	// Enter is the edition for a new request, which uses it until Leave; 0 where there is only one, ever. Requests may share
	// keys and values if the texts about their editions are the same.
	Enter() (edition uint64, numerics string)
	Leave(edition uint64)
}

// Attributed is an Editions that knows which programs compute an edition while it is in use.
type Attributed interface {
	Programs(edition uint64) string
}

// Versioned is an Editions that tells apart all that shapes what an edition computes, while it is in use: equal versions
// give equal bits.
type Versioned interface {
	Version(edition uint64) string
}

// Group is a set of units that is called as one: an expert group's process, with whatever retries its owner makes.
type Group interface {
	// Start sends a call; the Pending's Wait fills call.Y.
	Start(ctx context.Context, call *expert.Call) expert.Pending
}

// Placement says which group serves each unit: Placement[layer][expert] is an index into the groups; a layer without
// experts has no entries.
type Placement map[int][]int

// Places are the Placements of the editions. One edition's never changes.
type Places interface {
	Of(edition uint64) Placement
}

// Of implements Places for what never changes.
func (p Placement) Of(uint64) Placement { return p }
