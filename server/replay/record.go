package replay

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Format is the name of the format, with its version.
const Format = "pimoe-replay/1"

// Record is one request with all its continuations.
type Record struct {
	Format    string    `json:"format"`
	Model     string    `json:"model"`
	Digest    string    `json:"model_digest"`
	Class     string    `json:"numeric_class"` // the numeric classes of the expert groups, comma separated
	Router    string    `json:"router"`
	Routing   string    `json:"routing,omitempty"` // "load-dependent" where the same request need not give the same tokens again
	Truncated bool      `json:"truncated,omitempty"`
	Processes []Process `json:"processes"` // that have computed experts, in the order in which they came up
	Runs      []Run     `json:"runs"`
	// Checksum is over all other values, however they are written. It finds changes by mistake; it is no signature.
	Checksum string `json:"checksum"`
}

// Process is what has computed experts: a plugin's process, or the host itself.
type Process struct {
	Group   string `json:"group"`
	Replica int    `json:"replica"`
	PID     int    `json:"pid"`
	Backend string `json:"backend"`
	Class   string `json:"numeric_class"`
	Program string `json:"program"` // "sha256:..." of what it executes; empty in the host itself
	Version string `json:"version"`
}

// Run is one continuation of one prompt.
type Run struct {
	Index     int      `json:"index"`
	Prompt    []int32  `json:"prompt"`
	Sampling  Sampling `json:"sampling"`
	MaxTokens int      `json:"max_tokens"`
	Stop      []string `json:"stop,omitempty"`
	IgnoreEOS bool     `json:"ignore_eos,omitempty"`
	Form      *Form    `json:"form,omitempty"`
	Tokens    []Token  `json:"tokens"`
	Finish    string   `json:"finish_reason"`
	// PromptTokens are the prompt's positions, where they were asked for.
	PromptTokens []Token `json:"prompt_tokens,omitempty"`
}

// Sampling are the parameters of the sampler, as it got them.
type Sampling struct {
	Temperature       float32           `json:"temperature"`
	TopK              int               `json:"top_k"`
	TopP              float32           `json:"top_p"`
	MinP              float32           `json:"min_p"`
	RepetitionPenalty float32           `json:"repetition_penalty"`
	FrequencyPenalty  float32           `json:"frequency_penalty"`
	PresencePenalty   float32           `json:"presence_penalty"`
	LogitBias         map[int32]float32 `json:"logit_bias,omitempty"`
	// Seed is a decimal number as a text: many readers of JSON hold no integer of 64 bits. nil = the draw can't be had again.
	Seed *uint64 `json:"seed,string"`
}

// Form is the form that the tokens were held to.
type Form struct {
	Kind   string          `json:"kind"` // json_object, json_schema, regex, grammar; or tools, which can't be run again by ids
	Text   string          `json:"text,omitempty"`
	Schema json.RawMessage `json:"schema,omitempty"`
}

// Tools is the kind of a form that comes of the calls of tools.
const Tools = "tools"

// Token is one position: what was chosen there, or given, and how it was computed. The layers are those of the position
// before it, whose output chose it; for a token of the prompt they are its own.
type Token struct {
	Position int           `json:"position"`
	ID       int32         `json:"id"`
	Logprob  float32       `json:"logprob"` // under the model's distribution; -9999 stands for minus infinity
	Top      []Alternative `json:"top,omitempty"`
	Queue    int64         `json:"queue_us"` // before the step that computed it
	Step     int64         `json:"step_us"`
	Quality  *Quality      `json:"quality,omitempty"` // nil = exact; of all that the token depends on
	Layers   []Layer       `json:"layers,omitempty"`
}

// Alternative is one of the most probable tokens at a place.
type Alternative struct {
	ID      int32   `json:"id"`
	Logprob float32 `json:"logprob"`
}

// Quality says what a token's experts have lost.
type Quality struct {
	Status  string  `json:"status"`
	Policy  string  `json:"policy"`
	Layers  int     `json:"layers"`
	Dropped float64 `json:"max_dropped_mass"`
}

// Layer is a position's way through one layer. The times are those of the batch that the position was in.
type Layer struct {
	Layer   int      `json:"layer"`
	Route   int64    `json:"route_us"`
	Combine int64    `json:"combine_us"`
	Experts []Expert `json:"experts"`
}

// Expert is one expert that was chosen for a position.
type Expert struct {
	Expert   int     `json:"expert"`
	Weight   float32 `json:"weight"`
	Process  int     `json:"process"` // which of the Processes; -1 = none has computed it
	Call     int64   `json:"call_us"`
	Attempts int     `json:"attempts,omitempty"` // where the call was sent more than once
	Instead  *int    `json:"instead,omitempty"`  // the expert that was computed in its place
}

// Seal sets the checksum.
func (r *Record) Seal() error {
	r.Format = Format
	sum, err := r.sum()
	r.Checksum = sum
	return err
}

// sum is the checksum that belongs to the other values. It is made of the values and not of the file, so that whoever
// formats a file anew does not break it.
func (r *Record) sum() (string, error) {
	c := *r
	c.Checksum = ""
	b, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode record: %w", err)
	}
	h := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(h[:]), nil
}

// WithoutLayers is the record without the ways of the continuations' tokens through the model, which a replay does not
// need. It is not sealed.
func (r *Record) WithoutLayers() *Record {
	c := *r
	c.Runs = make([]Run, len(r.Runs))
	for i, run := range r.Runs {
		run.Tokens = append([]Token{}, run.Tokens...)
		for j := range run.Tokens {
			run.Tokens[j].Layers = nil
		}
		c.Runs[i] = run
	}
	return &c
}
