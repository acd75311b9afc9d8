package kernel_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestGenerated: what is committed is what the generator writes.
func TestGenerated(t *testing.T) {
	if _, err := os.ReadFile("_asm/main.go"); err != nil { // which tells the cache of test results what this depends on
		t.Fatal(err)
	}
	out := t.TempDir()
	run := exec.CommandContext(t.Context(), "go", "run", ".", "-out", out)
	run.Dir = "_asm"
	run.Env = append(os.Environ(), "GOWORK=off", "GOOS=", "GOARCH=", "GOFLAGS=")
	if said, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", run, err, said)
	}
	files, err := filepath.Glob(filepath.Join(out, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the generator wrote nothing (%v)", err)
	}
	for _, f := range files {
		want, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Base(f))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what go generate writes (%v)", filepath.Base(f), err)
		}
	}
}
