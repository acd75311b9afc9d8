package engine

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// idle is a model that costs nothing, to measure the engine itself.
type idle struct{ rows []tensor.Matrix }

func (i *idle) Forward(_ context.Context, spans []model.Span) ([]tensor.Matrix, error) {
	for len(i.rows) < len(spans) {
		i.rows = append(i.rows, tensor.NewMatrix(1, fakeVocab))
	}
	return i.rows[:len(spans)], nil
}

func (i *idle) Hidden(context.Context, int, tensor.Matrix, func(int, []int32, []float32)) (tensor.Matrix, error) {
	return tensor.Matrix{}, nil
}
func (i *idle) Layers() []int   { return nil }
func (i *idle) Team() team.Team { return team.Team{} }
func (i *idle) Close() error    { return nil }

// BenchmarkLoop is the engine's own cost of a step, with so many streams in it.
func BenchmarkLoop(b *testing.B) {
	for _, n := range []int{1, 32} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := testSetup(newFake(4096, 16))
			s.trunk, s.limits.MaxBatchSize, s.limits.MaxConcurrentRequests = &idle{}, n, n
			e := start(s)
			defer e.Close()
			b.ReportAllocs()
			for b.Loop() {
				var wg sync.WaitGroup
				for i := range n {
					wg.Go(func() { ask(b, e, plain("", prompt(fmt.Sprint(i), 16), 200)) })
				}
				wg.Wait()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(e.Stats().Steps), "ns/step")
		})
	}
}
