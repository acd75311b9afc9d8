package openai

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var head = Head{ID: "id-1", Created: 7, Model: "m", Fingerprint: "pimoe-abc"}

var tokens = []Token{
	{Bytes: []byte(" fox"), Logprob: -0.5, Offset: 0, Top: []Token{{Bytes: []byte(" fox"), Logprob: -0.5}, {Bytes: []byte("\xe2\x80"), Logprob: -1}}},
	{Bytes: []byte("\xf0\x9f"), Logprob: float32(math.Inf(-1)), Offset: 4, Top: []Token{}},
}

// The shapes are those of OpenAI's API reference; the clients' own types are held against them in server/clienttest.
func TestShapes(t *testing.T) {
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"chat": {
			head.Chat([]Choice{{Text: " fox", Finish: "stop", Logprobs: tokens}}, Usage{PromptTokens: 5, CachedTokens: 4, CompletionTokens: 2}, &Meta{Status: "exact", ModelDigest: "sha256:a", NumericClass: "f32"}),
			`{"id":"id-1","object":"chat.completion","created":7,"model":"m","service_tier":"default","system_fingerprint":"pimoe-abc",
			"choices":[{"index":0,"message":{"role":"assistant","content":" fox","refusal":null,"annotations":[]},"finish_reason":"stop","logprobs":{"refusal":null,"content":[
			{"token":" fox","logprob":-0.5,"bytes":[32,102,111,120],"top_logprobs":[{"token":" fox","logprob":-0.5,"bytes":[32,102,111,120]},{"token":"\\xe2\\x80","logprob":-1,"bytes":[226,128]}]},
			{"token":"\\xf0\\x9f","logprob":-9999,"bytes":[240,159],"top_logprobs":[]}]}}],
			"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":0}},
			"meta":{"status":"exact","model_digest":"sha256:a","numeric_class":"f32"}}`},
		"completion": {
			head.Completion([]Choice{{Text: "a fox", Finish: "length", Logprobs: append([]Token{{Bytes: []byte("a"), Logprob: float32(math.NaN())}}, tokens...)}}, Usage{}, nil),
			`{"id":"id-1","object":"text_completion","created":7,"model":"m","system_fingerprint":"pimoe-abc",
			"choices":[{"index":0,"text":"a fox","finish_reason":"length","logprobs":{"tokens":["a"," fox","bytes:\\xf0\\x9f"],"token_logprobs":[null,-0.5,-9999],
			"top_logprobs":[null,{" fox":-0.5,"bytes:\\xe2\\x80":-1},{"bytes:\\xf0\\x9f":-9999}],"text_offset":[0,0,4]}}],
			"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}`},
		"first chat event": {
			head.ChatEvent(Choice{Role: true}, false),
			`{"id":"id-1","object":"chat.completion.chunk","created":7,"model":"m","service_tier":"default","system_fingerprint":"pimoe-abc",
			"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null,"logprobs":null}]}`},
		"chat event": {
			head.ChatEvent(Choice{Index: 1, Text: "<x>"}, true),
			`{"id":"id-1","object":"chat.completion.chunk","created":7,"model":"m","service_tier":"default","system_fingerprint":"pimoe-abc",
			"choices":[{"index":1,"delta":{"content":"<x>"},"finish_reason":null,"logprobs":null}],"usage":null}`},
		"last chat event": {
			head.ChatEvent(Choice{Finish: "stop"}, false),
			`{"id":"id-1","object":"chat.completion.chunk","created":7,"model":"m","service_tier":"default","system_fingerprint":"pimoe-abc",
			"choices":[{"index":0,"delta":{},"finish_reason":"stop","logprobs":null}]}`},
		"chat usage": {
			head.ChatUsage(Usage{PromptTokens: 1}),
			`{"id":"id-1","object":"chat.completion.chunk","created":7,"model":"m","service_tier":"default","system_fingerprint":"pimoe-abc","choices":[],
			"usage":{"prompt_tokens":1,"completion_tokens":0,"total_tokens":1,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}`},
		"routing": {
			Head{ID: "id-1", Created: 7, Model: "m", Fingerprint: "pimoe-abc", Routing: "load-dependent"}.CompletionUsage(Usage{}),
			`{"id":"id-1","object":"text_completion","created":7,"model":"m","system_fingerprint":"pimoe-abc","routing":"load-dependent","choices":[],
			"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}`},
		"no tokens": {
			head.CompletionEvent(Choice{Logprobs: []Token{}}, false),
			`{"id":"id-1","object":"text_completion","created":7,"model":"m","system_fingerprint":"pimoe-abc",
			"choices":[{"index":0,"text":"","finish_reason":null,"logprobs":{"tokens":[],"token_logprobs":[],"top_logprobs":[],"text_offset":[]}}]}`},
		"error": {
			Error{Message: "m", Type: "invalid_request_error", Code: "c", RequestID: "r"}.Body(),
			`{"error":{"message":"m","type":"invalid_request_error","param":null,"code":"c","request_id":"r"}}`},
		"models": {
			Models(NewModel("m", 3)),
			`{"object":"list","data":[{"id":"m","object":"model","created":3,"owned_by":"pimoe"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			var got, want any
			if err := json.Unmarshal(c.got, &got); err != nil {
				t.Fatalf("%s: %v", c.got, err)
			}
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// Pieces are the events that the slow way makes.
func TestPieces(t *testing.T) {
	h := Head{ID: "cmpl-1", Created: 17, Model: `m<"\`, Fingerprint: "fp"}
	for name, event := range map[string]func(Head, Choice, bool) []byte{"completion": Head.CompletionEvent, "chat": Head.ChatEvent} {
		for _, usage := range []bool{false, true} {
			p := NewPieces(event(h, Choice{Index: 3, Text: PieceText}, usage))
			for _, text := range []string{"a", " plain text", "\"quoted\"", "a\\b", "line\nbreak", "<&>", "é\u2028", "\x00", "\x7f", "bad \xff"} {
				if got, want := string(p.Append(nil, text)), string(event(h, Choice{Index: 3, Text: text}, usage)); got != want {
					t.Errorf("%s, %q:\n%s\nwant\n%s", name, text, got, want)
				}
			}
		}
	}
}

func BenchmarkPieces(b *testing.B) {
	h := Head{ID: "cmpl-1", Created: 17, Model: "model", Fingerprint: "fp"}
	p := NewPieces(h.CompletionEvent(Choice{Text: PieceText}, true))
	var dst []byte
	b.Run("pieces", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst = p.Append(dst[:0], " word")
		}
	})
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst = h.CompletionEvent(Choice{Text: " word"}, true)
		}
	})
}
