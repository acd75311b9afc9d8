package openai

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/server/strictjson"
)

const (
	chatBody       = `{"model":"m","messages":[{"role":"user","content":"hi"}]%s}`
	completionBody = `{"model":"m","prompt":"hi"%s}`
)

// OpenAI's documented fields: each is taken at the values left of the bar and refused by name at those right of it.
var documented = []struct {
	route, field  string
	takes, refuse string
}{
	{"both", "n", `1 3 128 2.0`, `0 129 1.5 "1" true`},
	{"both", "stream", `true false`, `1 "true"`},
	{"both", "stop", `"a" ["a","b"] []`, `"" [""] ["1","2","3","4","5"] 7 [7]`},
	{"both", "temperature", `0 2 1e0`, `-0.1 2.1 1e999 "1"`},
	{"both", "top_p", `0 1 0.5`, `1.1 -1 []`},
	{"both", "min_p", `0 0.05 1`, `2 "x"`},
	{"both", "top_k", `-1 0 40`, `-2 1.5`},
	{"both", "repetition_penalty", `1 1.1`, `0 -1`},
	{"both", "frequency_penalty", `-2 0 2`, `2.5`},
	{"both", "presence_penalty", `-2 0 2`, `-3`},
	{"both", "seed", `0 -5 9223372036854775807`, `1.5 9223372036854775808 "x"`},
	{"both", "logit_bias", `{} {"5":-100,"7":1.5}`, `{"a":1} {"5":101} {"-1":1} []`},
	{"both", "ignore_eos", `true false`, `0`},
	{"both", "user", `"u"`, `5`},
	{"completion", "max_tokens", `0 16`, `-1 1.5`},
	{"completion", "logprobs", `0 5`, `6 true`},
	{"completion", "echo", `true false`, `1`},
	{"completion", "best_of", `1 2`, `0`},
	{"completion", "suffix", `""`, `"end"`},
	{"completion", "prompt_cache_key", ``, `"k"`},
	{"chat", "max_tokens", `1 16`, `0`},
	{"chat", "max_completion_tokens", `1 16`, `0`},
	{"chat", "logprobs", `true false`, `1`},
	{"chat", "top_logprobs", `0`, `21 3`},
	{"chat", "chat_template_kwargs", `{} {"enable_thinking":false}`, `[] "x"`},
	{"chat", "prompt_cache_key", `"k"`, `1`},
	{"chat", "safety_identifier", `"k"`, `1`},
	{"chat", "audio", ``, `{"voice":"x","format":"wav"}`},
	{"chat", "function_call", `"none" "auto"`, `{"name":"f"}`},
	{"chat", "functions", `[]`, `[{"name":"f"}]`},
	{"chat", "metadata", `{}`, `{"a":"b"}`},
	{"chat", "modalities", `["text"]`, `["text","audio"]`},
	{"chat", "moderation", ``, `{"model":"x"}`},
	{"chat", "parallel_tool_calls", `true false`, `1`},
	{"chat", "prediction", ``, `{"type":"content","content":"x"}`},
	{"chat", "prompt_cache_options", `{} {"mode":"implicit"}`, `{"mode":"explicit"}`},
	{"chat", "prompt_cache_retention", `"in_memory"`, `"24h"`},
	{"chat", "reasoning_effort", ``, `"high"`},
	{"both", "response_format", `{"type":"text"} {"type":"json_object"} {"type":"regex","regex":"a+"} {"type":"json_schema","json_schema":{"name":"x","schema":{},"strict":true}}`, `{"type":"xml"} {} {"type":"regex"} {"type":"json_object","regex":"a"} {"type":"json_schema","json_schema":{"schema":{}}}`},
	{"chat", "service_tier", `"auto" "default"`, `"flex"`},
	{"chat", "store", `false`, `true`},
	{"chat", "tool_choice", `"none" "auto"`, `"required" "some" {"type":"function"} {"type":"function","function":{"name":"f"}}`},
	{"chat", "tools", `[] [{"type":"function","function":{"name":"f","parameters":{"type":"object"},"strict":true}}]`, `[{"type":"custom"}] [{"type":"function","function":{}}] [{"type":"function","function":{"name":"a.b"}}] {}`},
	{"chat", "verbosity", `"medium"`, `"low"`},
	{"chat", "web_search_options", ``, `{}`},
}

func TestDocumentedFields(t *testing.T) {
	decoders := map[string]func(string) error{
		"completion": func(extra string) error {
			_, err := DecodeCompletion(fmt.Appendf(nil, completionBody, extra))
			return err
		},
		"chat": func(extra string) error { _, err := DecodeChat(fmt.Appendf(nil, chatBody, extra)); return err },
	}
	for _, c := range documented {
		for route, decode := range decoders {
			if c.route != "both" && c.route != route {
				continue
			}
			takes, refuse := strings.Fields(c.takes), strings.Fields(c.refuse)
			if c.field != "prompt_cache_key" || route == "chat" { // not documented for completions
				takes = append(takes, "null")
			}
			for _, v := range takes {
				if err := decode(`,"` + c.field + `":` + v); err != nil {
					t.Errorf("%s: %s %s: %v, want taken", route, c.field, v, err)
				}
			}
			for _, v := range refuse {
				var e *strictjson.Error
				err := decode(`,"` + c.field + `":` + v)
				if !errors.As(err, &e) || !strings.HasPrefix(e.Path, c.field) || e.Malformed {
					t.Errorf("%s: %s %s: %v, want refused by name", route, c.field, v, err)
				}
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	chat := func(b string) error { _, err := DecodeChat([]byte(b)); return err }
	completion := func(b string) error { _, err := DecodeCompletion([]byte(b)); return err }
	withMessages := func(m string) string { return `{"model":"m","messages":` + m + `}` }
	for name, c := range map[string]struct {
		err  error
		path string
		code strictjson.Code
	}{
		"no model":             {chat(`{"messages":[{"role":"user","content":"x"}]}`), "model", strictjson.MissingField},
		"null model":           {chat(`{"model":null,"messages":[{"role":"user","content":"x"}]}`), "model", strictjson.MissingField},
		"no messages":          {chat(`{"model":"m"}`), "messages", strictjson.MissingField},
		"no prompt":            {completion(`{"model":"m"}`), "prompt", strictjson.MissingField},
		"unknown":              {completion(`{"model":"m","prompt":"x","promt":1}`), "promt", strictjson.UnknownField},
		"unknown null":         {completion(`{"model":"m","prompt":"x","promt":null}`), "promt", strictjson.UnknownField},
		"other case":           {completion(`{"model":"m","prompt":"x","Prompt":"y"}`), "Prompt", strictjson.UnknownField},
		"duplicate":            {completion(`{"model":"m","prompt":"x","prompt":"y"}`), "prompt", strictjson.DuplicateField},
		"not an object":        {completion(`[1]`), "", ""},
		"empty prompts":        {completion(`{"model":"m","prompt":[]}`), "prompt", ""},
		"mixed prompts":        {completion(`{"model":"m","prompt":["a",1]}`), "prompt[1]", ""},
		"mixed ids":            {completion(`{"model":"m","prompt":[1,"a"]}`), "prompt[1]", ""},
		"empty ids":            {completion(`{"model":"m","prompt":[[]]}`), "prompt[0]", ""},
		"negative id":          {completion(`{"model":"m","prompt":[[-1]]}`), "prompt[0][0]", ""},
		"best_of below n":      {completion(`{"model":"m","prompt":"x","n":3,"best_of":2}`), "best_of", ""},
		"best_of, streamed":    {completion(`{"model":"m","prompt":"x","best_of":2,"stream":true}`), "best_of", ""},
		"best_of, traced":      {completion(`{"model":"m","prompt":"x","best_of":2,"pimoe":{"trace":true}}`), "best_of", ""},
		"options, no stream":   {chat(`{"model":"m","messages":[{"role":"user","content":"x"}],"stream_options":{"include_usage":true}}`), "stream_options", ""},
		"unknown option":       {chat(`{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{"x":1}}`), "stream_options.x", strictjson.UnknownField},
		"obfuscation":          {chat(`{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{"include_obfuscation":true}}`), "stream_options.include_obfuscation", strictjson.UnsupportedValue},
		"two maxima":           {chat(`{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":5,"max_completion_tokens":6}`), "max_completion_tokens", ""},
		"no messages in list":  {chat(withMessages(`[]`)), "messages", ""},
		"no role":              {chat(withMessages(`[{"content":"x"}]`)), "messages[0].role", strictjson.MissingField},
		"strange role":         {chat(withMessages(`[{"role":"wizard","content":"x"}]`)), "messages[0].role", ""},
		"no content":           {chat(withMessages(`[{"role":"user"}]`)), "messages[0].content", strictjson.MissingField},
		"null content":         {chat(withMessages(`[{"role":"user","content":null}]`)), "messages[0].content", ""},
		"content number":       {chat(withMessages(`[{"role":"user","content":5}]`)), "messages[0].content", ""},
		"image":                {chat(withMessages(`[{"role":"user","content":[{"image_url":{"url":"x"},"type":"image_url"}]}]`)), "messages[0].content[0].type", strictjson.UnsupportedValue},
		"part without text":    {chat(withMessages(`[{"role":"user","content":[{"type":"text"}]}]`)), "messages[0].content[0].text", strictjson.MissingField},
		"part field":           {chat(withMessages(`[{"role":"user","content":[{"x":1,"type":"text","text":"a"}]}]`)), "messages[0].content[0].x", strictjson.UnknownField},
		"message field":        {chat(withMessages(`[{"role":"user","content":"x","colour":"red"}]`)), "messages[0].colour", strictjson.UnknownField},
		"calls from a user":    {chat(withMessages(`[{"role":"user","content":"x","tool_calls":[]}]`)), "messages[0].tool_calls", strictjson.UnknownField},
		"tool without id":      {chat(withMessages(`[{"role":"tool","content":"x"}]`)), "messages[0].tool_call_id", strictjson.MissingField},
		"arguments not object": {chat(withMessages(`[{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"[1]"}}]}]`)), "messages[0].tool_calls[0].function.arguments", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var e *strictjson.Error
			if !errors.As(c.err, &e) {
				t.Fatalf("error %v, want one about %q", c.err, c.path)
			}
			if e.Path != c.path || e.Code != c.code {
				t.Errorf("refused %q with code %q (%v), want %q with %q", e.Path, e.Code, e, c.path, c.code)
			}
		})
	}
}

func TestMessagesForTemplates(t *testing.T) {
	body := `{"model":"m","messages":[
		{"content":"be <brief>","role":"developer"},
		{"role":"user","name":"Ann","content":[{"type":"text","text":"a"},{"text":"b","type":"text"}]},
		{"role":"assistant","content":null,"refusal":null,"annotations":[],"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"z\":1,\"a\":2}"}}]},
		{"role":"tool","tool_call_id":"c1","content":"3"},
		{"role":"assistant","content":null,"refusal":"no"}]}`
	r, err := DecodeChat([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"content":"be <brief>","role":"system"},` +
		`{"role":"user","name":"Ann","content":"a\nb"},` +
		`{"role":"assistant","content":"","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":{"z":1,"a":2}}}]},` +
		`{"role":"tool","tool_call_id":"c1","content":"3"},` +
		`{"role":"assistant","content":"no"}]`
	if d := cmp.Diff(want, string(r.Messages)); d != "" {
		t.Error(d)
	}
}

func TestPromptForms(t *testing.T) {
	for doc, want := range map[string][]Prompt{
		`"a"`:           {{Text: "a"}},
		`""`:            {{}},
		`["a","b"]`:     {{Text: "a"}, {Text: "b"}},
		`[1,2]`:         {{IDs: []int32{1, 2}}},
		`[[1,2],[3]]`:   {{IDs: []int32{1, 2}}, {IDs: []int32{3}}},
		`[ [ 7 ] ]`:     {{IDs: []int32{7}}},
		`["é\u0000\n"]`: {{Text: "é\x00\n"}},
	} {
		r, err := DecodeCompletion([]byte(`{"model":"m","prompt":` + doc + `}`))
		if err != nil {
			t.Errorf("%s: %v", doc, err)
			continue
		}
		if d := cmp.Diff(want, r.Prompts); d != "" {
			t.Errorf("%s: %s", doc, d)
		}
	}
}

func TestSamplingOverDefaults(t *testing.T) {
	defaults := sampler.Params{Temperature: .6, TopK: 20, TopP: .9}
	params := func(extra string, choice int) sampler.Params {
		r, err := DecodeChat(fmt.Appendf(nil, chatBody, extra))
		if err != nil {
			t.Fatal(err)
		}
		return r.Sampling.Params(defaults, choice)
	}
	if d := cmp.Diff(defaults, params("", 0)); d != "" {
		t.Errorf("nothing said: %s", d)
	}
	want := sampler.Params{TopP: leastTopP, FrequencyPenalty: .5, Seeded: true, Seed: ^uint64(0), LogitBias: map[int32]float32{3: -1}}
	if d := cmp.Diff(want, params(`,"temperature":0,"top_p":0,"top_k":-1,"frequency_penalty":0.5,"seed":-1,"logit_bias":{"3":-1}`, 0)); d != "" {
		t.Error(d)
	}
	a, b := params(`,"seed":7`, 0), params(`,"seed":7`, 1)
	if a.Seed != 7 || b.Seed == 7 || b.Seed != params(`,"seed":7`, 1).Seed {
		t.Errorf("seeds of choices: %d and %d", a.Seed, b.Seed)
	}
}
