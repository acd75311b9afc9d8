package kernels

import (
	"context"
	"errors"
	"math"
	"os"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/ref"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

func options(t *testing.T) Options {
	return Options{Backends: []backends.Backend{cpu.New()}, Threads: 2, Dir: t.TempDir(), Time: time.Millisecond, In: 64, Out: 48, Many: 16, Memory: 1 << 18}
}

// TestRun: every float class is measured at every number of rows and threads against the limit that binds it.
func TestRun(t *testing.T) {
	o := options(t)
	got, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	type key struct {
		kernel, class string
		rows, threads int
	}
	seen := map[key]bool{}
	for _, r := range got {
		seen[key{r.Kernel, r.Class, r.Rows, r.Threads}] = true
		if r.GFLOPS <= 0 || r.GBS <= 0 || r.Best <= 0 || r.Share <= 0 || r.Backend != "cpu" {
			t.Errorf("%+v", r)
		}
		size := map[string]float64{"f32": 4, "bf16w-f32": 2, "f16w-f32": 2}[r.Class]
		if want := r.GBS * 2 * float64(r.Rows) / size; size > 0 && math.Abs(r.GFLOPS/want-1) > 1e-9 {
			t.Errorf("%+v: %g GB/s of weights are %g GFLOP/s", r, r.GBS, want)
		}
	}
	for _, class := range []string{"f32", "bf16w-f32", "f16w-f32"} {
		for _, k := range []key{{"linear", class, 1, 1}, {"ffn", class, 8, 2}, {"linear", class, 16, 2}} {
			if !seen[k] {
				t.Errorf("not measured: %+v", k)
			}
		}
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestCompare: the limit that leaves less room is the one that counts.
func TestCompare(t *testing.T) {
	best := bounds{{"fma", 2}: 100, {"read", 2}: 10}
	few, many := Result{GFLOPS: 10, GBS: 9, Threads: 2, Limit: "fma"}, Result{GFLOPS: 80, GBS: 1, Threads: 2, Limit: "fma"}
	few.compare(best)
	many.compare(best)
	if few.Limit != "read" || few.Share != .9 || few.Best != 10 || many.Limit != "fma" || many.Share != .8 || many.Best != 100 {
		t.Errorf("%+v %+v", few, many)
	}
}

func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, options(t)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestRandom: the weights that are timed are finite and small, in every type.
func TestRandom(t *testing.T) {
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		class, err := ref.New().Class(d, "")
		if err != nil {
			t.Fatal(err)
		}
		l, err := ref.New().Linear(class, random(d, []int{4, 8}), tensor.View{})
		if err != nil {
			t.Fatal(err)
		}
		x := tensor.Matrix{Rows: 1, Cols: 8, Stride: 8, Data: []float32{0, 0, 1, 0, 0, 0, 0, 0}}
		y := tensor.Matrix{Rows: 1, Cols: 4, Stride: 4, Data: make([]float32, 4)}
		l.Apply(y, x, team.Team{})
		for _, v := range y.Data {
			if a := math.Abs(float64(v)); !(a > 1e-4 && a < 0.2) {
				t.Errorf("%v: a weight of %g", d, v)
			}
		}
	}
}
