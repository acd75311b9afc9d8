package ffn_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/ref"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// spec has three units of layer 2 and one of layer 5, with weights of a type.
func spec(d tensor.DType, hidden, intermediate int) expert.Spec {
	s := expert.Spec{Hidden: hidden, Intermediate: intermediate, Activation: "silu"}
	for i, u := range []expert.Unit{{Layer: 2, Expert: 0}, {Layer: 2, Expert: 3}, {Layer: 2, Expert: 4}, {Layer: 5, Expert: 3}} {
		seed := uint64(i) << 32
		w := []tensor.View{generated([]int{intermediate, hidden}, seed), generated([]int{intermediate, hidden}, seed+1<<30),
			generated([]int{hidden, intermediate}, seed+2<<30)}
		if d != tensor.F32 {
			for j := range w {
				w[j] = halved(w[j], d)
			}
		}
		s.Units = append(s.Units, expert.UnitWeights{Unit: u, Gate: w[0], Up: w[1], Down: w[2]})
	}
	return s
}

func input(rows, cols int) tensor.Matrix {
	v := generated([]int{rows, cols}, 99<<40)
	x := tensor.NewMatrix(rows, cols)
	for i := range x.Data {
		bits := uint32(v.Data[4*i]) | uint32(v.Data[4*i+1])<<8 | uint32(v.Data[4*i+2])<<16 | uint32(v.Data[4*i+3])<<24
		x.Data[i] = 16 * math.Float32frombits(bits)
	}
	return x
}

// TestBits: a row has the same bits alone, in any batch, on any number of threads, on either backend.
func TestBits(t *testing.T) {
	const hidden, intermediate = 120, 88
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		t.Run(d.String(), func(t *testing.T) {
			s := spec(d, hidden, intermediate)
			oracle, fast := loaded(t, ref.New(), s), loaded(t, cpu.New(), s)
			for _, rows := range [][]int{{1}, {1, 1, 1}, {2, 0, 5}, {40, 1, 3}, {0, 130, 0}, {90, 91, 92}} {
				call := batch(rows, hidden)
				want := alone(t, oracle, call)
				for _, threads := range []int{0, 1, 2, 3, 8} {
					call.Threads = threads
					for i := range call.Y.Data {
						call.Y.Data[i] = float32(math.NaN())
					}
					if err := fast.Forward(t.Context(), call); err != nil {
						t.Fatal(err)
					}
					for r := range want.Rows {
						if !slices.Equal(call.Y.Row(r), want.Row(r)) {
							t.Fatalf("rows %v, %d threads: row %d differs from the row alone on ref", rows, threads, r)
						}
					}
				}
			}
		})
	}
}

// batch is a call of layer 2 with so many rows for experts 0, 3 and 4, in matrices with gaps between the rows.
func batch(rows []int, hidden int) *expert.Call {
	call := &expert.Call{Layer: 2, Threads: 1}
	n := 0
	for i, e := range []int{0, 3, 4}[:len(rows)] {
		if rows[i] > 0 {
			call.Segments = append(call.Segments, expert.Segment{Expert: e, Rows: rows[i]})
		}
		n += rows[i]
	}
	x, y := input(n, hidden+5), tensor.NewMatrix(n, hidden+2)
	x.Cols, y.Cols = hidden, hidden
	call.X, call.Y = x, y
	return call
}

// alone computes every row of a call by a call of its own.
func alone(t *testing.T, e *ffn.Expert, call *expert.Call) tensor.Matrix {
	t.Helper()
	y, r := tensor.NewMatrix(call.X.Rows, call.X.Cols), 0
	for _, s := range call.Segments {
		for range s.Rows {
			one := &expert.Call{Layer: call.Layer, Threads: 1, Segments: []expert.Segment{{Expert: s.Expert, Rows: 1}},
				X: call.X.Slice(r, r+1), Y: y.Slice(r, r+1)}
			if err := e.Forward(t.Context(), one); err != nil {
				t.Fatal(err)
			}
			r++
		}
	}
	return y
}

// TestConcurrent calls one expert from several goroutines, which share its scratch memory.
func TestConcurrent(t *testing.T) {
	const hidden = 96
	e := loaded(t, cpu.New(), spec(tensor.BF16, hidden, 80))
	var wg sync.WaitGroup
	for g := range 4 {
		call := batch([]int{1 + g, 20 * g, 2}, hidden)
		want := alone(t, e, call)
		wg.Go(func() {
			for range 10 {
				if err := e.Forward(context.Background(), call); err != nil {
					t.Error(err)
				}
				for r := range want.Rows {
					if !slices.Equal(call.Y.Row(r), want.Row(r)) {
						t.Errorf("goroutine %d: row %d differs", g, r)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestInfo(t *testing.T) {
	for d, class := range map[tensor.DType]string{tensor.F32: "f32", tensor.BF16: "bf16w-f32", tensor.F16: "f16w-f32"} {
		s := spec(d, 8, 6)
		for _, asked := range []string{"", "auto", class} {
			s.NumericClass = asked
			e := loaded(t, cpu.New(), s)
			if info := e.Info(); info.Name != "cpu" || info.Kind != sdk.KindExpert || info.NumericClass != class {
				t.Errorf("asked %q for %v weights: info %+v", asked, d, info)
			}
		}
	}
	if info := ffn.New(ref.New(), ffn.Options{Name: "own", Version: "2"}).Info(); info.Name != "own" || info.Version != "2" || info.NumericClass != "" {
		t.Errorf("before Load: %+v", info)
	}
}

// TestLoadRefuses: each wrong spec has its class, and a message that names what is wrong.
func TestLoadRefuses(t *testing.T) {
	other := spec(tensor.BF16, 8, 6)
	for name, c := range map[string]struct {
		change func(s *expert.Spec)
		class  error
		says   string
	}{
		"no hidden":       {func(s *expert.Spec) { s.Hidden = 0 }, sdk.ErrInvalid, "hidden 0"},
		"no intermediate": {func(s *expert.Spec) { s.Intermediate = -1 }, sdk.ErrInvalid, "intermediate -1"},
		"no units":        {func(s *expert.Spec) { s.Units = nil }, sdk.ErrInvalid, "no units"},
		"activation":      {func(s *expert.Spec) { s.Activation = "relu" }, sdk.ErrUnsupported, `"relu"`},
		"parameter":       {func(s *expert.Spec) { s.Params = map[string]string{"speed": "9"} }, sdk.ErrInvalid, `"speed"`},
		"twice":           {func(s *expert.Spec) { s.Units = append(s.Units, s.Units[1]) }, sdk.ErrInvalid, "layer 2 expert 3 is given twice"},
		"gate transposed": {func(s *expert.Spec) { s.Units[1].Gate.Shape = []int{8, 6} }, sdk.ErrInvalid, "layer 2 expert 3: gate has shape [8 6]"},
		"up flat":         {func(s *expert.Spec) { s.Units[3].Up.Shape = []int{48} }, sdk.ErrInvalid, "layer 5 expert 3: up has shape [48]"},
		"down missing":    {func(s *expert.Spec) { s.Units[0].Down = tensor.View{DType: tensor.F32} }, sdk.ErrInvalid, "layer 2 expert 0: down"},
		"short bytes":     {func(s *expert.Spec) { s.Units[2].Down.Data = s.Units[2].Down.Data[4:] }, sdk.ErrInvalid, "layer 2 expert 4: down"},
		"integers":        {func(s *expert.Spec) { s.Units[2].Up.DType = tensor.I32 }, sdk.ErrUnsupported, "layer 2 expert 4: up"},
		"mixed units":     {func(s *expert.Spec) { s.Units[3] = other.Units[3] }, sdk.ErrInvalid, "layer 5 expert 3: gate is of class bf16w-f32"},
		"mixed tensors":   {func(s *expert.Spec) { s.Units[3].Down = other.Units[3].Down }, sdk.ErrInvalid, "layer 5 expert 3: down is of class bf16w-f32"},
		"class":           {func(s *expert.Spec) { s.NumericClass = "int8g32" }, sdk.ErrUnsupported, "int8g32"},
	} {
		t.Run(name, func(t *testing.T) {
			s := spec(tensor.F32, 8, 6)
			c.change(&s)
			e := ffn.New(cpu.New(), ffn.Options{})
			err := e.Load(t.Context(), s)
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Load: %v, want %v saying %q", err, c.class, c.says)
			}
			if class := e.Info().NumericClass; class != "" {
				t.Errorf("numeric class %q after a failed Load", class)
			}
			if err := e.Close(); err != nil {
				t.Errorf("Close after a failed Load: %v", err)
			}
		})
	}
}

// TestForwardRefuses: wrong calls are errors, never panics, and leave Y alone.
func TestForwardRefuses(t *testing.T) {
	const hidden = 8
	e := loaded(t, cpu.New(), spec(tensor.F32, hidden, 6))
	for name, c := range map[string]struct {
		change func(c *expert.Call)
		says   string
	}{
		"layer":         {func(c *expert.Call) { c.Layer = 4 }, "layer 4"},
		"expert":        {func(c *expert.Call) { c.Segments[1].Expert = 5 }, "expert 5"},
		"other layer's": {func(c *expert.Call) { c.Layer = 5 }, "expert 0"},
		"empty segment": {func(c *expert.Call) { c.Segments[0].Rows = 0 }, "0 rows"},
		"negative":      {func(c *expert.Call) { c.Segments[0].Rows = -3 }, "-3 rows"},
		"too many rows": {func(c *expert.Call) { c.Segments[1].Rows = math.MaxInt }, "segment 1"},
		"too few rows":  {func(c *expert.Call) { c.Segments[1].Rows-- }, "X 5"},
		"descending":    {func(c *expert.Call) { slices.Reverse(c.Segments) }, "follows"},
		"repeated":      {func(c *expert.Call) { c.Segments[1].Expert = 0 }, "follows"},
		"no segments":   {func(c *expert.Call) { c.Segments = nil }, "0 rows"},
		"narrow X":      {func(c *expert.Call) { c.X = input(5, hidden-1) }, "X is 5x7"},
		"narrow Y":      {func(c *expert.Call) { c.Y = tensor.NewMatrix(5, hidden-1) }, "Y is 5x7"},
		"rows of Y":     {func(c *expert.Call) { c.Y = tensor.NewMatrix(4, hidden) }, "Y is 4x8"},
		"short X":       {func(c *expert.Call) { c.X.Data = c.X.Data[:20] }, "20 values"},
	} {
		t.Run(name, func(t *testing.T) {
			call := batch([]int{3, 2}, hidden)
			c.change(call)
			err := e.Forward(t.Context(), call)
			if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Forward: %v, want sdk.ErrInvalid saying %q", err, c.says)
			}
			if i := slices.IndexFunc(call.Y.Data, func(v float32) bool { return v != 0 }); i >= 0 {
				t.Errorf("Y[%d] was written", i)
			}
		})
	}
}

func TestLife(t *testing.T) {
	e := ffn.New(cpu.New(), ffn.Options{})
	call := batch([]int{1}, 8)
	if err := e.Forward(t.Context(), call); !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("Forward before Load: %v", err)
	}
	s := spec(tensor.F32, 8, 6)
	if err := e.Load(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := e.Load(t.Context(), s); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("second Load: %v", err)
	}
	if err := e.Forward(t.Context(), call); err != nil {
		t.Error(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := e.Forward(t.Context(), call); !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("Forward after Close: %v", err)
	}
}

// stopping cancels a context after a number of blocks.
type stopping struct {
	backends.Backend
	after  int
	cancel func()
	mu     *sync.Mutex
	done   *int
}

type stoppingFFN struct {
	backends.FFN
	s stopping
}

func (s stopping) FFN(class, activation string, gate, up, down tensor.View) (backends.FFN, error) {
	f, err := s.Backend.FFN(class, activation, gate, up, down)
	return stoppingFFN{f, s}, err
}

func (f stoppingFFN) Apply(y, x tensor.Matrix, t team.Team) {
	f.FFN.Apply(y, x, t)
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if *f.s.done++; *f.s.done == f.s.after {
		f.s.cancel()
	}
}

// TestCancel: once the context is done, no further piece is begun.
func TestCancel(t *testing.T) {
	const hidden = 96
	for after := range 4 { // there are three segments
		t.Run(fmt.Sprintf("after %d", after), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if after == 0 {
				cancel()
			}
			be := stopping{cpu.New(), after, cancel, new(sync.Mutex), new(int)}
			e := loaded(t, be, spec(tensor.F32, hidden, 80))
			call := batch([]int{20, 20, 20}, hidden)
			call.Threads = 2
			err := e.Forward(ctx, call)
			if all := *be.done == 3; all != (err == nil) || !all && !errors.Is(err, context.Canceled) {
				t.Errorf("after %d pieces: %v", *be.done, err)
			}
			if *be.done != after {
				t.Errorf("%d pieces were computed, want %d", *be.done, after)
			}
		})
	}
}

// BenchmarkForward is the shape of a small model, one row for each of two experts, and the same with many rows.
func BenchmarkForward(b *testing.B) {
	types := map[string]tensor.DType{"F32": tensor.F32, "BF16": tensor.BF16}
	for _, name := range slices.Sorted(maps.Keys(types)) {
		for _, shape := range [][2]int{{256, 192}, {512, 1024}} {
			e := loaded(b, cpu.New(), spec(types[name], shape[0], shape[1]))
			for _, rows := range []int{1, 16, 128} {
				for _, threads := range []int{1, 2} {
					b.Run(fmt.Sprintf("%s/%dx%d/rows=2x%d/threads=%d", name, shape[0], shape[1], rows, threads), func(b *testing.B) {
						call := batch([]int{rows, rows}, shape[0])
						call.Threads = threads
						for b.Loop() {
							if err := e.Forward(context.Background(), call); err != nil {
								b.Fatal(err)
							}
						}
						flops := 2 * 3 * 2 * float64(rows*shape[0]*shape[1])
						b.ReportMetric(flops*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
					})
				}
			}
		}
	}
}
