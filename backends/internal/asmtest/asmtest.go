// Package asmtest holds committed assembly to the generator beside it. The kernels' tests use it; no program links it.
package asmtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Generated runs the generator in the folder _asm, with the arguments that args gives for an output folder, and expects
// the files named to be what it writes, but for their first lines if those hold the arguments.
func Generated(t *testing.T, firstLines bool, args func(out string) []string, names ...string) {
	t.Helper()
	sources, err := filepath.Glob("_asm/*.go")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no generator (%v)", err)
	}
	for _, f := range sources { // which tells the cache of test results what this depends on
		if _, err := os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	out := t.TempDir()
	run := exec.CommandContext(t.Context(), "go", append([]string{"run", "."}, args(out)...)...)
	run.Dir = "_asm"
	run.Env = append(os.Environ(), "GOWORK=off", "GOOS=", "GOARCH=", "GOFLAGS=-trimpath")
	if said, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", run, err, said)
	}
	for _, name := range names {
		want, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if !firstLines {
			_, want, _ = bytes.Cut(want, []byte("\n"))
			_, got, _ = bytes.Cut(got, []byte("\n"))
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what go generate writes (%v)", name, err)
		}
	}
}
