package acceptance

import (
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/coretest/wan"
	"github.com/pimoe/pimoe/server/instance"
)

// BenchmarkRemote measures what distance costs: tokens a second of one request and of eight at a time, with experts here over
// shared memory and gRPC, and in a program on loopback, near and 1 ms away.
func BenchmarkRemote(b *testing.B) {
	home, _ := stored(b, "")
	tls, flags, _ := pair(b, coretest.NewAuthority(b))
	one := func(c *config.Config) { c.Home, c.Experts.Group = home, map[string]any{"all": entry("all")} }
	for _, v := range []struct {
		name   string
		change func(b *testing.B) func(*config.Config)
	}{
		{"here by shared memory", func(*testing.B) func(*config.Config) { return func(*config.Config) {} }},
		{"here by gRPC", func(*testing.B) func(*config.Config) {
			return func(c *config.Config) { c.Experts.Transport = "grpc" }
		}},
		{"remote on loopback", func(b *testing.B) func(*config.Config) {
			return away(config.RemoteTLS{}, serving(b, nil, "cpu", home).addr)
		}},
		{"remote on loopback, TLS", func(b *testing.B) func(*config.Config) {
			return away(tls, serving(b, nil, "cpu", home, flags...).addr)
		}},
		{"remote 1 ms away, TLS", func(b *testing.B) func(*config.Config) {
			way := wan.New(b, serving(b, nil, "cpu", home, flags...).addr)
			way.Delay(time.Millisecond)
			return away(tls, way.Addr())
		}},
	} {
		b.Run(v.name, func(b *testing.B) {
			i := open(b, one, v.change(b))
			tokensPerSecond(b, i, 1) // warm
			b.ResetTimer()
			for range b.N {
				b.ReportMetric(tokensPerSecond(b, i, 1), "tok/s")
				b.ReportMetric(tokensPerSecond(b, i, 8), "tok/s-of-8")
			}
		})
	}
}

// tokensPerSecond decodes so many requests at a time.
func tokensPerSecond(b *testing.B, i *instance.Instance, requests int) float64 {
	const tokens = 96
	var all sync.WaitGroup
	began := time.Now()
	for range requests {
		all.Go(func() {
			if a := run(b.Context(), i, greedy(story(i, "a cat"), tokens)); a.err != nil {
				b.Error(a.err)
			}
		})
	}
	all.Wait()
	return float64(requests*tokens) / time.Since(began).Seconds()
}
