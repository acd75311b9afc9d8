package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

// served is a client of a server that h is.
func served(t *testing.T, h http.HandlerFunc, opts ...Option) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(s.URL, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestFieldsOfTheDescription: what the Go types send and read are members of the schemas of server/openapi.yaml.
func TestFieldsOfTheDescription(t *testing.T) {
	text, err := os.ReadFile("../../server/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var spec struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any `yaml:"properties"`
			} `yaml:"schemas"`
		} `yaml:"components"`
	}
	if err := yaml.Unmarshal(text, &spec); err != nil {
		t.Fatal(err)
	}
	for schema, v := range map[string]any{
		"CompletionRequest": CompletionRequest{}, "ChatRequest": ChatRequest{}, "Completion": Completion{}, "ChatCompletion": ChatCompletion{},
		"ChatCompletionChunk": ChatCompletion{}, "Model": Model{}, "Usage": Usage{}, "Meta": Meta{}, "ToolCall": ToolCall{}, "TokenLogprob": TokenLogprob{}, "Job": Job{},
	} {
		known := spec.Components.Schemas[schema].Properties
		if len(known) == 0 {
			t.Errorf("the description has no schema %s", schema)
		}
		for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); !f.Anonymous && known[name] == nil {
				t.Errorf("%s has no %q", schema, name)
			}
		}
	}
}

// A request that was refused for now is sent again with the same id, after the time that was asked for, and not for ever.
func TestRetries(t *testing.T) {
	var asked atomic.Int64
	var id atomic.Value
	c := served(t, func(w http.ResponseWriter, r *http.Request) {
		if id.CompareAndSwap(nil, r.Header.Get("X-Request-Id")); id.Load() != r.Header.Get("X-Request-Id") || r.Header.Get("Authorization") != "Bearer k" {
			t.Errorf("headers %v", r.Header)
		}
		if asked.Add(1)%3 != 0 {
			w.Header().Set("Retry-After", "0.01")
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, `{"error": {"code": "overloaded", "message": "later"}}`)
			return
		}
		io.WriteString(w, `{"id": "c1", "choices": [{"text": "yes"}]}`)
	}, Key("k"))
	got, err := c.Complete(t.Context(), CompletionRequest{Prompt: "p"})
	if err != nil || got.Choices[0].Text != "yes" || asked.Load() != 3 {
		t.Errorf("%+v, %v, asked %d times", got, err, asked.Load())
	}
	c = served(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }, Retries(1))
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = c.Complete(ctx, CompletionRequest{})
	refused := (*Error)(nil)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &refused) || refused.Status != http.StatusTooManyRequests || time.Since(began) > 900*time.Millisecond {
		t.Errorf("error %v after %v", err, time.Since(began))
	}
}

// Errors have the server's words in both shapes, and whatever else answers is told as it is.
func TestErrors(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`{"error": {"code": "invalid_value", "message": "wrong", "param": "n"}}`, "400 invalid_value: wrong (request r)"},
		{`{"code": "invalid_value", "detail": "bad shape", "errors": [{"field": "shape", "expected": "3 numbers", "got": "2"}]}`, "400 invalid_value: bad shape; shape: want 3 numbers, not 2 (request r)"},
		{`{"code": "invalid_value", "detail": "bad shape", "success": false, "error": "bad shape"}`, "400 invalid_value: bad shape (request r)"},
		{"<html>a proxy's page", "400 : <html>a proxy's page (request r)"},
	} {
		client := served(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Request-Id", "r")
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, c.body)
		})
		if _, err := client.Models(t.Context()); err == nil || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	for _, address := range []string{"", "localhost:8080", "ftp://h", "http://"} {
		if _, err := New(address); err == nil {
			t.Errorf("%q is taken", address)
		}
	}
}

// A stream's end is told from its being cut off, an error in it from an event, and a loop that is left ends the request.
func TestStreams(t *testing.T) {
	const event = "data: {\"choices\": [{\"text\": \"a\"}]}\n\n"
	for text, want := range map[string]string{
		": comment\n\n" + event + event + "data: [DONE]\n\n": "aa",
		event: "a, stream of /v1/completions: unexpected EOF",
		event + "data: {\"error\": {\"code\": \"expert_lost\", \"message\": \"gone\"}}\n\n": "a, 200 expert_lost: gone (request )",
		event + "data: {\"choi\n\n": "a, an event that is no JSON: unexpected end of JSON input",
	} {
		c := served(t, func(w http.ResponseWriter, r *http.Request) {
			if body, _ := io.ReadAll(r.Body); !strings.Contains(string(body), `"stream":true`) {
				t.Errorf("body %s", body)
			}
			io.WriteString(w, text)
		})
		got := ""
		for e, err := range c.StreamCompletion(t.Context(), CompletionRequest{Prompt: "p"}) {
			if err != nil {
				got += fmt.Sprint(", ", err)
				continue
			}
			got += e.Choices[0].Text
		}
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	left := make(chan struct{})
	c := served(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, event)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(left)
	})
	for range c.StreamCompletion(t.Context(), CompletionRequest{Prompt: "p"}) {
		break
	}
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Error("the request goes on")
	}
}

// Tensors keep every bit, and one whose shape is not its data's is not sent.
func TestTensors(t *testing.T) {
	c := served(t, func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("shape") != "1,2,2" || q.Get("layer") != "3" || q.Get("all_layers") != "" {
			t.Errorf("query %v", q)
		}
		io.Copy(w, r.Body)
	})
	layer, x := 3, Tensor{Shape: [3]int{1, 2, 2}, Data: []float32{1, -0.0, 1e-45, 3.4e38}}
	if y, err := c.Process(t.Context(), x, Layer{Number: &layer}); err != nil || !reflect.DeepEqual(*y, x) {
		t.Errorf("%v, %v", y, err)
	}
	if _, err := c.Process(t.Context(), Tensor{Shape: [3]int{1, 2, 2}, Data: x.Data[:3]}, Layer{}); err == nil {
		t.Error("three values for four")
	}
}
