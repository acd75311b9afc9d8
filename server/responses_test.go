package server

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk"
)

// event is one event of a stream of /v1/responses.
type responseEvent map[string]any

// events posts a streaming request and checks what every stream has: types that are also the events' names, and numbers
// that count from 0.
func responseEvents(r *running, body string) []responseEvent {
	r.t.Helper()
	a := r.post(responsesPath, body)
	if a.status != 200 {
		r.t.Fatalf("%s: %d %s", body, a.status, a.body)
	}
	var out []responseEvent
	for _, e := range strings.Split(strings.TrimSuffix(string(a.body), "\n\n"), "\n\n") {
		if strings.HasPrefix(e, ":") {
			continue
		}
		name, data, ok := strings.Cut(strings.TrimPrefix(e, "event: "), "\ndata: ")
		var v responseEvent
		if err := json.Unmarshal([]byte(data), &v); !ok || err != nil {
			r.t.Fatalf("event %q: %v", e, err)
		}
		if v["type"] != name || v["sequence_number"] != float64(len(out)) {
			r.t.Errorf("event %d named %s: %s", len(out), name, data)
		}
		out = append(out, v)
	}
	return out
}

// types are the types of events, each run of the same one once.
func types(events []responseEvent) []string {
	var out []string
	for _, e := range events {
		out = append(out, e["type"].(string))
	}
	return slices.Compact(out)
}

// A response has the text of the chat that it stands for, whole and streamed.
func TestResponsesAreChats(t *testing.T) {
	r := serve(t, nil, nil)
	for name, c := range map[string]struct{ input, messages string }{
		"text":         {`"input":"Tell me a story."`, `[{"role":"user","content":"Tell me a story."}]`},
		"instructions": {`"instructions":"Be brief.","input":"Tell me a story."`, `[{"role":"system","content":"Be brief."},{"role":"user","content":"Tell me a story."}]`},
		"items": {
			`"input":[{"role":"developer","content":"Be brief."},{"type":"message","role":"user","content":[{"type":"input_text","text":"Tell"},{"type":"input_text","text":"me"}]},
				{"id":"msg_1","type":"message","role":"assistant","status":"completed","content":[{"type":"output_text","text":"Once.","annotations":[],"logprobs":[]}]},{"role":"user","content":"More."}]`,
			`[{"role":"system","content":"Be brief."},{"role":"user","content":"Tell\nme"},{"role":"assistant","content":"Once."},{"role":"user","content":"More."}]`,
		},
		"calls": {
			`"input":[{"role":"user","content":"Feed it."},{"type":"function_call","id":"fc_1","call_id":"call_1","name":"feed","arguments":"{\"legs\": 4}","status":"completed"},
				{"type":"function_call_output","call_id":"call_1","output":"fed"}],"tools":[{"type":"function","name":"feed","parameters":{"type":"object"},"strict":true}],"tool_choice":"none"`,
			`[{"role":"user","content":"Feed it."},{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"feed","arguments":"{\"legs\": 4}"}}]},
				{"role":"tool","tool_call_id":"call_1","content":"fed"}],"tools":[{"type":"function","function":{"name":"feed","parameters":{"type":"object"},"strict":true}}],"tool_choice":"none"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			const rest = `,"model":"pimoe-tiny","temperature":1.2,"seed":7`
			chat := r.ok("/v1/chat/completions", `{"messages":`+c.messages+rest+`,"max_tokens":10}`)
			want := at(t, chat, "choices", 0, "message", "content").(string)
			body := "{" + c.input + rest + `,"max_output_tokens":10,"metadata":{"a":"b"}`
			got := r.ok(responsesPath, body+"}")
			if text := at(t, got, "output", 0, "content", 0, "text"); text != want {
				t.Errorf("text %q, the chat's %q", text, want)
			}
			if at(t, got, "usage", "input_tokens") != at(t, chat, "usage", "prompt_tokens") || at(t, got, "usage", "output_tokens") != at(t, chat, "usage", "completion_tokens") {
				t.Errorf("usage %v, the chat's %v", got["usage"], chat["usage"])
			}
			status := map[any]string{"length": "incomplete", "stop": "completed"}[at(t, chat, "choices", 0, "finish_reason")]
			if got["status"] != status || got["temperature"] != 1.2 || at(t, got, "metadata", "a") != "b" || got["store"] != false || got["max_output_tokens"] != 10.0 {
				t.Errorf("answer %v, want status %s", got, status)
			}
			events := responseEvents(r, body+`,"stream":true}`)
			text := ""
			for _, e := range events {
				if e["type"] == "response.output_text.delta" {
					text += e["delta"].(string)
				}
			}
			last := events[len(events)-1]
			if text != want || at(t, map[string]any(last), "response", "output", 0, "content", 0, "text") != want {
				t.Errorf("streamed %q, want %q: %v", text, want, last)
			}
			order := []string{"response.created", "response.in_progress", "response.output_item.added", "response.content_part.added", "response.output_text.delta",
				"response.output_text.done", "response.content_part.done", "response.output_item.done", "response." + status}
			if got := types(events); !slices.Equal(got, order) {
				t.Errorf("events %v, want %v", got, order)
			}
		})
	}
}

// Calls of tools and forms have the same words in streams and answers.
func TestResponsesOfTools(t *testing.T) {
	r := serve(t, nil, nil)
	const schema = `{"type":"object","properties":{"legs":{"type":"integer","minimum":0,"maximum":8}},"required":["legs"],"additionalProperties":false}`
	body := `{"model":"pimoe-tiny","input":"Feed the fox.","seed":2,"temperature":1,"max_output_tokens":200,"tools":[{"type":"function","name":"feed","parameters":` + schema + `}],"tool_choice":{"type":"function","name":"feed"}`
	got := r.ok(responsesPath, body+"}")
	var args struct{ Legs int }
	item := at(t, got, "output", 0).(map[string]any)
	if err := json.Unmarshal([]byte(item["arguments"].(string)), &args); err != nil || item["type"] != "function_call" || item["name"] != "feed" || item["call_id"] == "" || got["status"] != "completed" {
		t.Errorf("%v: %v", err, got)
	}
	events := responseEvents(r, body+`,"stream":true}`)
	order := []string{"response.created", "response.in_progress", "response.output_item.added", "response.function_call_arguments.delta",
		"response.function_call_arguments.done", "response.output_item.done", "response.completed"}
	if got := types(events); !slices.Equal(got, order) {
		t.Errorf("events %v, want %v", got, order)
	}
	deltas := ""
	for _, e := range events {
		if e["type"] == "response.function_call_arguments.delta" {
			deltas += e["delta"].(string)
		}
	}
	if deltas != item["arguments"] {
		t.Errorf("deltas %q, whole %q", deltas, item["arguments"])
	}
	for format, valid := range map[string]func(string) bool{
		`{"type":"json_schema","name":"animal","strict":true,"schema":` + schema + `}`: func(s string) bool { return json.Unmarshal([]byte(s), &args) == nil && args.Legs <= 8 },
		`{"type":"json_object"}`:                        func(s string) bool { return json.Valid([]byte(s)) },
		`{"type":"regex","regex":"(ab){2}"}`:            func(s string) bool { return s == "abab" },
		`{"type":"text"}`:                               func(s string) bool { return s != "" },
		`{"type":"grammar","grammar":"root ::= \"x\""}`: func(s string) bool { return s == "x" },
	} {
		a := r.ok(responsesPath, `{"model":"pimoe-tiny","input":"A fox.","max_output_tokens":80,"text":{"format":`+format+`,"verbosity":"medium"}}`)
		if text := at(t, a, "output", 0, "content", 0, "text").(string); !valid(text) {
			t.Errorf("%s: %q", format, text)
		}
	}
}

func TestResponsesLogprobs(t *testing.T) {
	r := serve(t, nil, nil)
	body := `{"model":"pimoe-tiny","input":"A fox.","temperature":0,"max_output_tokens":5,"include":["message.output_text.logprobs"],"top_logprobs":2`
	got := r.ok(responsesPath, body+"}")
	text := ""
	for _, l := range at(t, got, "output", 0, "content", 0, "logprobs").([]any) {
		text += at(t, l, "token").(string)
		if len(at(t, l, "top_logprobs").([]any)) != 2 {
			t.Errorf("%v", l)
		}
	}
	if text != at(t, got, "output", 0, "content", 0, "text") {
		t.Errorf("tokens %q of %v", text, got["output"])
	}
	streamed := ""
	for _, e := range responseEvents(r, body+`,"stream":true}`) {
		if e["type"] == "response.output_text.delta" {
			for _, l := range e["logprobs"].([]any) {
				streamed += at(t, l, "token").(string)
			}
		}
	}
	if streamed != text {
		t.Errorf("streamed tokens %q, want %q", streamed, text)
	}
}

// What needs a memory, or has no effect, is refused by its name.
func TestResponsesRefusals(t *testing.T) {
	r := serve(t, nil, nil)
	for extra, want := range map[string][2]string{
		`"previous_response_id":"resp_1"`: {"previous_response_id", "unsupported_value"}, `"store":true`: {"store", "unsupported_value"},
		`"conversation":"c"`: {"conversation", "unsupported_value"}, `"background":true`: {"background", "unsupported_value"},
		`"reasoning":{"effort":"high"}`: {"reasoning", "unsupported_value"}, `"truncation":"auto"`: {"truncation", "unsupported_value"},
		`"tools":[{"type":"web_search"}]`: {"tools[0].type", "unsupported_value"}, `"tools":[{"type":"function"}]`: {"tools[0].name", "missing_required_parameter"},
		`"include":["file_search_call.results"]`: {"include[0]", "unsupported_value"}, `"top_logprobs":2`: {"top_logprobs", "invalid_value"},
		`"text":{"format":{"type":"json_schema","schema":{}}}`:                                                    {"text.format.name", "missing_required_parameter"},
		`"text":{"format":{"type":"json_schema","name":"a","schema":{"type":"integer","minimum":2,"maximum":1}}}`: {"text.format.schema", "invalid_value"},
		`"max_output_tokens":0`: {"max_output_tokens", "invalid_value"}, `"max_tokens":5`: {"max_tokens", "unknown_parameter"}, `"n":2`: {"n", "unknown_parameter"},
		`"metadata":{"a":1}`: {"metadata.a", "invalid_value"}, `"tool_choice":"required"`: {"tool_choice", "invalid_value"}, `"stream_options":{}`: {"stream_options", "invalid_value"},
		`"max_output_tokens":2,"text":{"format":{"type":"json_schema","name":"a","schema":{"type":"string","minLength":50}}}`: {"max_output_tokens", "form_too_long"},
	} {
		a := r.post(responsesPath, `{"model":"pimoe-tiny","input":"A fox.",`+extra+"}")
		if a.status != 400 || at(t, a.json(t), "error", "param") != want[0] || at(t, a.json(t), "error", "code") != want[1] {
			t.Errorf("%s: %d %s, want %v", extra, a.status, a.body, want)
		}
	}
	for input, param := range map[string]string{
		`[]`: "input", `5`: "input", `[{"role":"user"}]`: "input[0].content", `[{"content":"a"}]`: "input[0].role", `[{"type":"item_reference","id":"a"}]`: "input[0].type",
		`[{"role":"tool","content":"a"}]`: "input[0].role", `[{"role":"user","content":[{"type":"input_image","image_url":"a"}]}]`: "input[0].content[0].type",
		`[{"type":"function_call","call_id":"a","name":"b","arguments":"["}]`: "input[0].arguments", `[{"type":"function_call_output","output":"a"}]`: "input[0].call_id",
		`[{"role":"user","content":"a","colour":1}]`: "input[0].colour", quote(strings.Repeat("fox ", 4000)): "input",
	} {
		a := r.post(responsesPath, `{"model":"pimoe-tiny","input":`+input+"}")
		if a.status != 400 || at(t, a.json(t), "error", "param") != param {
			t.Errorf("%.80s: %d %s, want %s", input, a.status, a.body, param)
		}
	}
}

// An error in the middle of a stream is an event of its own, with the next number.
func TestResponsesStreamFails(t *testing.T) {
	real := serviceOf(openShared(t))
	real.engine = &fakeEngine{script: fails(2, fmt.Errorf("expert: %w", sdk.ErrInvalidOutput))}
	r := serve(t, &real, nil)
	events := responseEvents(r, `{"model":"pimoe-tiny","input":"A fox.","stream":true}`)
	last := events[len(events)-1]
	if last["type"] != "error" || last["code"] != "invalid_expert_output" || last["message"] == "" {
		t.Errorf("last event %v", last)
	}
	real.engine = &fakeEngine{script: func(context.Context, int) (engine.Token, error) {
		return engine.Token{Finish: engine.FinishStop}, nil
	}}
	empty := serve(t, &real, nil).ok(responsesPath, `{"model":"pimoe-tiny","input":"A fox."}`)
	if at(t, empty, "output", 0, "content", 0, "text") != "" || empty["status"] != "completed" {
		t.Errorf("an answer without text: %v", empty)
	}
}
