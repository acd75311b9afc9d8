package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/access"
)

func letIn(t *testing.T, change func(*config.Config)) *running {
	t.Helper()
	cfg := testConfig(t.TempDir())
	change(&cfg)
	return serveConfig(t, fakeService(&fakeEngine{script: fails(0, context.Canceled)}), cfg, nil)
}

// Pages of listed origins may use the API, without cookies; those of others get no word that would let them.
func TestCORS(t *testing.T) {
	const listed = "https://app.example.com"
	r := letIn(t, func(c *config.Config) { c.Web.Origins = []string{listed} })
	for _, origin := range []string{listed, "https://evil.example", "null", "https://app.example.com.evil.example", ""} {
		var headers []string
		if origin != "" {
			headers = []string{"Origin", origin}
		}
		ask := append([]string{"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type,x-stainless-os"}, headers...)
		pre, _ := fetchOver(t, http.DefaultClient, "OPTIONS", r.url+"/v1/chat/completions", "", ask...)
		for _, resp := range []*http.Response{pre, respOf(fetchOver(t, http.DefaultClient, "GET", r.url+"/v1/models", "", headers...)), respOf(fetchOver(t, http.DefaultClient, "POST", r.url+"/v1/completions", "{", headers...))} {
			want := ""
			if origin == listed {
				want = listed
			}
			if got := resp.Header.Get("Access-Control-Allow-Origin"); got != want {
				t.Errorf("%q: Allow-Origin %q", origin, got)
			}
			if resp.Header.Get("Access-Control-Allow-Credentials") != "" || !strings.Contains(strings.Join(resp.Header.Values("Vary"), ","), "Origin") {
				t.Errorf("%q: %v", origin, resp.Header)
			}
		}
		if ok := origin == listed; ok != (pre.StatusCode == 204) || ok != (pre.Header.Get("Access-Control-Allow-Headers") == "authorization,content-type,x-stainless-os") {
			t.Errorf("preflight of %q: %d, %v", origin, pre.StatusCode, pre.Header)
		}
	}
	closed := letIn(t, func(*config.Config) {})
	if resp, _ := fetchOver(t, http.DefaultClient, "GET", closed.url+"/v1/models", "", "Origin", listed); resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("without a list an origin is let in")
	}
}

func respOf(resp *http.Response, _ string) *http.Response { return resp }

// A foreign Host is answered on open routes only. While nobody needs a credential, every name that is not this machine's is foreign.
func TestHosts(t *testing.T) {
	named := letIn(t, func(c *config.Config) { c.Web.Hosts = []string{"pimoe.example.com"} })
	anonymous := letIn(t, func(*config.Config) {})
	guarded := letIn(t, func(c *config.Config) { c.APIKey = "0123-abcd-4567-efgh-89" })
	for _, c := range []struct {
		r          *running
		path, host string
		want       int
	}{
		{named, "/v1/models", "pimoe.example.com", 200}, {named, "/v1/models", "pimoe.example.com:443", 200}, {named, "/v1/models", "evil.example", 421}, {named, "/v1/models", "127.0.0.1", 421}, {named, "/livez", "10.0.0.7:8080", 200},
		{anonymous, "/v1/models", "localhost", 200}, {anonymous, "/v1/models", "rebound.evil.example", 421}, {anonymous, "/livez", "rebound.evil.example", 200},
		{guarded, "/v1/models", "any.example", 401},
	} {
		if resp, body := fetchOver(t, http.DefaultClient, "GET", c.r.url+c.path, "", "Host", c.host); resp.StatusCode != c.want {
			t.Errorf("%s at %s: %d, want %d: %s", c.path, c.host, resp.StatusCode, c.want, body)
		}
	}
}

// The client that a request counts for is the one that a trusted proxy names.
func TestClientOfAProxy(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Web.TrustedProxies = []string{"127.0.0.0/8"}
	seen := ""
	rt := route{method: http.MethodGet, path: "/who", rule: access.Rule{}, handle: func(_ context.Context, q *request) (*reply, error) {
		seen = q.client.String()
		return &reply{status: 200, contentType: mimeText}, nil
	}}
	r := serveConfig(t, fakeService(&fakeEngine{}), cfg, func(s *Server) { s.public.app.Get("/who", s.handle(rt)) })
	if fetchOver(t, http.DefaultClient, "GET", r.url+"/who", "", "X-Forwarded-For", "198.51.100.1, 203.0.113.5"); seen != "203.0.113.5" {
		t.Errorf("behind a proxy: %s", seen)
	}
}

// Every answer has the headers that keep a browser from doing harm with it, whatever its status.
func TestSafetyHeaders(t *testing.T) {
	r := letIn(t, func(*config.Config) {})
	for _, path := range []string{"/livez", "/docs", "/v1/models", "/nothing", "/openapi.json"} {
		resp, _ := fetchOver(t, http.DefaultClient, "GET", r.url+path, "")
		for k, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin", "Permissions-Policy": "camera=()", "Content-Security-Policy": "frame-ancestors 'none'",
			"Cache-Control": map[bool]string{true: "public, max-age=60", false: "no-store"}[path == "/docs" || path == openapiPath || path == "/v1/models"],
		} {
			if !strings.Contains(resp.Header.Get(k), want) {
				t.Errorf("%s: %s is %q", path, k, resp.Header.Get(k))
			}
		}
		policy := resp.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
			t.Errorf("%s: policy %q", path, policy)
		}
		if resp.Header.Get("Server") != "" {
			t.Errorf("%s names its software: %s", path, resp.Header.Get("Server"))
		}
	}
}

// Descriptions are compressed for who takes that; the model's answers never are.
func TestPacking(t *testing.T) {
	r := letIn(t, func(*config.Config) {})
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	_, whole := fetchOver(t, client, "GET", r.url+openapiPath, "")
	for accept, want := range map[string]string{"": "", "gzip": "gzip", "gzip, br": "br", "br;q=0, gzip": "gzip", "gzip;q=0": "", "zstd": "", "GZIP;q=0.5": "gzip", "identity": "", "gzip;q=x": ""} {
		resp, body := fetchOver(t, client, "GET", r.url+openapiPath, "", "Accept-Encoding", accept)
		if got := resp.Header.Get("Content-Encoding"); got != want || !strings.Contains(resp.Header.Get("Vary"), "Accept-Encoding") {
			t.Errorf("%q: %q, Vary %q", accept, got, resp.Header.Get("Vary"))
		}
		if want == "gzip" {
			z, err := gzip.NewReader(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			plain, err := io.ReadAll(z)
			if err != nil || !bytes.Equal(plain, []byte(whole)) || len(body)*3 > len(whole) {
				t.Errorf("%d of %d bytes, %v", len(body), len(whole), err)
			}
		}
	}
	for _, path := range []string{"/v1/completions", processPath} {
		if resp, _ := fetchOver(t, client, "POST", r.url+path, `{"prompt":"`+strings.Repeat("a", 4096)+`"}`, "Accept-Encoding", "gzip, br"); resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s is compressed", path)
		}
	}
	if resp, _ := fetchOver(t, client, "GET", r.url+"/livez", "", "Accept-Encoding", "gzip"); resp.Header.Get("Content-Encoding") != "" {
		t.Error("three bytes are compressed")
	}
}
