package server

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/sdk/tensor"
)

type goldenPrompts struct {
	Prompts []struct {
		Kind       string          `json:"kind"`
		Messages   json.RawMessage `json:"messages"`
		Text       string          `json:"text"`
		InputIDs   []int32         `json:"input_ids"`
		GreedyIDs  []int32         `json:"greedy_ids"`
		GreedyText string          `json:"greedy_text"`
		FirstEOS   *int            `json:"greedy_first_eos"`
	} `json:"prompts"`
}

func golden(t *testing.T) goldenPrompts {
	t.Helper()
	var g goldenPrompts
	coretest.ReadJSON(t, filepath.Join(coretest.PimoeTiny(t), "golden.json"), &g)
	return g
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// Greedy answers of both routes are the reference's, whole and as a stream, by text and by ids. The first tokens are
// enough here: server/acceptance holds all of them, and the race detector makes each one dear.
func TestGreedyEqualsReference(t *testing.T) {
	r := serve(t, nil, nil)
	for i, p := range golden(t).Prompts {
		n := min(len(p.GreedyIDs), 12)
		shown := n
		if p.FirstEOS != nil && *p.FirstEOS < n {
			n, shown = *p.FirstEOS+1, *p.FirstEOS
		}
		want := openShared(t).Tokenizer.Decode(p.GreedyIDs[:shown], true)
		path, input, text := "/v1/completions", `"prompt":`+quote(p.Text), func(v any) any { return at(t, v, "choices", 0, "text") }
		if p.Kind == "chat" {
			path, input = "/v1/chat/completions", `"messages":`+string(p.Messages)
			text = func(v any) any { return at(t, v, "choices", 0, "message", "content") }
		}
		t.Run(fmt.Sprintf("%d %s", i, p.Kind), func(t *testing.T) {
			r := r.in(t)
			body := fmt.Sprintf(`{"model":"pimoe-tiny",%s,"temperature":0,"max_tokens":%d`, input, n)
			got := r.ok(path, body+"}")
			if text(got) != want {
				t.Errorf("text %q, want %q", text(got), want)
			}
			if n := at(t, got, "usage", "prompt_tokens"); n != float64(len(p.InputIDs)) {
				t.Errorf("prompt_tokens %v, want %d", n, len(p.InputIDs))
			}
			if streamed, _ := joined(t, r.sse(path, body+`,"stream":true}`)); streamed != want {
				t.Errorf("stream %q, want %q", streamed, want)
			}
			ids := r.ok("/v1/completions", fmt.Sprintf(`{"model":"pimoe-tiny","prompt":%s,"temperature":0,"max_tokens":%d}`, mustJSON(p.InputIDs), n))
			if got := at(t, ids, "choices", 0, "text"); got != want {
				t.Errorf("by ids %q, want %q", got, want)
			}
		})
	}
}

// joined is the text of a stream with one choice, and its finish reason.
func joined(t *testing.T, events []string) (text, finish string) {
	t.Helper()
	if len(events) == 0 || events[len(events)-1] != "[DONE]" {
		t.Fatalf("stream does not end with [DONE]: %q", events)
	}
	for _, e := range events[:len(events)-1] {
		var v struct {
			Choices []struct {
				Text   string
				Delta  struct{ Content string }
				Finish *string `json:"finish_reason"`
			}
		}
		if err := json.Unmarshal([]byte(e), &v); err != nil {
			t.Fatalf("event %s: %v", e, err)
		}
		for _, c := range v.Choices {
			if finish != "" {
				t.Errorf("event after the finish reason: %s", e)
			}
			text += c.Text + c.Delta.Content
			if c.Finish != nil {
				finish = *c.Finish
			}
		}
	}
	return text, finish
}

const (
	begin = `{"model":"pimoe-tiny","prompt":"Once upon a time, a little"`
	story = begin + `,"max_tokens":12`
)

func TestSeedAndChoices(t *testing.T) {
	r := serve(t, nil, nil)
	texts := func(extra string) []string {
		var out []string
		for _, c := range at(t, r.ok("/v1/completions", story+extra+"}"), "choices").([]any) {
			if i := at(t, c, "index"); i != float64(len(out)) {
				t.Errorf("index %v at place %d", i, len(out))
			}
			out = append(out, at(t, c, "text").(string))
		}
		return out
	}
	three := texts(`,"seed":5,"temperature":1.5,"n":3`)
	if len(three) != 3 || three[0] == three[1] || three[1] == three[2] {
		t.Errorf("three choices of one seed: %q", three)
	}
	if d := cmp.Diff(three, texts(`,"seed":5,"temperature":1.5,"n":3,"best_of":3`)); d != "" {
		t.Errorf("same seed again: %s", d)
	}
	if one := texts(`,"seed":5,"temperature":1.5`); one[0] != three[0] {
		t.Errorf("choice 0 is %q with n=3 and %q with n=1", three[0], one[0])
	}
	if other := texts(`,"seed":6,"temperature":1.5`); other[0] == three[0] {
		t.Errorf("seeds 5 and 6 give the same %q", other[0])
	}
	if a, b := texts(`,"temperature":2,"top_k":0,"top_p":1`), texts(`,"temperature":2,"top_k":0,"top_p":1`); a[0] == b[0] {
		t.Errorf("without a seed twice the same text at temperature 2: %q", a[0])
	}
	if a, b := texts(`,"temperature":0`), texts(`,"temperature":1,"top_p":0,"top_k":0`); a[0] != b[0] {
		t.Errorf("top_p 0 gives %q, greedy %q", b[0], a[0])
	}
}

func TestSeveralPrompts(t *testing.T) {
	r := serve(t, nil, nil)
	one := func(p string) any {
		return at(t, r.ok("/v1/completions", `{"model":"pimoe-tiny","prompt":`+p+`,"max_tokens":8,"temperature":0}`), "choices", 0, "text")
	}
	got := r.ok("/v1/completions", `{"model":"pimoe-tiny","prompt":["Once upon","The dog","12 + 3 ="],"n":2,"max_tokens":8,"temperature":0}`)
	choices := at(t, got, "choices").([]any)
	if len(choices) != 6 {
		t.Fatalf("%d choices, want 6", len(choices))
	}
	for i, p := range []string{`"Once upon"`, `"Once upon"`, `"The dog"`, `"The dog"`, `"12 + 3 ="`, `"12 + 3 ="`} {
		if text := at(t, choices[i], "text"); text != one(p) {
			t.Errorf("choice %d: %q, alone %q", i, text, one(p))
		}
	}
	tok := openShared(t).Tokenizer
	want := len(tok.Encode("Once upon", true)) + len(tok.Encode("The dog", true)) + len(tok.Encode("12 + 3 =", true))
	if n := at(t, got, "usage", "prompt_tokens"); n != float64(want) {
		t.Errorf("prompt_tokens %v, want %d: each prompt once", n, want)
	}
}

func TestStopAndFinish(t *testing.T) {
	r := serve(t, nil, nil)
	whole := at(t, r.ok("/v1/completions", begin+`,"temperature":0,"max_tokens":40}`), "choices", 0, "text").(string)
	words := strings.Fields(whole)
	stop := words[3] + " " + words[4]
	want := whole[:strings.Index(whole, stop)]
	body := begin + `,"temperature":0,"max_tokens":40,"stop":["#never#",` + quote(stop) + `]`
	got := r.ok("/v1/completions", body+"}")
	if text := at(t, got, "choices", 0, "text"); text != want || at(t, got, "choices", 0, "finish_reason") != "stop" {
		t.Errorf("stop at %q: %q (%v), want %q", stop, text, at(t, got, "choices", 0, "finish_reason"), want)
	}
	if text, finish := joined(t, r.sse("/v1/completions", body+`,"stream":true}`)); text != want || finish != "stop" {
		t.Errorf("stream with stop: %q (%s), want %q", text, finish, want)
	}
	if f := at(t, r.ok("/v1/completions", story+`}`), "choices", 0, "finish_reason"); f != "length" {
		t.Errorf("finish_reason at max_tokens %v, want length", f)
	}
	if n := at(t, r.ok("/v1/completions", `{"model":"pimoe-tiny","prompt":"Once"}`), "usage", "completion_tokens"); n.(float64) > 16 {
		t.Errorf("%v tokens without max_tokens, want at most 16", n)
	}
	bias := r.ok("/v1/completions", story+`,"temperature":0,"logit_bias":{"100":100}}`)
	if text := at(t, bias, "choices", 0, "text"); text != strings.Repeat(openShared(t).Tokenizer.Decode([]int32{100}, true), 12) {
		t.Errorf("a bias of 100 on one token: %q", text)
	}
}

func TestStreamOfChatHasOpenAIsOrder(t *testing.T) {
	r := serve(t, nil, nil)
	events := r.sse("/v1/chat/completions", `{"model":"pimoe-tiny","messages":[{"role":"user","content":[{"type":"text","text":"Tell me a story about a fox and a lamp."}]}],
		"n":2,"max_tokens":6,"seed":1,"stream":true,"stream_options":{"include_usage":true}}`)
	var order []string
	id := ""
	for _, e := range events {
		if e == "[DONE]" {
			order = append(order, "done")
			continue
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(e), &v); err != nil {
			t.Fatal(err)
		}
		if id == "" {
			id = v["id"].(string)
		}
		if v["id"] != id || v["object"] != "chat.completion.chunk" || !strings.HasPrefix(id, "chatcmpl-") {
			t.Errorf("event %s: id or object", e)
		}
		choices := v["choices"].([]any)
		usage, has := v["usage"]
		switch {
		case !has:
			t.Errorf("event without usage: %s", e)
		case len(choices) == 0:
			order = append(order, "usage")
			if at(t, usage, "completion_tokens") != 12.0 {
				t.Errorf("usage %v, want 12 completion tokens", usage)
			}
		case usage != nil:
			t.Errorf("usage before the end: %s", e)
		case at(t, choices[0], "delta", "role") == "assistant":
			order = append(order, fmt.Sprint("role", at(t, choices[0], "index")))
		case at(t, choices[0], "finish_reason") != nil:
			order = append(order, "finish")
			if d := at(t, choices[0], "delta").(map[string]any); len(d) != 0 {
				t.Errorf("last delta %v, want an empty one", d)
			}
		}
	}
	if d := cmp.Diff([]string{"role0", "role1", "finish", "finish", "usage", "done"}, order); d != "" {
		t.Error(d)
	}
}

func TestLogprobs(t *testing.T) {
	r := serve(t, nil, nil)
	got := r.ok("/v1/chat/completions", `{"model":"pimoe-tiny","messages":[{"role":"user","content":"Tell me a story about a fox and a lamp."}],"max_tokens":8,"temperature":0,"logprobs":true,"top_logprobs":3}`)
	var text strings.Builder
	for _, tok := range at(t, got, "choices", 0, "logprobs", "content").([]any) {
		text.WriteString(at(t, tok, "token").(string))
		top := at(t, tok, "top_logprobs").([]any)
		if len(top) != 3 || at(t, top, 0, "token") != at(t, tok, "token") || at(t, top, 0, "logprob") != at(t, tok, "logprob") {
			t.Errorf("greedy token %v, alternatives %v", tok, top)
		}
		if at(t, top, 0, "logprob").(float64) < at(t, top, 1, "logprob").(float64) || at(t, tok, "logprob").(float64) > 0 {
			t.Errorf("alternatives are not in order: %v", top)
		}
		var b []byte
		for _, n := range at(t, tok, "bytes").([]any) {
			b = append(b, byte(n.(float64)))
		}
		if string(b) != at(t, tok, "token") {
			t.Errorf("bytes %q of token %q", b, at(t, tok, "token"))
		}
	}
	if text.String() != at(t, got, "choices", 0, "message", "content") {
		t.Errorf("tokens join to %q, text is %q", text.String(), at(t, got, "choices", 0, "message", "content"))
	}
	streamed := ""
	for _, e := range r.sse("/v1/completions", story+`,"temperature":0,"logprobs":0,"stream":true}`) {
		if e == "[DONE]" {
			break
		}
		var v any
		if err := json.Unmarshal([]byte(e), &v); err != nil {
			t.Fatal(err)
		}
		if lp := at(t, v, "choices", 0, "logprobs"); lp != nil {
			for _, tok := range at(t, lp, "tokens").([]any) {
				streamed += tok.(string)
			}
		}
	}
	if want := at(t, r.ok("/v1/completions", story+`,"temperature":0}`), "choices", 0, "text"); streamed != want {
		t.Errorf("tokens of the stream join to %q, want %q", streamed, want)
	}
}

// echo with logprobs scores the prompt: each position's value is what the model gives when it continues there.
func TestEchoScoresThePrompt(t *testing.T) {
	r := serve(t, nil, nil)
	const prompt = "Once upon a time, a little fox"
	got := r.ok("/v1/completions", `{"model":"pimoe-tiny","prompt":"`+prompt+`","echo":true,"logprobs":2,"max_tokens":0}`)
	if text := at(t, got, "choices", 0, "text"); text != prompt {
		t.Errorf("echo %q, want %q", text, prompt)
	}
	if n := at(t, got, "usage", "completion_tokens"); n != 0.0 {
		t.Errorf("completion_tokens %v, want 0", n)
	}
	tok := openShared(t).Tokenizer
	ids := tok.Encode(prompt, true)
	lp := at(t, got, "choices", 0, "logprobs")
	values := at(t, lp, "token_logprobs").([]any)
	if len(values) != len(ids) || values[0] != nil || at(t, lp, "top_logprobs", 0) != nil {
		t.Fatalf("logprobs of %d tokens: %v", len(ids), values)
	}
	offset := 0
	for i := range ids {
		if o := at(t, lp, "text_offset", i); o != float64(offset) {
			t.Errorf("text_offset[%d] = %v, want %d", i, o, offset)
		}
		offset += len([]rune(at(t, lp, "tokens", i).(string)))
		if i == 0 {
			continue
		}
		// The oracle: force the model to continue with this very token and read its logprob.
		one := r.ok("/v1/completions", fmt.Sprintf(`{"model":"pimoe-tiny","prompt":%s,"max_tokens":1,"temperature":0,"logprobs":0,"logit_bias":{"%d":100}}`, mustJSON(ids[:i]), ids[i]))
		want := at(t, one, "choices", 0, "logprobs", "token_logprobs", 0).(float64)
		if d := math.Abs(values[i].(float64) - want); d > 1e-6 {
			t.Errorf("token %d: echo scores %v, continuation %v", i, values[i], want)
		}
	}
	both := r.ok("/v1/completions", `{"model":"pimoe-tiny","prompt":"`+prompt+`","echo":true,"logprobs":0,"max_tokens":4,"temperature":0}`)
	plain := r.ok("/v1/completions", `{"model":"pimoe-tiny","prompt":"`+prompt+`","max_tokens":4,"temperature":0}`)
	if text := at(t, both, "choices", 0, "text"); text != prompt+at(t, plain, "choices", 0, "text").(string) {
		t.Errorf("echo and answer %q", text)
	}
	if n := len(at(t, both, "choices", 0, "logprobs", "tokens").([]any)); n != len(ids)+4 {
		t.Errorf("%d tokens with logprobs, want %d", n, len(ids)+4)
	}
	if text, _ := joined(t, r.sse("/v1/completions", `{"model":"pimoe-tiny","prompt":"`+prompt+`","echo":true,"max_tokens":4,"temperature":0,"stream":true}`)); text != at(t, both, "choices", 0, "text") {
		t.Errorf("stream with echo %q", text)
	}
	byIDs := r.ok("/v1/completions", fmt.Sprintf(`{"model":"pimoe-tiny","prompt":%s,"echo":true,"max_tokens":0}`, mustJSON(ids)))
	if text := at(t, byIDs, "choices", 0, "text"); text != prompt {
		t.Errorf("echo of ids %q", text)
	}
}

func TestDisclosureAndUsage(t *testing.T) {
	r := serve(t, nil, nil)
	inst := openShared(t)
	body := `{"model":"pimoe-tiny","prompt":"A long enough prompt that fills more than one page of the cache: once upon a time there was a small fox who had a lamp.","max_tokens":2}`
	r.ok("/v1/completions", body)
	a := r.post("/v1/completions", body, "X-Request-Id", "my-id-1")
	for name, want := range map[string]string{
		"Pimoe-Status": "exact", "Pimoe-Model-Digest": inst.Digest, "Pimoe-Numeric-Class": "bf16w-f32", "X-Request-Id": "my-id-1", "Pimoe-Routing": "",
		"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Content-Type": "application/json", "Server": "",
	} {
		if got := a.header.Get(name); got != want {
			t.Errorf("header %s: %q, want %q", name, got, want)
		}
	}
	got := a.json(t)
	if n := at(t, got, "usage", "prompt_tokens_details", "cached_tokens").(float64); n <= 0 || n >= at(t, got, "usage", "prompt_tokens").(float64) {
		t.Errorf("cached_tokens %v of a repeated prompt", n)
	}
	want := "pimoe-" + strings.TrimPrefix(inst.Digest, "sha256:")[:12]
	if f := at(t, got, "system_fingerprint").(string); !strings.HasPrefix(f, want+"-") {
		t.Errorf("system_fingerprint %v, want %s", f, want)
	}
	if odd := r.post("/v1/completions", body, "X-Request-Id", "a b\"c"); len(odd.header.Get("X-Request-Id")) != 36 {
		t.Errorf("a strange request id was answered with %q, want a new one", odd.header.Get("X-Request-Id"))
	}
	models := r.get("/v1/models").json(t)
	if id := at(t, models, "data", 0, "id"); id != "pimoe-tiny" {
		t.Errorf("model id %v", id)
	}
	if a := r.get("/v1/models/pimoe-tiny"); a.status != http.StatusOK {
		t.Errorf("model by id: %d", a.status)
	}
	if a := r.get("/v1/models/gpt-4"); a.status != http.StatusNotFound || at(t, a.json(t), "error", "code") != "model_not_found" {
		t.Errorf("unknown model: %d %s", a.status, a.body)
	}
	if !strings.Contains(r.log.String(), `"request":"my-id-1","route":"POST /v1/completions","status":200`) {
		t.Errorf("access log lacks the request: %s", r.log)
	}
	if strings.Contains(r.log.String(), "small fox") {
		t.Error("the log has a prompt in it")
	}
}

// A router whose choice depends on load says so in every answer: in the header, in the body and in each event of a stream.
// No other router does.
func TestLoadDependentRoutingIsDisclosed(t *testing.T) {
	for _, routing := range []string{"load-dependent", ""} {
		f := &fakeEngine{script: paced(1, closed())}
		f.hidden = func(x tensor.Matrix) (tensor.Matrix, error) { return x, nil }
		svc := fakeService(f)
		svc.routing = routing
		r := serve(t, svc, nil)
		says := func(body string) bool { return strings.Contains(body, `"routing":"load-dependent"`) }
		for path, bodies := range map[string][]string{
			"/v1/completions": {whole, streaming},
			"/api/v1/process": {`{"text":"abc","max_tokens":3}`, `{"input_tensor":[[[1,2]]]}`},
		} {
			for _, body := range bodies {
				a := r.post(path, body)
				if a.status != http.StatusOK || a.header.Get("Pimoe-Routing") != routing || says(string(a.body)) != (routing != "") {
					t.Errorf("routing %q, %s: %d, Pimoe-Routing %q, %s", routing, path, a.status, a.header.Get("Pimoe-Routing"), a.body)
				}
				if got := a.header.Get("Cache-Control"); got != "no-store" {
					t.Errorf("routing %q, %s: Cache-Control %q", routing, path, got)
				}
			}
		}
		events := r.sse("/v1/completions", streaming)
		for _, e := range events[:len(events)-1] { // the last one is [DONE]
			if says(e) != (routing != "") {
				t.Errorf("routing %q: event %s", routing, e)
			}
		}
	}
}

// A seed asks for an answer that can be had again, which load-dependent routing can't promise: it is refused, in the shape
// of the route, and nothing is computed.
func TestLoadDependentRoutingRefusesSeeds(t *testing.T) {
	f := &fakeEngine{script: paced(1, closed())}
	svc := fakeService(f)
	svc.routing = "load-dependent"
	r := serve(t, svc, nil)
	for _, body := range []string{whole, streaming} {
		a := r.post("/v1/completions", strings.TrimSuffix(body, "}")+`,"seed":7}`)
		e := a.json(t)
		if a.status != http.StatusBadRequest || at(t, e, "error", "code") != "not_reproducible" || at(t, e, "error", "param") != "seed" {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	a := r.post("/api/v1/process", `{"text":"abc","max_tokens":3,"seed":7}`)
	e := a.json(t)
	if a.status != http.StatusUnprocessableEntity || at(t, e, "code") != "not_reproducible" || at(t, e, "errors", 0, "field") != "seed" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := r.post("/v1/completions", strings.TrimSuffix(whole, "}")+`,"seed":null}`); a.status != http.StatusOK {
		t.Errorf("seed null: %d %s", a.status, a.body)
	}
}
