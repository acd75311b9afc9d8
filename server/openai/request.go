package openai

import (
	"encoding/json"

	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/server/strictjson"
)

// Request is a request of either generation route.
type Request struct {
	Model    string
	Prompts  []Prompt        // /v1/completions: at least one
	Messages json.RawMessage // /v1/chat/completions: [{role, content, ...}] with every content a string
	Kwargs   json.RawMessage // chat_template_kwargs, an object, or nil
	Sampling Sampling
	Format   *Format // nil = any text

	Tools      []Tool
	ToolsJSON  json.RawMessage // as the client wrote them, for templates; nil = none
	ToolChoice ToolChoice
	OneCall    bool // parallel_tool_calls is false

	MaxTokens     int // most new tokens; -1 = not given
	N             int // choices for each prompt
	Best          int // of the N choices, how many of the most probable are the answer; 0 = all
	Stop          []string
	IgnoreEOS     bool
	Logprobs      int // alternatives for each token; -1 = no logprobs
	Echo          bool
	Trace         Trace
	Stream        bool
	IncludeUsage  bool // the stream ends with an event that has the usage
	streamOptions bool
	topLogprobs   int
	bestOf        int
	wantLogprobs  bool
}

// Prompt is one prompt of /v1/completions: a text, or token ids if IDs is not nil.
type Prompt struct {
	Text string
	IDs  []int32
}

// Sampling holds what the client said; nil means the model's default.
type Sampling struct {
	Temperature, TopP, MinP, RepetitionPenalty *float32
	TopK                                       *int
	FrequencyPenalty, PresencePenalty          float32
	Seed                                       *int64
	LogitBias                                  map[int32]float32
}

// Params lays the client's wishes over the model's defaults. Choice numbers the choices of a request: each has its own
// random numbers, and choice 0 the same as a request for one choice.
func (s Sampling) Params(defaults sampler.Params, choice int) sampler.Params {
	p := defaults
	set := func(to *float32, from *float32) {
		if from != nil {
			*to = *from
		}
	}
	set(&p.Temperature, s.Temperature)
	set(&p.TopP, s.TopP)
	set(&p.MinP, s.MinP)
	set(&p.RepetitionPenalty, s.RepetitionPenalty)
	if s.TopP != nil && *s.TopP == 0 {
		p.TopP = leastTopP // OpenAI: the smallest nucleus, one token; for the sampler 0 means all
	}
	if s.TopK != nil {
		p.TopK = max(*s.TopK, 0)
	}
	p.FrequencyPenalty, p.PresencePenalty = s.FrequencyPenalty, s.PresencePenalty
	p.LogitBias = s.LogitBias
	if s.Seed != nil {
		p.Seeded, p.Seed = true, uint64(*s.Seed)
		if choice > 0 {
			p.Seed = mix(p.Seed + uint64(choice)*golden)
		}
	}
	return p
}

// leastTopP is below the probability of the best token of any vocabulary, so that only this token is kept.
const leastTopP = 1e-9

// golden and mix are SplitMix64 (Steele, Lea and Flood 2014): neighbouring seeds give unrelated draws.
const golden = 0x9e3779b97f4a7c15

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// DecodeCompletion reads a body of /v1/completions. Errors are *strictjson.Error.
func DecodeCompletion(body []byte) (*Request, error) {
	r, err := decodeBody(body, completionFields, "model", "prompt")
	if err != nil {
		return nil, err
	}
	return r, r.checkBestOf()
}

// checkBestOf has more choices made than are asked for. A client that says 1, OpenAI's default, beside a larger n means n.
func (r *Request) checkBestOf() error {
	if r.bestOf <= 1 || r.bestOf == r.N {
		return nil
	}
	expected := ""
	switch {
	case r.bestOf < r.N:
		expected = "at least n"
	case r.Stream:
		expected = "n with stream: which are the best is known at the end"
	case r.Trace.Tokens:
		expected = "n with pimoe.trace"
	default:
		r.Best, r.N = r.N, r.bestOf
		return nil
	}
	return &strictjson.Error{Path: "best_of", Expected: expected, Got: "another number"}
}

// DecodeChat reads a body of /v1/chat/completions. Errors are *strictjson.Error.
func DecodeChat(body []byte) (*Request, error) {
	r, err := decodeBody(body, chatFields, "model", "messages")
	if err != nil {
		return nil, err
	}
	if err := r.checkTools(); err != nil {
		return nil, err
	}
	if m := r.ToolChoice.Mode; r.IgnoreEOS && (m == ToolsRequired || m == ToolNamed) {
		return nil, &strictjson.Error{Path: "ignore_eos", Expected: "false where calls are enforced, whose answers have an end", Got: "true"}
	}
	switch {
	case r.wantLogprobs:
		r.Logprobs = max(r.topLogprobs, 0)
	case r.topLogprobs > 0:
		return nil, &strictjson.Error{Path: "top_logprobs", Expected: "logprobs to be true with it", Got: "logprobs false"}
	}
	return r, nil
}

// native are the fields that a generation on the native API has in common with chat.
var native = []string{
	"messages", "chat_template_kwargs", "max_tokens", "stop", "ignore_eos", "seed", "temperature", "top_p", "top_k", "min_p",
	"repetition_penalty", "frequency_penalty", "presence_penalty",
}

// DecodeNative reads a body of the native API: messages and sampling settings as in a chat, and the caller's own
// fields, which are read by own. Errors are *strictjson.Error.
func DecodeNative(body []byte, own map[string]func(strictjson.Value) error) (*Request, error) {
	table := fields{}
	for _, name := range native {
		table[name] = chatFields[name]
	}
	for name, read := range own {
		table[name] = func(_ *Request, v strictjson.Value) error { return read(v) }
	}
	return decodeBody(body, table)
}

// decodeBody reads an object by a table of fields. null means absent for every field that is not required.
func decodeBody(body []byte, table fields, required ...string) (*Request, error) {
	members, err := strictjson.ParseObject(body)
	if err != nil {
		return nil, err
	}
	r := &Request{MaxTokens: -1, N: 1, Logprobs: -1, topLogprobs: -1}
	given := map[string]bool{}
	for _, m := range members {
		set, ok := table[m.Name]
		switch {
		case !ok:
			return nil, m.Unknown()
		case m.Null():
			continue
		}
		given[m.Name] = true
		if err := set(r, m.Value); err != nil {
			return nil, err
		}
	}
	for _, name := range required {
		if !given[name] {
			return nil, strictjson.Missing(name, "a value")
		}
	}
	if r.Format != nil && r.IgnoreEOS {
		return nil, &strictjson.Error{Path: "ignore_eos", Expected: "false with response_format, whose answers have an end", Got: "true"}
	}
	if r.streamOptions && !r.Stream {
		return nil, &strictjson.Error{Path: "stream_options", Expected: "stream to be true with it", Got: "stream false"}
	}
	return r, r.checkTrace()
}
