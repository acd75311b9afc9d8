// Package router is the contract of a router plugin: a strategy that turns gate logits into expert ids and combine
// weights, once per Mixture-of-Experts layer and batch.
//
// A plugin author implements Router and calls serve.Router from main; the host sees the same interface through
// sdk/client. Life: Info at any time; Configure once; Route any number of times, from several goroutines; Close once,
// also after a failed Configure.
//
// A router is row-independent unless its Info declares sdk.CapLoadDependent: the ids and weights of row i may depend
// on row i's logits, token, position and on the configuration alone, so that batching never changes an answer. Equal
// scores go to the lower expert id.
//
// Optional interfaces, found by assertion:
//   - HiddenRouter: wants the hidden states too. They are sent only to a router that asks.
//   - Observer: is told how its routes have turned out. It is measured only for a router that asks, and its routes depend
//     on what it is told, so it declares sdk.CapLoadDependent.
//
// The package refuses to know where logits come from and what is done with the routes.
package router

import (
	"context"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Router chooses experts.
type Router interface {
	Info() sdk.Info
	// Configure tells the shape of the model, the checkpoint's own rule and the operator's parameters.
	Configure(ctx context.Context, spec Spec) error
	// Route fills routes for every row of the batch. It may be called concurrently and keeps neither argument.
	Route(ctx context.Context, batch Batch, routes Routes) error
	Close() error
}

// HiddenRouter is a Router that wants Batch.Hidden.
type HiddenRouter interface {
	Router
	WantsHidden() bool
}

// Observer is a Router that learns from how its routes have turned out.
type Observer interface {
	Router
	Observes() bool
	// Observe tells what has happened since the last Observe, some times a second while there is work. Calls don't
	// overlap, but Route may run at the same time. It keeps nothing of o. An error is counted and changes nothing else.
	Observe(ctx context.Context, o Observation) error
}

// Observation is what the host has measured in a time of some hundred milliseconds, over all requests.
type Observation struct {
	Loads   []Load        // of the units that had rows, by layer and expert ascending
	Waiting time.Duration // the longest that a request had waited for its first step; 0 = none waited
	Tokens  int           // tokens that were chosen, or given, and scored; 0 = nothing is known of quality
	LogProb float64       // mean natural logarithm of the probability that the model gave to these tokens
}

// Load is what one expert of one layer had to do.
type Load struct {
	Layer, Expert int
	Rows          int
	// Busy is the time of the expert's calls as the host saw it, from sending to reading the answer. A call that was for
	// several experts is shared out by their rows.
	Busy time.Duration
}

// Score says how a checkpoint turns gate logits into scores and in which order it picks.
type Score string

// The rules of the supported checkpoints. Softmax and selection are computed in float32.
const (
	// SoftmaxTopK: softmax over all experts, the k largest are kept (mixtral, qwen2_moe, qwen3_moe, olmoe).
	SoftmaxTopK Score = "softmax_topk"
	// TopKSoftmax: the k largest logits are kept, softmax over these k (granitemoe, gpt_oss).
	TopKSoftmax Score = "topk_softmax"
)

// Rule is the checkpoint's own routing rule.
type Rule struct {
	Score       Score
	Renormalise bool    // divide the kept weights by their sum (norm_topk_prob)
	Scale       float32 // factor of every weight (routed_scaling_factor); 0 means 1
}

// Spec is what a router may know of the model.
type Spec struct {
	Layers  []int             // indices of the layers that have experts, ascending
	Experts int               // E
	TopK    int               // k, at most E
	Rule    Rule              // what the checkpoint was trained with
	Params  map[string]string // from the operator's configuration, such as seed
}

// Batch is one layer's input: one row per token. Tokens and Positions have one entry a row.
type Batch struct {
	Layer     int
	Logits    tensor.Matrix // [rows, experts], raw gate output
	Tokens    []int32       // token id of each row; -1 where a row is no token (raw hidden states)
	Positions []int32       // position of each row in its sequence
	Hidden    tensor.Matrix // [rows, hidden] for a HiddenRouter, else empty
	Edition   uint64        // the host's own: which state of its processes is meant; 0 = the current one. It never crosses a process boundary
}

// Routes is filled by a router: for row r, the K distinct experts IDs[r*K:(r+1)*K] and their weights. The caller owns
// both slices, with rows x K entries.
type Routes struct {
	K       int
	IDs     []int32
	Weights []float32
}
