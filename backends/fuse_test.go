package backends_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// bitwise are the packages that promise bits, from this folder.
var bitwise = []string{"./ref", "./cpu", "./cpu/internal/kernel", "./vec", "./internal/fma", "./int8", "./int8/internal/kernel",
	"../plugins/experts/ffn", "../plugins/routers/model", "../plugins/routers/loadaware", "../plugins/routers/attention",
	"../plugins/routers/hierarchical", "../plugins/routers/adaptive", "../plugins/routers/learned"}

// TestNothingIsFused compiles them for the targets on which Go fuses a product with an addition unless it is told not
// to, and looks for such instructions. It stands in for a machine of each kind.
func TestNothingIsFused(t *testing.T) {
	readSources(t)
	for _, target := range []struct {
		name, env    string
		fused, plain string
	}{
		{"arm64", "GOARCH=arm64", `\sFN?M(ADD|SUB)[SD]\s`, `\sFMULS\s`},
		{"amd64 v3", "GOAMD64=v3", `\sVFN?M(ADD|SUB)\d+S[SD]\s`, `\sMULSS\s`},
	} {
		t.Run(target.name, func(t *testing.T) {
			build := exec.CommandContext(t.Context(), "go", append([]string{"build", "-gcflags=-S"}, bitwise...)...)
			build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", target.env)
			listing, err := build.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %v\n%s", build, err, listing)
			}
			if !regexp.MustCompile(target.plain).Match(listing) {
				t.Fatal("the listing has no multiplication: this test sees nothing")
			}
			fused := regexp.MustCompile(target.fused)
			for line := range bytes.Lines(listing) {
				if fused.Match(line) {
					t.Errorf("fused: %s", bytes.TrimSpace(line))
				}
			}
		})
	}
}

// readSources opens all that is compiled, which tells the cache of test results what this one depends on.
func readSources(t *testing.T) {
	t.Helper()
	for _, dir := range bitwise {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has no sources (%v)", dir, err)
		}
		for _, f := range files {
			if _, err := os.ReadFile(f); err != nil {
				t.Fatal(err)
			}
		}
	}
}
