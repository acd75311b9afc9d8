package vec

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestGenerated: what is committed is what the generator writes, but for the first line, which has its arguments.
func TestGenerated(t *testing.T) {
	sources, err := filepath.Glob("_asm/*.go")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no generator (%v)", err)
	}
	for _, f := range sources { // which tells the cache of test results what this depends on
		if _, err := os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	generator := func(args ...string) ([]byte, error) {
		run := exec.CommandContext(t.Context(), "go", args...)
		run.Dir = "_asm"
		run.Env = append(os.Environ(), "GOWORK=off", "GOOS=", "GOARCH=", "GOFLAGS=")
		return run.CombinedOutput()
	}
	if said, err := generator("mod", "download"); err != nil {
		t.Skipf("the assembler that the generator uses is not to be had here: %v\n%s", err, said)
	}
	out := t.TempDir()
	names := []string{"kernels_amd64.s", "stubs_amd64.go"}
	if said, err := generator("run", ".", "-out", filepath.Join(out, names[0]), "-stubs", filepath.Join(out, names[1]), "-pkg", "vec"); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for _, name := range names {
		want, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		_, want, _ = bytes.Cut(want, []byte("\n"))
		_, got, _ = bytes.Cut(got, []byte("\n"))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what go generate writes (%v)", name, err)
		}
	}
}
