package engine

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// steady is a model without garbage of its own that counts allocations from one of its steps to another.
type steady struct {
	rows     []tensor.Matrix
	logits   tensor.Matrix
	begin    chan struct{} // closed when all requests are there
	step     int
	from, to int
	mallocs  [2]uint64
	done     chan struct{}
}

func (m *steady) Forward(_ context.Context, spans []model.Span) ([]tensor.Matrix, error) {
	m.rows = m.rows[:0]
	for i := range spans {
		n := 0
		switch {
		case spans[i].AllLogits:
			n = len(spans[i].Tokens)
		case spans[i].Logits:
			n = 1
		}
		m.rows = append(m.rows, m.logits.Slice(0, n))
	}
	<-m.begin
	var stats runtime.MemStats
	switch m.step++; m.step {
	case m.from:
		runtime.ReadMemStats(&stats)
		m.mallocs[0] = stats.Mallocs
	case m.to:
		runtime.ReadMemStats(&stats)
		m.mallocs[1] = stats.Mallocs
		close(m.done)
	}
	return m.rows, nil
}

func (m *steady) Hidden(context.Context, int, tensor.Matrix, func(int, []int32, []float32), moe.Judge) (tensor.Matrix, error) {
	return tensor.Matrix{}, nil
}
func (m *steady) Layers() []int   { return nil }
func (m *steady) Team() team.Team { return team.Team{} }
func (m *steady) Close() error    { return nil }

// quiet is a decoder that makes no garbage.
type quiet struct{}

func (quiet) Push(int32) string { return "x" }
func (quiet) Flush() string     { return "" }

// The decode loop allocates nothing for a token: neither scheduling, pages, samplers, deadlines, figures nor streams.
func TestNoGarbage(t *testing.T) {
	const steps = 400
	for _, n := range []int{1, 8, 32} {
		for name, p := range map[string]sampler.Params{
			"greedy":  {},
			"sampled": {Temperature: 0.8, TopK: 20, TopP: 0.95, MinP: 0.01, Seeded: true},
			"nucleus": {Temperature: 0.8, TopP: 0.95, Seeded: true},
			"all":     {Temperature: 0.8, Seeded: true},
		} {
			t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
				m := &steady{logits: tensor.NewMatrix(64, fakeVocab), from: 100, to: 100 + steps, begin: make(chan struct{}), done: make(chan struct{})}
				for i := range m.logits.Data {
					m.logits.Data[i] = float32(i*7%31) / 5
				}
				s := testSetup(newFake(8192, 16))
				s.trunk, s.context, s.decoder = m, 2048, func() decoder { return quiet{} }
				s.limits.MaxBatchSize, s.limits.MaxConcurrentRequests, s.limits.MaxBatchTokens = n, n, 512
				e := start(s)
				defer e.Close()
				var readers sync.WaitGroup
				for i := range n {
					r := plain(fmt.Sprint(i), prompt(fmt.Sprint(i), 16), 700)
					r.Sampling = p
					st, err := e.Submit(t.Context(), r)
					if err != nil {
						t.Fatal(err)
					}
					readers.Go(func() {
						for err := error(nil); err == nil; {
							_, err = st.Next(t.Context())
						}
					})
				}
				close(m.begin)
				select {
				case <-m.done:
				case <-time.After(time.Minute):
					t.Fatal("the steps did not come in a minute")
				}
				if got := m.mallocs[1] - m.mallocs[0]; got > steps/10 { // the runtime itself allocates now and then, for goroutines that wait
					t.Errorf("%d allocations in %d steps", got, steps)
				}
				readers.Wait()
			})
		}
	}
}
