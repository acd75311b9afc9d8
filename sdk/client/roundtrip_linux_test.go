package client_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// BenchmarkRoundTrip measures the boundary itself: an expert that only doubles its rows. p50 and p99 are of single
// calls, one after the other; "two" begins a call in each of two processes before it waits, as a layer does.
func BenchmarkRoundTrip(b *testing.B) {
	for _, transport := range []client.Transport{client.TransportSHM, client.TransportGRPC} {
		for _, shape := range [][2]int{{1, 256}, {32, 512}} {
			for _, processes := range []int{1, 2} {
				b.Run(fmt.Sprintf("%s/%dx%d/processes=%d", transport, shape[0], shape[1], processes), func(b *testing.B) {
					roundTrips(b, "ok", transport, shape[0], shape[1], processes)
				})
			}
		}
	}
}

// BenchmarkLayer is two experts that work 100 us each, begun together: 100 us would be ideal.
func BenchmarkLayer(b *testing.B) { roundTrips(b, "work", client.TransportSHM, 1, 256, 2) }

func roundTrips(b *testing.B, mode string, transport client.Transport, rows, cols, processes int) {
	var experts []*client.Expert
	var calls []*expert.Call
	for range processes {
		c := nastyCommand(runtimeDir(b), mode)
		c.Transport, c.Plane = transport, client.ExpertPlane(64, cols, 2)
		p, err := client.Start(b.Context(), c)
		if err != nil {
			b.Fatal(err)
		}
		defer p.Stop(b.Context())
		if err := p.Expert().LoadShards(b.Context(), client.LoadSpec{Spec: expert.Spec{Hidden: cols, Intermediate: 1}}); err != nil {
			b.Fatal(err)
		}
		experts = append(experts, p.Expert())
		calls = append(calls, &expert.Call{Threads: 1, Segments: []expert.Segment{{Expert: 0, Rows: rows}}, X: tensor.NewMatrix(rows, cols), Y: tensor.NewMatrix(rows, cols)})
	}
	took := make([]time.Duration, 0, b.N)
	for range b.N {
		start := time.Now()
		var pending [2]expert.Pending
		for i, e := range experts {
			pending[i] = e.Start(b.Context(), calls[i])
		}
		for i := range experts {
			if err := pending[i].Wait(); err != nil {
				b.Fatal(err)
			}
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e3, "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100])/1e3, "p99-us")
}
