package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Every refusal has its status, a stable code and the request's id, in the shape of its route.
func TestBadRequests(t *testing.T) {
	r := serve(t, nil, nil)
	const completions, chat, process = "/v1/completions", "/v1/chat/completions", processPath
	long := `{"model":"pimoe-tiny","prompt":"` + strings.Repeat("fox ", 3000) + `"}`
	for name, c := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		code, field        string
	}{
		"no json":                {"POST", completions, `{"model":`, nil, 400, "malformed_json", ""},
		"empty body":             {"POST", completions, ``, nil, 400, "malformed_json", ""},
		"two documents":          {"POST", chat, `{} {}`, nil, 400, "malformed_json", ""},
		"nan":                    {"POST", chat, `{"model":"pimoe-tiny","temperature":NaN}`, nil, 400, "malformed_json", ""},
		"huge number":            {"POST", completions, `{"model":"pimoe-tiny","prompt":"x","temperature":1e999}`, nil, 400, "invalid_value", "temperature"},
		"unknown field":          {"POST", completions, `{"model":"pimoe-tiny","prompt":"x","promt":1}`, nil, 400, "unknown_parameter", "promt"},
		"duplicate field":        {"POST", completions, `{"model":"pimoe-tiny","prompt":"x","n":1,"n":2}`, nil, 400, "duplicate_parameter", "n"},
		"wrong type":             {"POST", completions, `{"model":"pimoe-tiny","prompt":{"a":1}}`, nil, 400, "invalid_value", "prompt"},
		"no effect":              {"POST", chat, `{"model":"pimoe-tiny","messages":[{"role":"user","content":"x"}],"store":true}`, nil, 400, "unsupported_value", "store"},
		"missing prompt":         {"POST", completions, `{"model":"pimoe-tiny"}`, nil, 400, "missing_required_parameter", "prompt"},
		"unknown model":          {"POST", completions, `{"model":"gpt-4","prompt":"x"}`, nil, 404, "model_not_found", "model"},
		"empty prompt":           {"POST", completions, `{"model":"pimoe-tiny","prompt":""}`, nil, 400, "invalid_value", "prompt"},
		"prompt too long":        {"POST", completions, long, nil, 400, "context_length_exceeded", "prompt"},
		"id beyond vocabulary":   {"POST", completions, `{"model":"pimoe-tiny","prompt":[[1],[99999]]}`, nil, 400, "invalid_value", "prompt[1]"},
		"bias beyond vocabulary": {"POST", completions, `{"model":"pimoe-tiny","prompt":"x","logit_bias":{"99999":1}}`, nil, 400, "invalid_value", "logit_bias.99999"},
		"bad timeout":            {"POST", completions, `{"model":"pimoe-tiny","prompt":"x"}`, []string{"X-Request-Timeout", "soon"}, 400, "invalid_header", "X-Request-Timeout"},
		"form":                   {"POST", completions, `model=x`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "unsupported_media_type", ""},
		"latin-1":                {"POST", completions, `{}`, []string{"Content-Type", "application/json; charset=iso-8859-1"}, 415, "unsupported_charset", ""},
		"bytes for chat":         {"POST", chat, `{}`, []string{"Content-Type", "application/octet-stream"}, 415, "unsupported_media_type", ""},
		"gzip":                   {"POST", completions, `x`, []string{"Content-Encoding", "gzip"}, 415, "unsupported_encoding", ""},
		"body too large":         {"POST", completions, strings.Repeat(" ", generateBody+1), nil, 413, "body_too_large", ""},
		"wrong method":           {"GET", completions, ``, nil, 405, "method_not_allowed", ""},
		"unknown route":          {"GET", "/v1/images", ``, nil, 404, "route_not_found", ""},
		"unknown native route":   {"GET", "/api/v2", ``, nil, 404, "route_not_found", ""},
		"query":                  {"GET", "/readyz?a=1;b", ``, nil, 400, "malformed_query", ""},
		"native no json":         {"POST", process, `nope`, nil, 400, "malformed_json", ""},
		"native unknown field":   {"POST", process, `{"text":"x","colour":1}`, nil, 422, "unknown_parameter", "colour"},
		"native nothing":         {"POST", process, `{}`, nil, 422, "invalid_value", "input_tensor"},
		"native both":            {"POST", process, `{"text":"x","input_tensor":[[[1]]]}`, nil, 422, "invalid_value", "input_tensor"},
		"native wrong method":    {"DELETE", process, ``, nil, 405, "method_not_allowed", ""},
		"native model setting":   {"POST", process, `{"text":"x","temperature":3}`, nil, 422, "invalid_value", "temperature"},
	} {
		t.Run(name, func(t *testing.T) {
			a := do(t, c.method, r.url+c.path, c.body, append(c.headers, "X-Request-Id", "the-id")...)
			if a.status != c.status {
				t.Fatalf("status %d, want %d: %s", a.status, c.status, a.body)
			}
			v := a.json(t)
			if strings.HasPrefix(c.path, "/v1") {
				if at(t, v, "error", "code") != c.code || at(t, v, "error", "request_id") != "the-id" || at(t, v, "error", "type") != "invalid_request_error" {
					t.Errorf("error %v, want code %s", v, c.code)
				}
				if param, _ := at(t, v, "error", "param").(string); param != c.field {
					t.Errorf("param %q, want %q", param, c.field)
				}
			} else {
				if v["code"] != c.code || v["request_id"] != "the-id" || v["status"] != float64(c.status) || a.header.Get("Content-Type") != mimeProblem {
					t.Errorf("problem %v (%s), want code %s", v, a.header.Get("Content-Type"), c.code)
				}
				if c.field != "" && at(t, v, "errors", 0, "field") != c.field {
					t.Errorf("errors %v, want field %s", v["errors"], c.field)
				}
				if c.path == process && c.status != 405 && (v["success"] != false || v["error"] != v["detail"]) {
					t.Errorf("problem of process lacks success and error: %v", v)
				}
			}
			if c.status == 405 && a.header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
			if a.header.Get("X-Request-Id") != "the-id" || a.header.Get("X-Frame-Options") != "DENY" {
				t.Errorf("headers %v", a.header)
			}
		})
	}
}

// Errors from below become the statuses of the table, on both kinds of routes and in the middle of a stream, and tell
// nothing of the inside.
func TestErrorClasses(t *testing.T) {
	secret := "/var/lib/pimoe/run/e3.sock pid 4711"
	for name, c := range map[string]struct {
		err          error
		status       int
		code, kind   string
		says, header string
	}{
		"overloaded":     {fmt.Errorf("%s: %w", secret, sdk.ErrOverloaded), 503, "overloaded", "service_unavailable_error", "running and waiting", "1"},
		"unavailable":    {fmt.Errorf("%s: %w", secret, sdk.ErrUnavailable), 503, "unavailable", "service_unavailable_error", "at the moment", "1"},
		"expert":         {fmt.Errorf("%s: layer 2: %w", secret, &host.UnavailableError{What: "expert group e3", Cause: "its process was killed by SIGKILL"}), 503, "expert_unavailable", "service_unavailable_error", "expert group e3 is unavailable: its process was killed by SIGKILL", "1"},
		"invalid output": {fmt.Errorf("%s: %w", secret, sdk.ErrInvalidOutput), 502, "invalid_expert_output", "api_error", "not used", ""},
		"deadline":       {fmt.Errorf("%s: %w", secret, sdk.ErrDeadline), 504, "deadline_exceeded", "timeout_error", "time is up", ""},
		"unknown":        {errors.New(secret), 500, "internal_error", "api_error", "request id", ""},
		"invalid":        {fmt.Errorf("request 7: token id 90 is out of range: %w", sdk.ErrInvalid), 422, "invalid_value", "invalid_request_error", "token id 90 is out of range", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeEngine{script: fails(2, c.err), hidden: func(x tensor.Matrix) (tensor.Matrix, error) { return x, c.err }}
			r := serve(t, fakeService(f), nil)
			check := func(what string, a answer, status int, code, message any) {
				t.Helper()
				if a.status != status || code != c.code || !strings.Contains(fmt.Sprint(message), c.says) || a.header.Get("Retry-After") != c.header {
					t.Errorf("%s: %d %s (Retry-After %q), want %d %s saying %q", what, a.status, a.body, a.header.Get("Retry-After"), status, c.code, c.says)
				}
				if strings.Contains(string(a.body), "sock") || strings.Contains(string(a.body), "4711") {
					t.Errorf("%s tells of the inside: %s", what, a.body)
				}
			}
			v1 := c.status
			if v1 == 422 {
				v1 = 400
			}
			body := `{"model":"fake","prompt":"abc","max_tokens":9`
			a := r.post("/v1/completions", body+"}")
			e := a.json(t)["error"]
			check("completions", a, v1, at(t, e, "code"), at(t, e, "message"))
			if at(t, e, "type") != c.kind {
				t.Errorf("type %v, want %s", at(t, e, "type"), c.kind)
			}
			a = r.post(processPath, `{"input_tensor":[[[1,2]]]}`)
			check("process", a, c.status, a.json(t)["code"], a.json(t)["detail"])
			events := r.sse("/v1/completions", body+`,"stream":true}`)
			if n := len(events); n != 4 || !strings.Contains(events[2], `"code":"`+c.code+`"`) || events[3] != "[DONE]" {
				t.Errorf("stream %q, want two pieces, the error and [DONE]", events)
			}
			f.refuse = c.err
			a = r.post("/v1/completions", body+`,"stream":true}`)
			e = a.json(t)["error"]
			check("refused stream", a, v1, at(t, e, "code"), at(t, e, "message"))
			if f.slots.Load() != 0 {
				t.Errorf("%d slots are still taken", f.slots.Load())
			}
			if c.status >= 500 && !strings.Contains(r.log.String(), "sock") {
				t.Error("the log lacks the cause")
			}
		})
	}
}

func TestPanicEndsOneRequest(t *testing.T) {
	f := &fakeEngine{script: func(context.Context, int) (engine.Token, error) { panic("a bug in a stream") }, hidden: func(tensor.Matrix) (tensor.Matrix, error) { panic("a bug in " + t.Name()) }}
	r := serve(t, fakeService(f), nil)
	a := r.post(processPath, `{"input_tensor":[[[1,2]]]}`)
	if a.status != 500 || a.json(t)["code"] != "internal_error" || strings.Contains(string(a.body), "bug") {
		t.Errorf("panic: %d %s", a.status, a.body)
	}
	if a := r.post("/v1/completions", whole); a.status != 500 || strings.Contains(string(a.body), "bug") {
		t.Errorf("panic of a reader: %d %s", a.status, a.body)
	}
	if events := r.sse("/v1/completions", streaming); len(events) != 2 || !strings.Contains(events[0], "internal_error") {
		t.Errorf("panic in a stream: %q", events)
	}
	if a := r.get("/livez"); a.status != http.StatusOK {
		t.Errorf("after the panics: %d", a.status)
	}
	if !strings.Contains(r.log.String(), "a bug in") {
		t.Error("the log lacks the panic")
	}
}

func TestDeadline(t *testing.T) {
	f := &fakeEngine{script: hangs(1)}
	cfg := testConfig("")
	cfg.Limits.RequestTimeout = 200 * time.Millisecond
	r := serveConfig(t, fakeService(f), cfg, nil)
	for _, header := range []string{"", "0.05", "60ms", "1000"} {
		began := time.Now()
		a := r.post("/v1/completions", `{"model":"fake","prompt":"abc"}`, "X-Request-Timeout", header)
		if took := time.Since(began); a.status != 504 || took > 3*time.Second {
			t.Errorf("X-Request-Timeout %q: %d after %s: %s", header, a.status, took, a.body)
		}
	}
	events := r.sse("/v1/completions", `{"model":"fake","prompt":"abc","stream":true}`)
	if n := len(events); n != 3 || !strings.Contains(events[1], "deadline_exceeded") {
		t.Errorf("stream beyond its deadline: %q", events)
	}
}

// A request whose time runs out while it waits for a restart is told what it has waited for.
func TestDeadlineWhileAnExpertIsDown(t *testing.T) {
	svc := fakeService(&fakeEngine{script: hangs(1)})
	svc.lacking = func() error {
		return &host.UnavailableError{What: "expert group e5", Cause: "its process can't be started: permission denied"}
	}
	r := serve(t, svc, nil)
	a := r.post("/v1/completions", whole, "X-Request-Timeout", "50ms")
	if e := a.json(t)["error"]; a.status != 503 || at(t, e, "code") != "expert_unavailable" || at(t, e, "message") != "expert group e5 is unavailable: its process can't be started: permission denied" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestNoTemplate(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{script: hangs(0)}), nil)
	a := r.post("/v1/chat/completions", `{"model":"fake","messages":[{"role":"user","content":"x"}]}`)
	if a.status != 400 || at(t, a.json(t), "error", "code") != "no_chat_template" {
		t.Errorf("chat without a template: %d %s", a.status, a.body)
	}
}
