package openai

import (
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/server/strictjson"
)

// fields says for each field of a body how it is read. A setter never sees null.
type fields map[string]setter

type setter func(*Request, strictjson.Value) error

// MaxChoices bounds n: OpenAI's own limit.
const MaxChoices = 128

// maxStops, maxLogprobs and maxTopLogprobs are OpenAI's limits.
const (
	maxStops       = 4
	maxLogprobs    = 5  // /v1/completions
	maxTopLogprobs = 20 // /v1/chat/completions
)

var common = fields{
	"model": func(r *Request, v strictjson.Value) (err error) { r.Model, err = v.Text(); return },
	"n": func(r *Request, v strictjson.Value) error {
		n, err := v.Int(1, MaxChoices)
		r.N = int(n)
		return err
	},
	"stream":         flag(func(r *Request) *bool { return &r.Stream }),
	"stream_options": streamOptions,
	"stop":           stops,

	"temperature":        float(func(s *Sampling) **float32 { return &s.Temperature }, 0, 2),
	"top_p":              float(func(s *Sampling) **float32 { return &s.TopP }, 0, 1),
	"min_p":              float(func(s *Sampling) **float32 { return &s.MinP }, 0, 1),
	"repetition_penalty": float(func(s *Sampling) **float32 { return &s.RepetitionPenalty }, 0.01, 100), // CTRL's factor; 0 would divide by nothing
	"top_k": func(r *Request, v strictjson.Value) error {
		k, err := v.Int(-1, math.MaxInt32)
		n := int(k)
		r.Sampling.TopK = &n
		return err
	},
	"frequency_penalty": penalty(func(s *Sampling) *float32 { return &s.FrequencyPenalty }),
	"presence_penalty":  penalty(func(s *Sampling) *float32 { return &s.PresencePenalty }),
	"seed": func(r *Request, v strictjson.Value) error {
		n, err := v.Int(math.MinInt64, math.MaxInt64)
		r.Sampling.Seed = &n
		return err
	},
	"logit_bias":      logitBias,
	"response_format": responseFormat,
	"ignore_eos":      flag(func(r *Request) *bool { return &r.IgnoreEOS }),
	"pimoe":           extension,

	// These identify somebody or something and promise nothing about the answer, so every text is honoured.
	"user": text,
}

var completionFields = merged(common, fields{
	"prompt": prompts,
	"max_tokens": func(r *Request, v strictjson.Value) error {
		n, err := v.Int(0, math.MaxInt32)
		r.MaxTokens = int(n)
		return err
	},
	"logprobs": func(r *Request, v strictjson.Value) error {
		n, err := v.Int(0, maxLogprobs)
		r.Logprobs = int(n)
		return err
	},
	"echo": flag(func(r *Request) *bool { return &r.Echo }),
	"best_of": func(r *Request, v strictjson.Value) error {
		n, err := v.Int(1, MaxChoices)
		r.bestOf = int(n)
		return err
	},
	"suffix": neutral(`""`),
})

var chatFields = merged(common, fields{
	"messages":              messages,
	"max_tokens":            chatMaxTokens,
	"max_completion_tokens": chatMaxTokens,
	"logprobs":              flag(func(r *Request) *bool { return &r.wantLogprobs }),
	"top_logprobs": func(r *Request, v strictjson.Value) error {
		n, err := v.Int(0, maxTopLogprobs)
		r.topLogprobs = int(n)
		return err
	},
	"chat_template_kwargs": func(r *Request, v strictjson.Value) error {
		_, err := v.Object()
		r.Kwargs = bytes.Clone(v.Raw())
		return err
	},

	"prompt_cache_key":  text,
	"safety_identifier": text,

	"audio":         neutral(),
	"function_call": neutral(`"none"`, `"auto"`),
	"functions":     neutral(`[]`),
	"metadata":      neutral(`{}`),
	"modalities":    neutral(`["text"]`),
	"moderation":    neutral(),
	"parallel_tool_calls": func(r *Request, v strictjson.Value) error {
		b, err := v.Bool()
		r.OneCall = !b
		return err
	},
	"prediction":             neutral(),
	"prompt_cache_options":   neutral(`{}`, `{"mode":"implicit"}`),
	"prompt_cache_retention": neutral(`"in_memory"`, `"in-memory"`),
	"reasoning_effort":       neutral(),
	"service_tier":           neutral(`"auto"`, `"default"`),
	"store":                  neutral(`false`),
	"tool_choice":            toolChoice,
	"tools":                  tools,
	"verbosity":              neutral(`"medium"`),
	"web_search_options":     neutral(),
})

func merged(tables ...fields) fields {
	out := fields{}
	for _, t := range tables {
		maps.Copy(out, t)
	}
	return out
}

// neutral takes null and the values that are honoured by doing nothing.
func neutral(values ...string) setter {
	expected := strings.Join(append([]string{"null"}, values...), " or ") + ": it has no other effect here"
	return func(_ *Request, v strictjson.Value) error {
		var compact bytes.Buffer
		if err := json.Compact(&compact, v.Raw()); err != nil {
			return err
		}
		for _, want := range values {
			if compact.String() == want {
				return nil
			}
		}
		return v.Unsupported(expected)
	}
}

// text takes any string.
func text(_ *Request, v strictjson.Value) error {
	_, err := v.Text()
	return err
}

func flag(field func(*Request) *bool) setter {
	return func(r *Request, v strictjson.Value) (err error) {
		*field(r), err = v.Bool()
		return err
	}
}

func float(field func(*Sampling) **float32, low, high float64) setter {
	return func(r *Request, v strictjson.Value) error {
		f, err := v.Float(low, high)
		f32 := float32(f)
		*field(&r.Sampling) = &f32
		return err
	}
}

func penalty(field func(*Sampling) *float32) setter {
	return func(r *Request, v strictjson.Value) error {
		f, err := v.Float(-2, 2)
		*field(&r.Sampling) = float32(f)
		return err
	}
}

func chatMaxTokens(r *Request, v strictjson.Value) error {
	n, err := v.Int(1, math.MaxInt32)
	if err == nil && r.MaxTokens >= 0 && r.MaxTokens != int(n) {
		return v.Errorf("the same number in max_tokens and max_completion_tokens")
	}
	r.MaxTokens = int(n)
	return err
}

func streamOptions(r *Request, v strictjson.Value) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	r.streamOptions = true
	for _, m := range members {
		if m.Null() {
			continue
		}
		switch m.Name {
		case "include_usage":
			r.IncludeUsage, err = m.Bool()
		case "include_obfuscation":
			err = neutral(`false`)(r, m.Value)
		default:
			err = m.Unknown()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func stops(r *Request, v strictjson.Value) error {
	list := []strictjson.Value{v}
	if v.IsArray() {
		list, _ = v.Array()
	} else if !v.IsString() {
		return v.Errorf("a string or an array of strings")
	}
	if len(list) > maxStops {
		return v.Errorf("at most %d strings", maxStops)
	}
	for _, e := range list {
		s, err := e.Text()
		if err != nil {
			return err
		}
		if s == "" {
			return e.Errorf("a string that is not empty")
		}
		r.Stop = append(r.Stop, s)
	}
	return nil
}

func logitBias(r *Request, v strictjson.Value) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	r.Sampling.LogitBias = make(map[int32]float32, len(members))
	for _, m := range members {
		id, err := strconv.ParseUint(m.Name, 10, 31)
		if err != nil {
			return &strictjson.Error{Path: m.Path(), Expected: "a token id as the name", Got: "another text"}
		}
		f, err := m.Float(-100, 100)
		if err != nil {
			return err
		}
		r.Sampling.LogitBias[int32(id)] = float32(f)
	}
	return nil
}
