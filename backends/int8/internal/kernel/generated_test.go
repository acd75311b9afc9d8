package kernel_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestGenerated: the committed kernels are what the generator makes.
func TestGenerated(t *testing.T) {
	if _, err := os.ReadFile("_asm/main.go"); err != nil { // which tells the cache of test results what this depends on
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := exec.CommandContext(t.Context(), "go", "run", ".", "-dir", dir)
	run.Dir = "_asm"
	run.Env = append(os.Environ(), "GOWORK=off", "GOOS=", "GOARCH=", "GOFLAGS=")
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"tile_avx2_amd64.s", "tile_vnni_amd64.s"} {
		made, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if committed, err := os.ReadFile(name); err != nil || !bytes.Equal(committed, made) {
			t.Errorf("%s is not what the generator makes (%v): go generate", name, err)
		}
	}
}
