package openai

import (
	"bytes"
	"encoding/json"
	"math"

	"github.com/pimoe/pimoe/server/strictjson"
)

// ResponseRequest is a request of /v1/responses: the same generation in other words, and what the answer repeats of it.
type ResponseRequest struct {
	*Request
	given map[string]json.RawMessage // fields that the answer repeats, as they were sent

	turns        []turn // of input
	instructions string
	includeTop   bool // include has message.output_text.logprobs
}

// repeated are the fields that an answer repeats, with what it says where they were not sent. temperature and top_p are
// the model's own then, which NewResponse fills in.
var repeated = map[string]string{
	"instructions": "null", "max_output_tokens": "null", "max_tool_calls": "null", "metadata": "{}", "parallel_tool_calls": "true",
	"previous_response_id": "null", "prompt_cache_key": "null", "reasoning": `{"effort":null,"summary":null}`, "safety_identifier": "null",
	"service_tier": `"default"`, "store": "false", "temperature": "null", "text": `{"format":{"type":"text"}}`, "tool_choice": `"auto"`, "tools": "[]",
	"top_logprobs": "0", "top_p": "null", "truncation": `"disabled"`, "user": "null", "background": "false",
}

// sampled are the extensions that this route has in common with the others.
var sampled = []string{
	"top_k", "min_p", "repetition_penalty", "seed", "frequency_penalty", "presence_penalty", "logit_bias", "stop", "chat_template_kwargs", "pimoe",
	"temperature", "top_p", "stream", "model", "parallel_tool_calls", "user", "prompt_cache_key", "safety_identifier", "prompt_cache_options", "prompt_cache_retention",
}

// responseSetter reads a field into a ResponseRequest.
type responseSetter func(*ResponseRequest, strictjson.Value) error

var responseFields = map[string]responseSetter{
	"input":        input,
	"instructions": func(r *ResponseRequest, v strictjson.Value) (err error) { r.instructions, err = v.Text(); return },
	"max_output_tokens": func(r *ResponseRequest, v strictjson.Value) error {
		n, err := v.Int(1, math.MaxInt32)
		r.MaxTokens = int(n)
		return err
	},
	"top_logprobs": func(r *ResponseRequest, v strictjson.Value) error {
		n, err := v.Int(0, maxTopLogprobs)
		r.topLogprobs = int(n)
		return err
	},
	"stream_options": func(r *ResponseRequest, v strictjson.Value) error {
		members, err := v.Object()
		for _, m := range members {
			if m.Name != "include_obfuscation" {
				return m.Unknown()
			}
			if !m.Null() {
				err = neutral(`false`)(nil, m.Value)
			}
		}
		r.streamOptions = true
		return err
	},
	"include":     include,
	"metadata":    metadata,
	"text":        textConfig,
	"tools":       responseTools,
	"tool_choice": responseToolChoice,

	// What would need a memory of answers is refused: nothing of a request is kept.
	"previous_response_id": responseNeutral(),
	"conversation":         responseNeutral(),
	"store":                responseNeutral(`false`),
	"background":           responseNeutral(`false`),

	"access_programs": responseNeutral(), "background_options": responseNeutral(), "context_management": responseNeutral(), "image": responseNeutral(),
	"max_tool_calls": responseNeutral(), "moderation": responseNeutral(), "prompt": responseNeutral(),
	"reasoning":    responseNeutral(`{}`, `{"effort":null}`, `{"effort":null,"summary":null}`),
	"service_tier": responseNeutral(`"auto"`, `"default"`), "truncation": responseNeutral(`"disabled"`),
}

func responseNeutral(values ...string) responseSetter {
	set := neutral(values...)
	return func(_ *ResponseRequest, v strictjson.Value) error { return set(nil, v) }
}

// DecodeResponse reads a body of /v1/responses. Errors are *strictjson.Error.
func DecodeResponse(body []byte) (*ResponseRequest, error) {
	r := &ResponseRequest{given: map[string]json.RawMessage{}}
	table := fields{}
	for _, name := range sampled {
		if set := chatFields[name]; set != nil {
			table[name] = set
		}
	}
	for name, set := range responseFields {
		table[name] = func(inner *Request, v strictjson.Value) error {
			r.Request = inner
			return set(r, v)
		}
	}
	for name, set := range table {
		if _, ok := repeated[name]; !ok {
			continue
		}
		table[name] = func(inner *Request, v strictjson.Value) error {
			r.given[name] = bytes.Clone(v.Raw())
			return set(inner, v)
		}
	}
	base, err := decodeBody(body, table, "model", "input")
	if err != nil {
		return nil, err
	}
	r.Request = base
	if err := r.checkTools(); err != nil {
		return nil, err
	}
	switch {
	case r.includeTop:
		r.Logprobs = max(r.topLogprobs, 0)
	case r.topLogprobs > 0:
		return nil, &strictjson.Error{Path: "top_logprobs", Expected: `include to have "message.output_text.logprobs" with it`, Got: "no such include"}
	}
	r.Messages = conversation(r.instructions, r.turns)
	return r, nil
}

// include takes what an answer may have in addition. encrypted reasoning is empty without reasoning.
func include(r *ResponseRequest, v strictjson.Value) error {
	list, err := v.Array()
	if err != nil {
		return err
	}
	for _, e := range list {
		s, err := e.Text()
		if err != nil {
			return err
		}
		switch s {
		case "message.output_text.logprobs":
			r.includeTop = true
		case "reasoning.encrypted_content":
		default:
			return e.Unsupported("message.output_text.logprobs or reasoning.encrypted_content")
		}
	}
	return nil
}

// The limits of metadata are OpenAI's.
const (
	maxMetadata      = 16
	maxMetadataName  = 64
	maxMetadataValue = 512
)

// metadata is repeated in the answer, and that is all its effect.
func metadata(_ *ResponseRequest, v strictjson.Value) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	if len(members) > maxMetadata {
		return v.Errorf("at most %d pairs", maxMetadata)
	}
	for _, m := range members {
		s, err := m.Text()
		if err != nil {
			return err
		}
		if len([]rune(m.Name)) > maxMetadataName || len([]rune(s)) > maxMetadataValue {
			return m.Errorf("a name of at most %d and a text of at most %d characters", maxMetadataName, maxMetadataValue)
		}
	}
	return nil
}

// textConfig reads {"format": {...}, "verbosity": "medium"}. A format has its schema, regex or grammar beside its type.
func textConfig(r *ResponseRequest, v strictjson.Value) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	for _, m := range members {
		switch {
		case m.Null():
		case m.Name == "format":
			err = textFormat(r, m.Value)
		case m.Name == "verbosity":
			err = neutral(`"medium"`)(nil, m.Value)
		default:
			err = m.Unknown()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func textFormat(r *ResponseRequest, v strictjson.Value) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	f := &Format{Path: v.Path()}
	var kind strictjson.Value
	for _, m := range members {
		if m.Name == "type" {
			kind = m.Value
		}
	}
	if !kind.Exists() {
		return strictjson.Missing(v.Path()+".type", formatKinds)
	}
	name, err := kind.Text()
	if err != nil {
		return err
	}
	f.Kind = FormatKind(name)
	named := false
	for _, m := range members {
		named = named || m.Name == "name" && !m.Null()
		switch {
		case m.Name == "type":
		case f.Kind == JSONSchema:
			err = f.readMember(m)
		case m.Name == name && (f.Kind == Regex || f.Kind == Grammar):
			f.Path = m.Path()
			f.Text, err = m.Text()
		default:
			err = m.Unknown()
		}
		if err != nil {
			return err
		}
	}
	switch f.Kind {
	case "text":
		return nil
	case JSONObject:
	case JSONSchema:
		if !named {
			return strictjson.Missing(v.Path()+".name", "a name of the schema")
		}
	case Regex, Grammar:
		if f.Text == "" {
			return strictjson.Missing(v.Path()+"."+name, "what the answer has to match")
		}
	default:
		return kind.Errorf(formatKinds)
	}
	r.Format = f
	return nil
}

// responseTools reads [{"type":"function", name, description, parameters, strict}] and writes them as chat templates
// expect tools.
func responseTools(r *ResponseRequest, v strictjson.Value) error {
	list, err := v.Array()
	if err != nil {
		return err
	}
	if len(list) > maxTools {
		return v.Errorf("at most %d tools", maxTools)
	}
	var out bytes.Buffer
	seen := map[string]bool{}
	for i, e := range list {
		if i > 0 {
			out.WriteByte(',')
		}
		t, err := responseTool(&out, e)
		if err != nil {
			return err
		}
		if seen[t.Name] {
			return e.Errorf("names that differ")
		}
		seen[t.Name] = true
		r.Tools = append(r.Tools, t)
	}
	if len(list) > 0 {
		r.ToolsJSON = []byte("[" + out.String() + "]")
	}
	return nil
}

func responseTool(out *bytes.Buffer, v strictjson.Value) (Tool, error) {
	t := Tool{Path: v.Path()}
	members, err := v.Object()
	if err != nil {
		return t, err
	}
	var function bytes.Buffer
	w := objectWriter{out: &function}
	kind := false
	for _, m := range members {
		if m.Name == "type" {
			kind = true
			if err := neutral(`"function"`)(nil, m.Value); err != nil {
				return t, err
			}
			continue
		}
		if err := t.read(m); err != nil {
			return t, err
		}
		if !m.Null() {
			w.raw(m.Name, m.Raw())
		}
	}
	w.close()
	switch {
	case !kind:
		return t, strictjson.Missing(v.Path()+".type", "function")
	case t.Name == "":
		return t, strictjson.Missing(v.Path()+".name", "the function's name")
	}
	outer := objectWriter{out: out}
	outer.text("type", "function")
	outer.raw("function", function.Bytes())
	outer.close()
	return t, nil
}

// responseToolChoice reads none, auto, required or {"type":"function","name":...}.
func responseToolChoice(r *ResponseRequest, v strictjson.Value) error {
	if !v.IsObject() {
		return toolChoice(r.Request, v)
	}
	members, err := v.Object()
	if err != nil {
		return err
	}
	for _, m := range members {
		switch m.Name {
		case "type":
			err = neutral(`"function"`)(nil, m.Value)
		case "name":
			r.ToolChoice.Name, err = m.Text()
		default:
			err = m.Unknown()
		}
		if err != nil {
			return err
		}
	}
	if r.ToolChoice.Name == "" {
		return strictjson.Missing(v.Path()+".name", "the name of a tool")
	}
	r.ToolChoice.Mode = ToolNamed
	return nil
}
