package sdktest_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/sdk/sdktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func build(t *testing.T, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-o", out, pkg)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, b)
	}
	return out
}

func TestBinaryPasses(t *testing.T) {
	for pkg, lines := range map[string]int{"../examples/expert-swiglu": 27, "../examples/router-top1": 23} {
		var out bytes.Buffer
		if err := sdktest.Binary(t.Context(), build(t, pkg), &out); err != nil {
			t.Errorf("%v\n%s", err, out.String())
		}
		if got := strings.Count(out.String(), "\nok "); got != lines-1 || strings.Contains(out.String(), "FAIL") {
			t.Errorf("%s: %d lines, want %d:\n%s", pkg, got+1, lines, out.String())
		}
	}
}

// Experts with one fault each fail the check that is about it, and no program at all is told as such.
func TestBinaryFails(t *testing.T) {
	for name, fault := range map[string][2]string{
		"other rows":           {"copy(c.Y.Row(row), apply(u.Down, g))", "copy(c.Y.Row(row), apply(u.Down, g)); c.Y.Row(row)[0] += float32(len(c.Segments)) * 1e-6"},
		"threads":              {"copy(c.Y.Row(row), apply(u.Down, g))", "copy(c.Y.Row(row), apply(u.Down, g)); c.Y.Row(row)[0] += float32(c.Threads) * 1e-6"},
		"known":                {"silu * up[i]", "silu * up[i] * 1.01"},
		"refused":              {"len(w.Shape) != 2 || w.Shape[0] != out || ", ""},
		"same call":            {"row := 0", "row := 0; s.spec.Hidden++; c.X.Data = append([]float32{}, c.X.Data...); c.X.Data[0] += float32(s.spec.Hidden) * 1e-5"},
		"not loaded":           {"if !ok {", "if !ok { for i := range c.Y.Data { c.Y.Data[i] = 1 }; return nil }; if !ok {"},
		"same time":            {"row := 0", "if s.spec.Hidden++; s.spec.Hidden > 95 { panic(\"overlap\") }; row := 0"},
		"ends on":              {"Close() error { return nil }", "Close() error { select {} }"},
		"before the handshake": {"serve.Expert(&swiglu{})", ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := mutant(t, "expert-swiglu", fault[0], fault[1])
			var out bytes.Buffer
			err := sdktest.Binary(t.Context(), path, &out)
			if err == nil {
				t.Fatalf("passes:\n%s", out.String())
			}
			for line := range strings.Lines(out.String()) {
				if strings.HasPrefix(line, "FAIL") && strings.Contains(line, name) {
					return
				}
			}
			t.Errorf("no failed check is about %q:\n%s", name, out.String())
		})
	}
	var out bytes.Buffer
	if err := sdktest.Binary(t.Context(), "/nowhere", &out); err == nil || !strings.Contains(out.String(), "there is no such file") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// mutant builds the example with a piece of its source replaced.
func mutant(t *testing.T, example, from, to string) string {
	t.Helper()
	src, err := os.ReadFile(filepath.Join("../examples", example, "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(src, []byte(from)) {
		t.Fatalf("the example has no %q", from)
	}
	s := strings.Replace(string(src), from, to, 1)
	if !strings.Contains(s, "serve.Expert") && !strings.Contains(s, "serve.Router") {
		s = strings.Replace(s, `"github.com/pimoe/pimoe/sdk/serve"`, `_ "github.com/pimoe/pimoe/sdk/serve"`, 1)
	}
	// Below this folder, where internal packages and go.mod are found; testdata is invisible to "./...".
	dir, err := os.MkdirTemp(mkdirAll(t, "testdata"), "mutant")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.RemoveAll(dir)
		os.Remove("testdata") // if it is empty
	})
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(s), 0o644); err != nil {
		t.Fatal(err)
	}
	return build(t, "./"+dir)
}

func mkdirAll(t *testing.T, dir string) string {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
