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

	"github.com/pimoe/pimoe/server/tracing/collector"
)

// BenchmarkTracingCost compares two hosts in one run, in rounds that change between them: one with tracing at its defaults, a live
// collector and a scrape each second, and one that nobody follows or scrapes. Both serve 16 streams of completions. It reports
// the median of the rounds' ratios, on over off, in percent of the throughput, and by how much the two halves of a round with the
// same host differ.
func BenchmarkTracingCost(b *testing.B) {
	store := home(b)
	c := collector.Start(b)
	off := launch(b, store)
	on := launch(b, store, "--set", "tracing.endpoint="+c.GRPC)
	off.ready(b)
	on.ready(b)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var scraper sync.WaitGroup
	defer scraper.Wait()
	defer cancel()
	scraper.Go(func() {
		for tick := time.NewTicker(time.Second); ctx.Err() == nil; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				tick.Stop()
				return
			}
			if resp, err := http.Get(on.admin + "/metrics"); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}
	})
	const clients, requests = 16, 4
	offered(b, off.url, clients, 1)
	offered(b, on.url, clients, 1)
	var ratios, noise []float64
	for b.Loop() {
		// Each order once: what gets slower during a round gets slower for both.
		first, second := offered(b, off.url, clients, requests), offered(b, on.url, clients, requests)
		third, fourth := offered(b, on.url, clients, requests), offered(b, off.url, clients, requests)
		ratios = append(ratios, (second+third)/(first+fourth))
		noise = append(noise, math.Abs(first-fourth)/(first+fourth))
	}
	slices.Sort(ratios)
	slices.Sort(noise)
	b.ReportMetric(100*noise[len(noise)/2], "%noise")
	b.ReportMetric(100*ratios[len(ratios)/2], "%of-off")
	b.ReportMetric(float64(len(c.Spans())), "spans")
	b.ReportMetric(0, "ns/op") // says nothing here
	if len(c.Spans()) == 0 {
		b.Error("nothing was followed")
	}
}

// load is the tokens a second of some clients that each make some requests.
func offered(b *testing.B, url string, clients, requests int) float64 {
	b.Helper()
	const most = 48
	body := fmt.Sprintf(`{"model":"pimoe-tiny","prompt":"Once upon a time there was","max_tokens":%d,"ignore_eos":true}`, most)
	began := time.Now()
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for range requests {
				resp, err := http.Post(url+"/v1/completions", "application/json", strings.NewReader(body))
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
	return float64(clients*requests*most) / time.Since(began).Seconds()
}
