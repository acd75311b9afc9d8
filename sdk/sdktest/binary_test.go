package sdktest_test

import (
	"bytes"
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

// No program at all is told as such.
func TestBinaryMissing(t *testing.T) {
	var out bytes.Buffer
	if err := sdktest.Binary(t.Context(), "/nowhere", &out); err == nil || !strings.Contains(out.String(), "there is no such file") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
