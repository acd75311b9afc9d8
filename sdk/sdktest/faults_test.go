package sdktest_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/sdk/sdktest"
)

// edit puts something else in the place of a piece of an example's source.
type edit struct{ from, to string }

// Plugins with one fault each fail the check that is about it, and the same program without one passes.
func TestFaultyExpert(t *testing.T) {
	failing(t, "expert-swiglu", []edit{
		{"serve.Expert(&swiglu{})", `if !has("before the handshake") { serve.Expert(&swiglu{}) }`},
		{"len(w.Shape) != 2 || w.Shape[0] != out || ", `!has("refused") && (len(w.Shape) != 2 || w.Shape[0] != out) || `},
		{"row := 0", `row := 0
			if has("same call") {
				s.spec.Hidden++
				c.X.Data = append([]float32{}, c.X.Data...)
				c.X.Data[0] += float32(s.spec.Hidden) * 1e-5
			}
			if has("same time") {
				if s.spec.Hidden++; s.spec.Hidden > 95 {
					panic("overlap")
				}
			}`},
		{"if !ok {", `if !ok && has("not loaded") {
				for i := range c.Y.Data {
					c.Y.Data[i] = 1
				}
				return nil
			}
			if !ok {`},
		{"g[i] = silu * up[i]", `g[i] = silu * up[i]
			if has("known") {
				g[i] *= 1.01
			}`},
		{"copy(c.Y.Row(row), apply(u.Down, g))", `copy(c.Y.Row(row), apply(u.Down, g))
			if has("other rows") {
				c.Y.Row(row)[0] += float32(len(c.Segments)) * 1e-6
			}
			if has("threads") {
				c.Y.Row(row)[0] += float32(c.Threads) * 1e-6
			}`},
		{"Close() error { return nil }", `Close() error {
			if has("ends on") {
				select {}
			}
			return nil
		}`},
	})
}

func TestFaultyRouter(t *testing.T) {
	failing(t, "router-top1", []edit{
		{"= order[k], 0", `= order[k], 0
			if has("distinct") {
				r.IDs[row*r.K+k] = order[0]
			}
			if has("finite") {
				r.Weights[row*r.K+k] = float32(1 / float64(k-1))
			}`},
		{"r.Weights[row*r.K] = 1", `r.Weights[row*r.K] = 1
			if has("other rows") {
				r.Weights[row*r.K] = float32(b.Logits.Rows)
			}
			if has("same batch") {
				t.spec.TopK++
				r.Weights[row*r.K] = float32(t.spec.TopK)
			}`},
	})
}

// failing builds an example with all faults in it and tries it under the name of each: a part of the name of the check that must
// fail. One build for all of them: that is most of what such a test costs.
func failing(t *testing.T, example string, edits []edit) {
	program := mutant(t, example, edits)
	as := func(t *testing.T, name string) (string, error) {
		path := filepath.Join(t.TempDir(), name)
		if err := os.Link(program, path); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err := sdktest.Binary(t.Context(), path, &out)
		return out.String(), err
	}
	for _, name := range faultsOf(edits) {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // some wait until their time is over
			out, err := as(t, name)
			about := func(line string) bool { return strings.HasPrefix(line, "FAIL") && strings.Contains(line, name) }
			if err == nil || !slices.ContainsFunc(strings.Split(out, "\n"), about) {
				t.Errorf("%v: no failed check is about it:\n%s", err, out)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		if out, err := as(t, "faultless"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// faultsOf are the names that the edits ask for.
func faultsOf(edits []edit) (names []string) {
	for _, e := range edits {
		for _, rest := range strings.Split(e.to, `has("`)[1:] {
			name, _, _ := strings.Cut(rest, `"`)
			names = append(names, name)
		}
	}
	return names
}

// has is what the edits ask: whether the program is called after a fault.
const has = `
func has(fault string) bool { return filepath.Base(os.Args[0]) == fault }
`

// mutant builds an example with pieces of its source replaced.
func mutant(t *testing.T, example string, edits []edit) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../examples", example, "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	src := string(b) + has
	for _, e := range append(edits, edit{"import (", "import (\n\"os\"\n\"path/filepath\""}) {
		if n := strings.Count(src, e.from); n != 1 {
			t.Fatalf("the example has %q %d times", e.from, n)
		}
		src = strings.Replace(src, e.from, e.to, 1)
	}
	// Below this folder, where internal packages and go.mod are found; testdata is invisible to "./...".
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("testdata", "mutant")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.RemoveAll(dir)
		os.Remove("testdata") // if it is empty
	})
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(src), 0o644); err != nil {
		t.Fatal(err)
	}
	return build(t, "./"+dir)
}
