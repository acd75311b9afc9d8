package acceptance

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/server/tracing/collector"
)

// A followed request is one tree of spans from HTTP to the time that the plugins have computed, in real processes, over shared
// memory and over gRPC, under the trace that the client has named, and the log says which.
func TestTraceReachesThePlugins(t *testing.T) {
	const trace = "0af7651916cd43dd8448eb211c80319c"
	store := home(t)
	for _, transport := range []string{"shm", "grpc"} {
		t.Run(transport, func(t *testing.T) {
			c := collector.Start(t)
			p := launch(t, store, "--set", "tracing.endpoint="+c.HTTP, "--set", "tracing.sample_ratio=0", "--set", "tracing.step_every=1", "--transport", transport, "--log-format", "json")
			p.ready(t)
			req, err := http.NewRequest(http.MethodPost, p.url+"/v1/completions", strings.NewReader(`{"model":"pimoe-tiny","prompt":"Once upon a time","max_tokens":3}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Traceparent", "00-"+trace+"-b7ad6b7169203331-01")
			req.Header.Set("Baggage", "canary=1")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%v %s %s", err, resp.Status, b)
			}
			if got := resp.Header.Get("Traceparent"); !strings.HasPrefix(got, "00-"+trace+"-") || !strings.HasSuffix(got, "-01") {
				t.Errorf("traceparent of the answer: %q", got)
			}
			spans := c.Await(t, "whole request", func(all []collector.Span) bool {
				for _, s := range all {
					if s.Name == "POST /v1/completions" {
						return true
					}
				}
				return false
			})
			checkTree(t, spans, trace)
			if log := p.stderr.String(); !strings.Contains(log, `"trace":"`+trace+`"`) || strings.Contains(log, "canary") {
				t.Errorf("the log does not name the trace, or has what baggage says: %s", log)
			}
		})
	}
}

// checkTree looks at each span, its parent and its time.
func checkTree(t *testing.T, spans []collector.Span, trace string) {
	t.Helper()
	parents := map[string]string{
		"generate": "POST /v1/completions", "queue": "generate", "prefill": "generate", "decode": "generate", "step": "generate", "layer": "step",
		"router.call": "layer", "expert.call": "layer", "router.compute": "router.call", "expert.compute": "expert.call",
	}
	by, count := map[string]collector.Span{}, map[string]int{}
	for _, s := range spans {
		by[s.ID] = s
		count[s.Name]++
	}
	for _, s := range spans {
		p := by[s.Parent]
		if want := parents[s.Name]; s.Trace != trace || p.Name != want {
			t.Errorf("span %s is below %q in trace %s", s.Name, p.Name, s.Trace)
		}
		const slack = 5 * time.Millisecond // clocks of the engine and of spans are read one after the other
		if p.Name != "" && (s.Begin.Before(p.Begin.Add(-slack)) || s.End.After(p.End.Add(slack)) || s.End.Before(s.Begin)) {
			t.Errorf("span %s lasts from %v to %v, its parent %s from %v to %v", s.Name, s.Begin, s.End, p.Name, p.Begin, p.End)
		}
		switch s.Name {
		case "expert.call":
			for _, a := range []string{"pimoe.group", "pimoe.process", "pimoe.plugin.version", "pimoe.backend", "pimoe.class"} {
				if s.Attributes[a] == "" || s.Attributes[a] == "0" {
					t.Errorf("a call without %s: %v", a, s.Attributes)
				}
			}
			if s.Attributes["pimoe.attempt"] != "1" || s.Attributes["pimoe.hedge"] != "false" || s.Kind != "client" {
				t.Errorf("a first call is %s with %v", s.Kind, s.Attributes)
			}
		case "expert.compute":
			if s.Kind != "server" || !s.End.After(s.Begin) {
				t.Errorf("computing took from %v to %v as %s", s.Begin, s.End, s.Kind)
			}
		}
	}
	// One prompt, then two decode steps, each with all layers.
	if count["step"] != 3 || count["layer"] == 0 || count["layer"]%3 != 0 || count["router.call"] != count["layer"] || count["expert.compute"] != count["expert.call"] || count["expert.call"] < 2*count["layer"] || count["router.compute"] != count["layer"] {
		t.Errorf("spans: %v", count)
	}
}
