package host_test

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/spans"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// told is a Step, a Layer and all Spans in one that keeps what it is told.
type told struct {
	mu       sync.Mutex
	layers   []int
	ended    int
	calls    []spans.Call
	outcomes map[int]spans.Outcome // by call
	begun    map[int]time.Time
}

func (r *told) Layer(n, _ int) spans.Layer {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.layers = append(r.layers, n)
	return r
}

func (r *told) Call(c spans.Call) spans.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, c)
	r.begun[len(r.calls)-1] = time.Now()
	return &toldCall{r, len(r.calls) - 1}
}

func (r *told) End(error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended++
}

type toldCall struct {
	r *told
	n int
}

func (c *toldCall) ID() ([16]byte, [8]byte) { return [16]byte{1, 2}, [8]byte{3} }

func (c *toldCall) End(o spans.Outcome) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if _, twice := c.r.outcomes[c.n]; twice {
		o.Dropped = true // shows as an error
	}
	c.r.outcomes[c.n] = o
}

func newTold() *told {
	return &told{outcomes: map[int]spans.Outcome{}, begun: map[int]time.Time{}}
}

// followedBusy is how long the workers of these tests compute.
const followedBusy = 100 * time.Millisecond

func TestFollow(t *testing.T) {
	h := startWorkers(t, followedBusy)
	t.Run("layers", func(t *testing.T) { layersAreFollowed(t, h) })
	t.Run("attempts", func(t *testing.T) { attemptsAreFollowed(t, h) })
}

// A layer that somebody follows tells of the router's call and of each expert's, with the times that the processes say; the same
// layer for nobody tells nothing.
func layersAreFollowed(t *testing.T, h *host.Host) {
	place := make([]int, benchExperts)
	for e := range place {
		place[e] = e
	}
	layer := moe.New(h.Router(), benchTopK, benchExperts, moe.Placement{0: place}, h.Groups(), benchHidden, twoThreads(t))
	in := moe.Input{X: tensor.NewMatrix(1, benchHidden), Logits: tensor.NewMatrix(1, benchExperts), Tokens: make([]int32, 1), Positions: make([]int32, 1)}
	in.Logits.Data[2], in.Logits.Data[5] = 2, 1
	y := tensor.NewMatrix(1, benchHidden)
	r := newTold()
	for _, ctx := range []context.Context{t.Context(), spans.WithStep(t.Context(), r), t.Context()} {
		if err := layer.Forward(ctx, in, y); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.layers) != 1 || r.ended != 1 || len(r.calls) != 3 || len(r.outcomes) != 3 {
		t.Fatalf("%+v", r)
	}
	pids := map[string]int{"model": h.RouterStatus().PID}
	for _, st := range h.Status() {
		pids[st.Group] = st.PID
	}
	seen := map[string]bool{}
	for n, c := range r.calls {
		o := r.outcomes[n]
		seen[c.Group] = true
		if c.PID != pids[c.Group] || c.PID == 0 || c.Attempt != 1 || c.Hedge || c.Rows != 1 || c.Router != (c.Group == "model") || o.Err != nil || o.Dropped {
			t.Errorf("call %+v ended as %+v", c, o)
		}
		if o.Began.Before(r.begun[n].Add(-time.Millisecond)) || o.Took <= 0 || !c.Router && o.Took < followedBusy || time.Until(o.Began.Add(o.Took)) > 0 {
			t.Errorf("call of %s at %v computed from %v for %v", c.Group, r.begun[n], o.Began, o.Took)
		}
	}
	if !seen["e2"] || !seen["e5"] || !seen["model"] {
		t.Errorf("calls of %v", seen)
	}
}

// A call whose process dies has a span for each attempt.
func attemptsAreFollowed(t *testing.T, h *host.Host) {
	g := h.Groups()[0]
	r := newTold()
	call := &expert.Call{
		Threads: 1, Segments: []expert.Segment{{Expert: 0, Rows: 1}}, X: tensor.NewMatrix(1, benchHidden), Y: tensor.NewMatrix(1, benchHidden),
	}
	pid := h.Status()[0].PID // before: to ask for it takes its time
	p := g.Start(spans.WithLayer(t.Context(), r), call)
	if s, ok := p.(moe.Sleeper); ok {
		s.Wake(true)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(r.calls) != 2 || r.calls[0].Attempt != 1 || r.calls[1].Attempt != 2 || r.calls[0].PID == r.calls[1].PID {
		t.Fatalf("%+v", r.calls)
	}
	if first, second := r.outcomes[0], r.outcomes[1]; first.Err == nil || !first.Began.IsZero() || second.Err != nil || second.Took < followedBusy {
		t.Errorf("%+v, then %+v", first, second)
	}
}

// BenchmarkFollow is a round trip that nobody follows, beside one that somebody does.
func BenchmarkFollow(b *testing.B) {
	g := startWorkers(b, 0).Groups()[0]
	call := &expert.Call{
		Threads: 1, Segments: []expert.Segment{{Expert: 0, Rows: 1}}, X: tensor.NewMatrix(1, benchHidden), Y: tensor.NewMatrix(1, benchHidden),
	}
	for name, ctx := range map[string]context.Context{"nobody": b.Context(), "somebody": spans.WithLayer(b.Context(), silent{})} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := g.Start(ctx, call).Wait(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// silent follows and keeps nothing.
type silent struct{}

func (silent) Call(spans.Call) spans.Span { return silentCall{} }
func (silent) End(error)                  {}

type silentCall struct{}

func (silentCall) ID() ([16]byte, [8]byte) { return [16]byte{1}, [8]byte{1} }
func (silentCall) End(spans.Outcome)       {}
