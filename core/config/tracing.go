package config

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Tracing says which requests are followed, and where their spans go. Without an Endpoint none is.
type Tracing struct {
	// Endpoint is the collector that takes spans by OTLP: http:// or https:// (OTLP over HTTP), grpc:// or grpcs:// (over gRPC).
	Endpoint string `koanf:"endpoint"`
	Headers  string `koanf:"headers" secret:"true"` // of every export: NAME=value, comma separated; empty (default) = none
	CAFile   string `koanf:"ca_file"`               // PEM file of the authority behind https:// and grpcs://; empty = the system's
	// SampleRatio is the share of the requests that are followed, from 0 to 1. Default 0.01.
	SampleRatio float64 `koanf:"sample_ratio"`
	// Clients says whether a traceparent that asks for it has its request followed: "follow" (default) or "ignore".
	Clients string `koanf:"clients"`
	// MaxPerSecond bounds the requests that are followed, whoever asks for it. Default 20.
	MaxPerSecond int `koanf:"max_per_second"`
	// StepEvery is how many of a request's decode steps go by between two whose layers and expert calls are followed. Default 16;
	// 0 = no step is.
	StepEvery int `koanf:"step_every"`
}

func defaultTracing() Tracing {
	return Tracing{SampleRatio: 0.01, Clients: "follow", MaxPerSecond: 20, StepEvery: 16}
}

// Profiling is what the admin listener tells of where the host spends its time.
type Profiling struct {
	Pprof bool          `koanf:"pprof"` // serve Go's profiles on the admin listener; default false
	Every time.Duration `koanf:"every"` // between two CPU profiles that are kept in Home; 0 (default) = none
	For   time.Duration `koanf:"for"`   // that each of them takes; default 10 s
	Keep  int           `koanf:"keep"`  // profiles; the oldest go first; default 48
}

func defaultProfiling() Profiling { return Profiling{For: 10 * time.Second, Keep: 48} }

// Collector is where spans go.
type Collector struct {
	GRPC bool
	TLS  bool
	Addr string // HOST:PORT
	URL  string // of OTLP over HTTP
}

// ParseCollector reads tracing.endpoint. Its errors don't quote it: it may hold a password that does not belong there.
func ParseCollector(text string) (Collector, error) {
	u, err := url.Parse(text)
	bad := func(why string) (Collector, error) { return Collector{}, fmt.Errorf("%s: %w", why, sdk.ErrInvalid) }
	ports := map[string]string{"http": "4318", "https": "4318", "grpc": "4317", "grpcs": "4317"}
	switch {
	case err != nil || u.Hostname() == "" || ports[u.Scheme] == "":
		return bad("http://HOST:4318, https://, grpc://HOST:4317 or grpcs://")
	case u.User != nil:
		return bad("a URL without user and password: set PIMOE_TRACING__HEADERS or PIMOE_TRACING__HEADERS_FILE")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return bad("a URL without ? and #")
	}
	c := Collector{GRPC: strings.HasPrefix(u.Scheme, "grpc"), TLS: strings.HasSuffix(u.Scheme, "s")}
	if c.GRPC && strings.Trim(u.Path, "/") != "" {
		return bad("grpc://HOST:PORT without a path")
	}
	port := u.Port()
	if port == "" {
		port = ports[u.Scheme]
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return bad("a port from 1 to 65535")
	}
	u.Host = u.Hostname() + ":" + port
	if strings.Contains(u.Hostname(), ":") {
		u.Host = "[" + u.Hostname() + "]:" + port
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/v1/traces"
	}
	c.Addr, c.URL = u.Host, u.String()
	return c, nil
}

// ParseHeaders reads tracing.headers. Its errors quote nothing of it.
func ParseHeaders(text string) (map[string]string, error) {
	out := map[string]string{}
	if text == "" {
		return out, nil
	}
	for pair := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || name == "" || strings.ContainsFunc(name, notToken) || strings.ContainsFunc(value, unprintable) {
			return nil, fmt.Errorf("NAME=value pairs, comma separated, as HTTP headers carry them: %w", sdk.ErrInvalid)
		}
		out[strings.ToLower(name)] = value
	}
	return out, nil
}

// notToken is what a header's name may not have.
func notToken(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
}

func (v *validator) tracing(t Tracing) {
	trim := func(err error) string { return strings.TrimSuffix(err.Error(), ": "+sdk.ErrInvalid.Error()) }
	if !(t.SampleRatio >= 0 && t.SampleRatio <= 1) {
		v.bad("tracing.sample_ratio", strconv.FormatFloat(t.SampleRatio, 'g', -1, 64), "a share from 0 to 1")
	}
	if _, err := ParseHeaders(t.Headers); err != nil {
		v.bad("tracing.headers", "", trim(err))
	}
	if t.Endpoint == "" {
		if t.Headers != "" || t.CAFile != "" {
			v.bad("tracing.endpoint", "", "a collector's URL where tracing.headers or tracing.ca_file are set")
		}
		return
	}
	c, err := ParseCollector(t.Endpoint)
	if err != nil {
		v.bad("tracing.endpoint", "", trim(err))
	} else if t.CAFile != "" && !c.TLS {
		v.bad("tracing.ca_file", t.CAFile, "an https:// or grpcs:// endpoint with it")
	}
}

func (v *validator) profiling(p Profiling) {
	if p.Every > 0 && p.For > p.Every/2 {
		v.bad("profiling.for", p.For.String(), "at most half of profiling.every: what is profiled all the time is slower all the time")
	}
}
