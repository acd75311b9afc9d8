package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCheck: a name that one system lacks is an error there alone, in a test, too.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":         "module m\n\ngo 1.26.0\n",
		"a.go":           "package m\n\nfunc F() int { return only }\n",
		"a_linux.go":     "package m\n\nconst only = 1\n",
		"a_darwin.go":    "package m\n\nconst only = 2\n",
		"a_test.go":      "package m\n\nvar _ = tested\n",
		"b_test.go":      "//go:build !arm64\n\npackage m\n\nconst tested = 1\n",
		"below/b.go":     "package below\n\nimport \"m\"\n\nvar B = m.F()\n",
		"below/other.go": "//go:build windows\n\npackage below\n\nvar B = 1\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for target, want := range map[[2]string]bool{{"linux", "amd64"}: true, {"darwin", "amd64"}: true, {"linux", "arm64"}: false, {"freebsd", "amd64"}: false, {"windows", "amd64"}: false} {
		n, bad, err := check(dir, target[0], target[1])
		if err != nil || n < 2 || (bad == 0) != want {
			t.Errorf("%v: %d packages, %d errors, %v", target, n, bad, err)
		}
	}
	if _, _, err := check(dir, "linux", "nonsense"); err == nil {
		t.Error("no error for an architecture that there is not")
	}
}
