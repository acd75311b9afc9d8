package config

import (
	"strings"
	"testing"
	"time"
)

func TestCollectors(t *testing.T) {
	for text, want := range map[string]Collector{
		"http://c":             {Addr: "c:4318", URL: "http://c:4318/v1/traces"},
		"https://c:9/":         {TLS: true, Addr: "c:9", URL: "https://c:9/v1/traces"},
		"http://c/otel/traces": {Addr: "c:4318", URL: "http://c:4318/otel/traces"},
		"grpc://c":             {GRPC: true, Addr: "c:4317", URL: "grpc://c:4317/v1/traces"},
		"grpcs://[::1]:7":      {GRPC: true, TLS: true, Addr: "[::1]:7", URL: "grpcs://[::1]:7/v1/traces"},
		"grpc://[fd00::1]":     {GRPC: true, Addr: "[fd00::1]:4317", URL: "grpc://[fd00::1]:4317/v1/traces"},
	} {
		if got, err := ParseCollector(text); err != nil || got != want {
			t.Errorf("%s: %+v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "c:4318", "ftp://c", "http://", "http://u:canary@c", "http://c?x=1", "http://c#x", "http://c:0", "http://c:70000", "grpc://c/path", "://"} {
		if _, err := ParseCollector(text); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestExportHeaders(t *testing.T) {
	got, err := ParseHeaders("Authorization=Bearer-a=b, x-scope=1")
	if err != nil || len(got) != 2 || got["authorization"] != "Bearer-a=b" || got["x-scope"] != "1" {
		t.Errorf("%v %v", got, err)
	}
	for _, text := range []string{"canary", "=canary", "a b=canary", "a=can\nary", "a=1,,b=canary"} {
		if _, err := ParseHeaders(text); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v", text, err)
		}
	}
	c := Default()
	c.Tracing.Headers = "authorization=Bearer-canary,x=another-canary"
	if all := strings.Join(c.Secrets(), " "); !strings.Contains(all, " Bearer-canary") && !strings.HasSuffix(all, " another-canary") {
		t.Errorf("the values of the headers are no secrets of their own: %q", all)
	}
}

func TestTracingProblems(t *testing.T) {
	for key, change := range map[string]func(c *Config){
		"tracing.endpoint":     func(c *Config) { c.Tracing.Endpoint = "ftp://x" },
		"tracing.sample_ratio": func(c *Config) { c.Tracing.SampleRatio = 1.5 },
		"tracing.headers":      func(c *Config) { c.Tracing.Endpoint, c.Tracing.Headers = "http://x", "none" },
		"tracing.ca_file":      func(c *Config) { c.Tracing.Endpoint, c.Tracing.CAFile = "http://x", "/x" },
		"tracing.clients":      func(c *Config) { c.Tracing.Clients = "some" },
		"tracing.step_every":   func(c *Config) { c.Tracing.StepEvery = -1 },
		"profiling.for":        func(c *Config) { c.Profiling.Every, c.Profiling.For = 10*time.Second, 6*time.Second },
		"profiling.keep":       func(c *Config) { c.Profiling.Keep = 0 },
	} {
		c := Default()
		change(&c)
		if p := c.problems(); len(p) != 1 || p[0].Key != key {
			t.Errorf("%s: %v", key, p)
		}
	}
	c := Default()
	c.Tracing.Headers = "a=b"
	if p := c.problems(); len(p) != 1 || p[0].Key != "tracing.endpoint" {
		t.Errorf("headers for nobody: %v", p)
	}
}
