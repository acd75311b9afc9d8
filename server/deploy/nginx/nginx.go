// Package nginx renders nginx before several hosts: TLS and HTTP/2 for clients, kept connections to the hosts, streams and
// WebSockets as they come, limits by client, and answers of its own that look like the host's.
//
// `pimoe deploy render` uses it, and server/deploy/compose for the container. It needs no more than nginx 1.22 with Debian's
// smallest set of modules. It refuses to know which host is well: one that is not refuses, and the next one is asked.
package nginx

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/pimoe/pimoe/server/deploy"
)

// Target renders nginx.conf for a machine of its own.
type Target struct{}

// Name implements deploy.Target.
func (Target) Name() string { return "nginx" }

// Files implements deploy.Target.
func (Target) Files(v deploy.Values) ([]deploy.File, error) {
	conf := Conf(v, Place{
		HTTP: v.Proxy.HTTP, HTTPS: v.Proxy.HTTPS, IPv6: true, Hosts: v.Upstreams(), GRPC: onPort(v.Upstreams(), v.Ports.GRPC),
		Certificate: "/etc/nginx/tls/tls.crt", Key: "/etc/nginx/tls/tls.key", PID: "/run/nginx.pid", User: "www-data",
	})
	return []deploy.File{{Path: "nginx.conf", Mode: 0o644, Data: conf}}, nil
}

// onPort is the hosts with another port.
func onPort(hosts []string, port int) []string {
	out := make([]string, len(hosts))
	for i, h := range hosts {
		a := netip.MustParseAddrPort(h)
		out[i] = netip.AddrPortFrom(a.Addr(), uint16(port)).String()
	}
	return out
}

// Place is where nginx runs.
type Place struct {
	HTTP, HTTPS      int      // that it listens on
	IPv6             bool     // there, too
	Hosts            []string // ADDRESS:PORT of the hosts' public listeners
	GRPC             []string // and of their listeners for gRPC; empty = none is passed on
	Certificate, Key string   // files
	PID              string   // file with its process id
	User             string   // of the workers; empty = it is started by whom they run as
	Temp             string   // folder for bodies on their way; empty = the package's
}

// Conf is nginx.conf. The same values give the same bytes.
func Conf(v deploy.Values, at Place) []byte {
	return deploy.Render(conf, struct {
		deploy.Values
		Place
		Safety     []header
		Own        []own
		RetryAfter int
		Tries      int
	}{v, at, Safety(), owns(v), max(60/v.Limits.RatePerMinute, 1), min(len(at.Hosts), 3)})
}

type header struct{ Name, Value string }

// Safety are the headers that the host puts on every answer, for those that nginx gives itself. A test holds them
// against the host's.
func Safety() []header {
	return []header{
		{"X-Content-Type-Options", "nosniff"},
		{"X-Frame-Options", "DENY"},
		{"Referrer-Policy", "no-referrer"},
		{"Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"},
		{"Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"},
		{"Cross-Origin-Opener-Policy", "same-origin"},
		{"Cross-Origin-Resource-Policy", "same-origin"},
		{"Cache-Control", "no-store"},
	}
}

// own is an answer that nginx gives itself, for one status in the three shapes that the host's errors have.
type own struct {
	From    string // the statuses that lead to it, as nginx knows them
	Status  int
	Retry   bool // the same request may succeed later
	OpenAI  string
	Problem string
	OIP     string
}

// owns lists them. Codes and texts are the host's, where it has such an error.
func owns(v deploy.Values) []own {
	var out []own
	for _, e := range []struct {
		from          string
		status        int
		title         string
		code, message string
		kind          string
		retry         bool
	}{
		{"400 405 408 414 494 495 496 497 501 505", 400, "Bad Request", "malformed_request", "the request is not HTTP as it should be", "invalid_request_error", false},
		{"413", 413, "Request Entity Too Large", "body_too_large", fmt.Sprintf("the body is larger than %d MiB", v.Limits.BodyMB), "invalid_request_error", false},
		{"429", 429, "Too Many Requests", "rate_limit_exceeded", "too many requests or connections from this address", "rate_limit_error", true},
		{"500 502 503", 503, "Service Unavailable", "unavailable", "no host can be reached at the moment", "service_unavailable_error", true},
		{"504", 504, "Gateway Timeout", "deadline_exceeded", "the request's time is up", "timeout_error", false},
	} {
		const id = "$id" // nginx puts the request's in
		out = append(out, own{
			From: e.from, Status: e.status, Retry: e.retry,
			OpenAI: text(map[string]any{"error": map[string]any{"message": e.message, "type": e.kind, "param": nil, "code": e.code, "request_id": id}}),
			Problem: text(map[string]any{
				"type": "urn:pimoe:error:" + e.code, "title": e.title, "status": e.status, "detail": e.message, "code": e.code, "request_id": id,
			}),
			OIP: text(map[string]any{"error": e.message, "code": e.code, "request_id": id}),
		})
	}
	return out
}

// text is JSON as a string of nginx.conf in single quotes.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("nginx: " + err.Error())
	}
	return "'" + strings.ReplaceAll(string(b), "'", `\'`) + "'"
}

var _ deploy.Target = Target{}
