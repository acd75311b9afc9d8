package engine

import (
	"context"
	"time"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/core/spans"
)

// Request asks for one continuation of a prompt. A client's `n` is n Requests with the same prompt; prefix reuse makes
// the repeats cheap.
type Request struct {
	ID        string // request id, for logs; the edge makes it
	Tenant    string // salt of the prefix cache; requests of different tenants never share pages, and wait in lines of their own
	Priority  Priority
	Prompt    []int32
	MaxTokens int // most new tokens; 0 = up to the context limit; PromptOnly = none
	Sampling  sampler.Params
	Stop      []string // stop strings: the text ends before the first of them
	IgnoreEOS bool     // end-of-text tokens are ordinary tokens
	Logprobs  int      // -1 = none, else the number of alternatives in each Token's Logprobs
	Deadline  time.Time
	NoReuse   bool // neither reads nor feeds the prefix cache
	// Accept is what the request takes where an expert is missing and the block's policy would do without it. The zero
	// value takes the exact answer alone.
	Accept moe.Accept

	// Observe, if not nil, sees every row the model computes for this request, in order. It is called from the decode
	// loop and must not block or keep its arguments. It implies NoReuse unless it sees no position before the prompt's last,
	// so that every position that it wants is seen.
	Observe *Observer
	// Trace, if not nil, follows the request's steps. It changes nothing of what is computed.
	Trace spans.Request
	// Form, if not nil, holds the continuation to a form: it is complete within MaxTokens. A request with a Form has
	// neither IgnoreEOS nor Forced tokens. Its log-probabilities are those of the model, without the form.
	Form Form
	// Forced, if not nil, replaces sampling by given tokens (drafts, tools): token i of the continuation is Forced[i].
	Forced []int32
}

// Form says which tokens may come next in one continuation; grammar.Matcher is one. Only the request that it was made for
// uses it, and only one goroutine at a time.
type Form interface {
	// Mask has one bit for each token that may come next when left tokens may come in all, this one included; tokens
	// that end the text are not counted and are among those of the mask where the text may end. It is valid until the
	// next call and not changed.
	Mask(left int) []uint64
	// Accept adds a token that the mask has allowed.
	Accept(id int32) bool
	// Complete reports whether the text may end here, and Done whether it must.
	Complete() bool
	Done() bool
}

// PromptOnly as MaxTokens computes the prompt, for Observe, and ends with FinishLength without a token.
const PromptOnly = -1

// Observer receives intermediate values.
type Observer struct {
	// Logits of a position, after logit scaling, before any sampling. nil = not wanted.
	Logits func(position int, logits []float32)
	// Route of a position in a layer. nil = not wanted.
	Route func(layer, position int, ids []int32, weights []float32)
	// Hop is the way of a position through a layer: who computed it, and how long that took. nil = not wanted.
	Hop func(position int, h *moe.Hop)
	// Step is the step of a position that was the request's last one in it, before what it has chosen is given to the
	// reader: how long the request has waited for the step since its last token or, before the first, from its submission
	// to its first step; and how long the step took. nil = not wanted.
	Step func(position int, queue, took time.Duration)
	// State of a position, as the head gets it. nil = not wanted.
	State func(position int, state []float32)
	// From is the first position that is seen. Beyond 0 it does not go with Logits.
	From int
}

// FinishReason says why a continuation ended, in OpenAI's words where those exist.
type FinishReason string

// The reasons.
const (
	FinishStop   FinishReason = "stop"   // end-of-text token or stop string
	FinishLength FinishReason = "length" // MaxTokens or the context limit
)

// Token is one step of a continuation. Text is what can be shown so far: it may be empty while a character or a
// possible stop string is incomplete, and the pieces concatenate to the whole text.
type Token struct {
	ID       int32
	Text     string
	Logprob  float32      // log-probability of ID under the unmodified distribution; 0 unless Logprobs >= 0
	Top      []TopLogprob // the most probable tokens, best first, if asked
	Finish   FinishReason // empty until the last Token
	HasToken bool         // false for a closing event that only carries Text or Finish (end-of-text tokens are not counted as text)
	Quality  Quality      // of all that this token depends on: prompt, the tokens before it and itself
}

// TopLogprob is one alternative.
type TopLogprob struct {
	ID      int32
	Logprob float32
}

// Usage is what a request has cost.
type Usage struct {
	PromptTokens     int
	CachedTokens     int // prompt tokens whose keys and values were reused
	CompletionTokens int
	Queued           time.Duration // submit to first scheduling
	FirstToken       time.Duration // submit to first token
	Quality          Quality       // of the whole answer
	Version          string        // of all that computes the experts of the request's edition; empty = nobody says
	Programs         string        // that compute the experts of the request's edition, as their owner names them; empty = nobody says
}

// Stream is the consumer's end of a request. One goroutine reads it.
type Stream interface {
	// Next blocks for the next Token. After the Token with Finish set it returns io.EOF. An error of the request
	// (sdk.ErrDeadline, sdk.ErrUnavailable, ...) ends the stream. A done ctx cancels the request.
	Next(ctx context.Context) (Token, error)
	// Usage is final after Next has returned an error or io.EOF.
	Usage() Usage
	// Close cancels the request if it still runs and frees its slot. It is safe to call it more than once.
	Close()
}

// flow is the line in which a request waits.
func (r *Request) flow() flowKey { return flowKey{r.Tenant, min(max(r.Priority, Low), High)} }
