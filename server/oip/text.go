package oip

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/pimoe/pimoe/server/strictjson"
)

// The inputs of a text model, under the names that Triton's backends for language models use.
const (
	textInput    = "text_input"
	stopWords    = "stop_words"
	excludeInput = "exclude_input_in_output"
	streamInput  = "stream"
)

// The outputs of a text model. In a stream, text_output is the new part, and the counts are those so far.
const (
	TextOutput   = "text_output"
	FinishReason = "finish_reason" // empty in a stream but for its last answer
	InputTokens  = "num_input_tokens"
	OutputTokens = "num_output_tokens"
)

// maxStopWords is more than the API behind it takes; it bounds what is read.
const maxStopWords = 16

// renamed are the settings whose names differ from those of OpenAI's completions, which decide what they may be.
var renamed = map[string]string{textInput: "prompt", stopWords: "stop", "random_seed": "seed"}

// TextModel is a model that continues a text.
func TextModel(name, version string) Model {
	one := func(name string, t Type) Spec {
		return Spec{Name: name, Type: t, Shape: []int64{1}, Optional: name != textInput, Most: 1}
	}
	m := Model{Name: name, Version: version, Inputs: []Spec{
		one(textInput, Bytes), one("max_tokens", Int32), one("temperature", FP32), one("top_p", FP32), one("top_k", Int32), one("min_p", FP32),
		one("repetition_penalty", FP32), one("frequency_penalty", FP32), one("presence_penalty", FP32), one("seed", Int64), one("random_seed", Uint64),
		{Name: stopWords, Type: Bytes, Shape: []int64{-1}, Optional: true, Most: maxStopWords},
		one("ignore_eos", Bool), one(excludeInput, Bool), one(streamInput, Bool),
	}, Outputs: []Spec{one(TextOutput, Bytes), one(FinishReason, Bytes), one(InputTokens, Uint32), one(OutputTokens, Uint32)}}
	m.Params = m.Inputs[1:]
	return m
}

// Settings are what a text model was asked, by the names of its inputs: a string, []string, bool, int64, float32 or float64.
type Settings map[string]any

// Settings are the inputs and the parameters of a request together.
func (q *Request) Settings() (Settings, error) {
	s := Settings{}
	for _, t := range q.Inputs {
		switch {
		case t.Name == stopWords:
			s[t.Name] = t.Texts
		case t.Texts != nil:
			s[t.Name] = t.Texts[0]
		case t.Bools != nil:
			s[t.Name] = t.Bools[0]
		case t.Ints != nil:
			s[t.Name] = t.Ints[0]
		default:
			s[t.Name] = t.Floats[0]
		}
	}
	for name, value := range q.Params {
		if err := s.set(name, value); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s Settings) set(name string, value any) error {
	if _, twice := s[name]; twice {
		return &strictjson.Error{Code: strictjson.DuplicateField, Path: name, Expected: "an input or a parameter of this name", Got: "both"}
	}
	s[name] = value
	return nil
}

// Stream reports whether the request asks for its answer in parts.
func (s Settings) Stream() bool { return s[streamInput] == true }

// Completion is the request as a body of OpenAI's completions: the one place where settings are judged.
func (s Settings) Completion(model string) ([]byte, error) {
	body := map[string]any{"model": model, "echo": s[excludeInput] == false}
	for name, value := range s {
		if name == excludeInput || name == streamInput {
			continue
		}
		to, other := renamed[name]
		if !other {
			to = name
		}
		if _, twice := body[to]; twice {
			return nil, &strictjson.Error{Code: strictjson.DuplicateField, Path: name, Expected: "seed or random_seed", Got: "both"}
		}
		body[to] = value
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, &strictjson.Error{Path: "parameters", Expected: "finite numbers", Got: "others"}
	}
	return b, nil
}

// Named is an error of the API behind with the names that this protocol's clients have used.
func Named(err error) error {
	var e *strictjson.Error
	if !errors.As(err, &e) {
		return err
	}
	for ours, theirs := range renamed {
		if rest, ok := strings.CutPrefix(e.Path, theirs); ok && ours != "random_seed" && (rest == "" || rest[0] == '[') {
			named := *e
			named.Path = ours + rest
			return &named
		}
	}
	return err
}

// DecodeGenerate reads a body of Triton's generate extension: the inputs of a text model as members, or some of them inside
// parameters. id, if any, comes back with the answer. Errors are *strictjson.Error.
func DecodeGenerate(body []byte, m Model) (q *Request, s Settings, err error) {
	members, err := strictjson.ParseObject(body)
	if err != nil {
		return nil, nil, err
	}
	q, s = &Request{}, Settings{}
	for _, f := range members {
		switch f.Name {
		case "id":
			q.ID, err = readID(f.Value)
		case "parameters":
			var inner []strictjson.Member
			if inner, err = f.Object(); err == nil {
				err = s.read(inner, q, m)
			}
		default:
			err = s.read([]strictjson.Member{f}, q, m)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if _, ok := s[textInput]; !ok {
		return nil, nil, strictjson.Missing(textInput, "a text")
	}
	return q, s, nil
}

// read takes members that are inputs or parameters of the protocol.
func (s Settings) read(members []strictjson.Member, q *Request, m Model) error {
	for _, f := range members {
		spec := find(m.Inputs, f.Name)
		if spec == nil {
			value, err := scalar(f.Value)
			if err == nil && !slices.Contains([]string{"timeout", "priority"}, f.Name) {
				err = f.Unknown()
			}
			if err == nil {
				err = q.setParam(f.Name, value, m)
			}
			if err != nil {
				return err
			}
			continue
		}
		value, err := spec.value(f.Value)
		if err == nil {
			err = s.set(f.Name, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// value is a member in the type of an input.
func (s *Spec) value(v strictjson.Value) (any, error) {
	if s.Name == stopWords && v.IsArray() {
		t := Tensor{Type: Bytes}
		err := leaves(v, func(v strictjson.Value) error {
			if len(t.Texts) == s.Most {
				return v.Errorf("at most %d texts", s.Most)
			}
			return t.add(v)
		})
		return t.Texts, err
	}
	value, err := scalar(v)
	if err != nil {
		return nil, err
	}
	return s.fit(value, v.Path())
}
