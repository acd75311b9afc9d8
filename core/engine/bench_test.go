package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// idle is a model that costs nothing, to measure the engine itself: the time from the end of one step to the beginning
// of the next.
type idle struct {
	rows  []tensor.Matrix
	all   int // sequences in a step that counts
	ended time.Time
	gaps  []time.Duration
}

func (i *idle) Forward(_ context.Context, spans []model.Span) ([]tensor.Matrix, error) {
	if !i.ended.IsZero() && len(spans) == i.all {
		i.gaps = append(i.gaps, time.Since(i.ended))
	}
	for len(i.rows) < len(spans) {
		i.rows = append(i.rows, tensor.NewMatrix(1, fakeVocab))
	}
	i.ended = time.Now()
	return i.rows[:len(spans)], nil
}

func (i *idle) Hidden(context.Context, int, tensor.Matrix, func(int, []int32, []float32), moe.Judge) (tensor.Matrix, error) {
	return tensor.Matrix{}, nil
}
func (i *idle) Layers() []int   { return nil }
func (i *idle) Team() team.Team { return team.Team{} }
func (i *idle) Close() error    { return nil }

// BenchmarkLoop is the engine's own cost of a step with so many streams in it, each with a reader: the median, because
// whatever else runs on the machine adds to the mean.
func BenchmarkLoop(b *testing.B) {
	for _, n := range []int{1, 8, 32} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := &idle{all: n}
			s := testSetup(newFake(8192, 16))
			s.trunk, s.context, s.limits.MaxBatchSize, s.limits.MaxConcurrentRequests = m, 2048, n, n
			e := start(s)
			b.ReportAllocs()
			for b.Loop() {
				var wg sync.WaitGroup
				for i := range n {
					wg.Go(func() { ask(b, e, plain("", prompt(fmt.Sprint(i), 16), 1000)) })
				}
				wg.Wait()
			}
			if err := e.Close(); err != nil {
				b.Fatal(err)
			}
			slices.Sort(m.gaps)
			b.ReportMetric(float64(m.gaps[len(m.gaps)/2].Nanoseconds()), "ns/step")
		})
	}
}
