package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/server/cost"
	"github.com/pimoe/pimoe/server/tracing/collector"
)

// BenchmarkTracingCost compares two hosts in one run, in rounds that change between them: one that measures itself, has a scrape
// each second and follows a share of the requests for a live collector, and one with none of it. Both serve 16 streams of
// completions. It reports the medians of the rounds' ratios, on over off, in percent: of the throughput, and of the CPU time that
// host and plugins take for a token, which other work on the machine hides less; and by how much the two halves of a round with
// the same host differ.
func BenchmarkTracingCost(b *testing.B) {
	for _, share := range []string{"0.01", "0.05"} {
		b.Run(share, func(b *testing.B) { tracingCost(b, share) })
	}
}

func tracingCost(b *testing.B, share string) {
	store := home(b)
	c := collector.Start(b)
	off := launch(b, store, "--set", "metrics.interval=0s")
	on := launch(b, store, "--set", "tracing.endpoint="+c.GRPC, "--set", "tracing.sample_ratio="+share, "--set", "tracing.max_per_second=1000")
	off.ready(b)
	on.ready(b)
	scraped(b, on)
	const clients, requests = 16, 4
	offered(b, off, clients, 1)
	offered(b, on, clients, 1)
	var speed, cpu, noise ratios
	for b.Loop() {
		// Each order once: what gets slower during a round gets slower for both.
		first, second := offered(b, off, clients, requests), offered(b, on, clients, requests)
		third, fourth := offered(b, on, clients, requests), offered(b, off, clients, requests)
		speed = append(speed, (second.speed+third.speed)/(first.speed+fourth.speed))
		cpu = append(cpu, (second.cpu+third.cpu)/(first.cpu+fourth.cpu))
		noise = append(noise, math.Abs(first.speed-fourth.speed)/(first.speed+fourth.speed))
	}
	b.ReportMetric(noise.median(), "%noise")
	b.ReportMetric(speed.median(), "%of-off")
	b.ReportMetric(cpu.median(), "%CPU-of-off")
	b.ReportMetric(float64(len(c.Spans())), "spans")
	b.ReportMetric(0, "ns/op") // says nothing here
	if len(c.Spans()) == 0 {
		b.Error("nothing was followed")
	}
}

type ratios []float64

// median is in percent.
func (r ratios) median() float64 {
	slices.Sort(r)
	return 100 * r[len(r)/2]
}

// scraped has a host's metrics read each second until the benchmark ends.
func scraped(b *testing.B, p *program) {
	ctx, cancel := context.WithCancel(b.Context())
	var scraper sync.WaitGroup
	b.Cleanup(func() { cancel(); scraper.Wait() })
	scraper.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if resp, err := http.Get(p.admin + "/metrics"); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}
	})
}

// used is the CPU seconds of a host and its plugins so far, by its own account.
func used(b *testing.B, p *program) float64 {
	b.Helper()
	resp, err := http.Get(p.admin + "/admin/report/cost")
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	var r cost.Report
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil || r.Total.CPUSeconds == 0 {
		b.Fatalf("%s: %v", resp.Status, err)
	}
	return r.Total.CPUSeconds
}

// half is what one host has done in half a round.
type half struct {
	speed float64 // tokens a second
	cpu   float64 // seconds
}

// offered has some clients make some requests each.
func offered(b *testing.B, p *program, clients, requests int) half {
	b.Helper()
	const most = 48
	body := fmt.Sprintf(`{"model":"pimoe-tiny","prompt":"Once upon a time there was","max_tokens":%d,"ignore_eos":true}`, most)
	before, began := used(b, p), time.Now()
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for range requests {
				resp, err := http.Post(p.url+"/v1/completions", "application/json", strings.NewReader(body))
				if err != nil {
					b.Error(err)
					return
				}
				var v struct {
					Usage struct {
						Completion int `json:"completion_tokens"`
					}
				}
				err = json.NewDecoder(resp.Body).Decode(&v)
				resp.Body.Close()
				if err != nil || v.Usage.Completion != most {
					b.Errorf("%s: %v %+v", resp.Status, err, v)
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	return half{float64(clients*requests*most) / took.Seconds(), used(b, p) - before}
}
