package acceptance

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// golden is what transformers computed from a checkpoint's very files.
type golden struct {
	Tolerance struct {
		Logits  float64 `json:"logits_abs"`
		Weights float64 `json:"topk_weights_abs"`
		NLL     float64 `json:"mean_nll_abs"`
	} `json:"tolerance"`
	Sequences []struct {
		Length int      `json:"length"`
		NLL    *float64 `json:"mean_nll"`
	} `json:"sequences"`
}

// TestGolden runs every golden checkpoint through `pimoe eval`, isolated and in one process, and holds logits, routes,
// greedy tokens and likelihoods against the reference.
func TestGolden(t *testing.T) {
	models, err := os.ReadDir(coretest.Golden(t, "models"))
	if err != nil {
		t.Fatal(err)
	}
	store := home(t)
	for _, m := range models {
		for _, isolation := range []string{"process", "inproc"} {
			t.Run(m.Name()+"/"+isolation, func(t *testing.T) {
				checkGolden(t, coretest.Golden(t, "models", m.Name()), store, isolation)
			})
		}
	}
}

func checkGolden(t *testing.T, dir, store, isolation string) {
	var g golden
	coretest.ReadJSON(t, filepath.Join(dir, "golden.json"), &g)
	ref, err := weights.Read(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	var ids [][]int32
	for _, s := range g.Sequences {
		ids = append(ids, values[int32](t, ref, fmt.Sprintf("seq%d.input_ids", s.Length)))
	}
	got, out := eval(t, dir, store, isolation, ids)
	for n, s := range g.Sequences {
		prefix := fmt.Sprintf("seq%d.", s.Length)
		want := values[int32](t, ref, prefix+"greedy_ids")
		if !slices.Equal(got[n].Greedy, want) {
			t.Errorf("%sgreedy: %v, want %v", prefix, got[n].Greedy, want)
		}
		if (s.NLL == nil) != (got[n].NLL == nil) || s.NLL != nil && math.Abs(*s.NLL-*got[n].NLL) > g.Tolerance.NLL {
			t.Errorf("%snll_mean: %v, want %v", prefix, got[n].NLL, s.NLL)
		}
		logits := values[float32](t, out, fmt.Sprintf("logits.%d", n))
		name := prefix + "logits"
		if s.Length == 130 {
			name = prefix + "logits_last"
			logits = logits[len(logits)/s.Length*(s.Length-1):]
		}
		near(t, name, logits, values[float32](t, ref, name), g.Tolerance.Logits)
		for l := 0; l < 8; l++ {
			if _, ok := ref.Tensor(fmt.Sprintf("%slayer%d.topk_ids", prefix, l)); ok {
				checkRoutes(t, out, ref, fmt.Sprintf("routes.%d.%d.", n, l), fmt.Sprintf("%slayer%d.topk_", prefix, l), s.Length, g.Tolerance.Weights)
			}
		}
	}
}

// checkRoutes compares each token's experts as a set of pairs.
func checkRoutes(t *testing.T, out, ref *weights.File, got, want string, rows int, tolerance float64) {
	t.Helper()
	gi, gw := values[int32](t, out, got+"ids"), values[float32](t, out, got+"weights")
	wi, ww := values[int32](t, ref, want+"ids"), values[float32](t, ref, want+"weights")
	if len(gi) != len(wi) || len(gw) != len(ww) {
		t.Fatalf("%s: %d ids and %d weights, want %d and %d", got, len(gi), len(gw), len(wi), len(ww))
	}
	k := len(wi) / rows
	for r := range rows {
		pairs := map[int32]float32{}
		for j := r * k; j < (r+1)*k; j++ {
			pairs[wi[j]] = ww[j]
		}
		for j := r * k; j < (r+1)*k; j++ {
			w, ok := pairs[gi[j]]
			if !ok || math.Abs(float64(w-gw[j])) > tolerance {
				t.Fatalf("%srow %d: expert %d with weight %v, want %v", got, r, gi[j], gw[j], pairs)
			}
		}
	}
}

type evaluated struct {
	NLL    *float64 `json:"nll_mean"`
	Greedy []int32  `json:"greedy"`
}

// eval runs the command as a script would, with more variables.
func eval(t *testing.T, dir, store, isolation string, ids [][]int32, env ...string) ([]evaluated, *weights.File) {
	t.Helper()
	tmp := t.TempDir()
	in, out := filepath.Join(tmp, "ids.json"), filepath.Join(tmp, "out.safetensors")
	b, err := json.Marshal(ids)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(in, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(coretest.Binaries(t), "pimoe"), "eval", "-m", dir, "--ids-file", in,
		"--logits", out, "--routes", "--greedy", "32", "-o", "json", "--isolation", isolation)
	cmd.Env = append(append(os.Environ(), "PIMOE_HOME="+store), env...)
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("pimoe eval: %v\n%s", err, stderr(err))
	}
	var got []evaluated
	if err := json.Unmarshal(stdout, &got); err != nil {
		t.Fatalf("pimoe eval printed %q: %v", stdout, err)
	}
	if len(got) != len(ids) {
		t.Fatalf("%d results for %d sequences", len(got), len(ids))
	}
	f, err := weights.Read(out)
	if err != nil {
		t.Fatal(err)
	}
	return got, f
}

func stderr(err error) string {
	if e, ok := err.(*exec.ExitError); ok {
		return string(e.Stderr)
	}
	return ""
}

// values copies a tensor out of a file.
func values[T int32 | float32](t *testing.T, f *weights.File, name string) []T {
	t.Helper()
	v, ok := f.Tensor(name)
	if !ok {
		t.Fatalf("no tensor %s", name)
	}
	var zero T
	if want := map[bool]tensor.DType{true: tensor.F32, false: tensor.I32}[any(zero) == any(float32(0))]; v.DType != want {
		t.Fatalf("tensor %s is %v, want %v", name, v.DType, want)
	}
	out := make([]T, v.Elems())
	if len(out) > 0 {
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&out[0])), 4*len(out)), v.Data)
	}
	return out
}

func near(t *testing.T, name string, got, want []float32, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", name, len(got), len(want))
	}
	for i := range want {
		if !(math.Abs(float64(got[i])-float64(want[i])) <= tolerance) {
			t.Fatalf("%s[%d] = %v, want %v within %v", name, i, got[i], want[i], tolerance)
		}
	}
}
