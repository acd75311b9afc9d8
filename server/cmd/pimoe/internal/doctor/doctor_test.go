package doctor

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func find(t *testing.T, checks []Check, name string) Check {
	t.Helper()
	for _, c := range checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %q in %v", name, checks)
	return Check{}
}

func write(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte("x"), mode); err != nil {
		t.Fatal(err)
	}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "pimoe-router-model"), 0o700)
	write(t, filepath.Join(dir, "pimoe-expert-cpu"), 0o700)
	write(t, filepath.Join(dir, "pimoe-expert-old"), 0o600)
	write(t, filepath.Join(dir, "pimoe"), 0o700)
	write(t, filepath.Join(dir, "pimoe-expert-"), 0o700)
	checks := Run(dir, filepath.Join(dir, "a", "b"), []string{"pimoe-router-model", "pimoe-expert-cpu"})
	for _, c := range checks {
		t.Logf("%-8s %-20s %s", c.Status, c.Name, c.Detail)
		if c.Detail == "" {
			t.Errorf("%s says nothing", c.Name)
		}
	}
	if Failures(checks) != 0 {
		t.Error("a check failed on a machine that runs the tests")
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); err == nil {
		t.Error("looking made a folder")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 5 {
		t.Errorf("looking left something behind: %v", entries)
	}
	if runtime.GOOS == "linux" {
		for _, name := range []string{"memfd", "memfd sealing", "futex", "pidfd"} {
			if c := find(t, checks, name); c.Status != OK {
				t.Errorf("%s: %s; the data plane's own tests run here, so this check is wrong", name, c.Detail)
			}
		}
	}
	plugins, err := Plugins(dir)
	if err != nil || len(plugins) != 3 || plugins[0].Name != "cpu" || plugins[0].Kind != "expert" || plugins[1].Executable || plugins[2].Kind != "router" {
		t.Errorf("%+v %v", plugins, err)
	}
}

func TestFailures(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "pimoe-expert-cpu"), 0o600)
	for _, c := range []struct{ needed, want string }{
		{"pimoe-router-model", "has no pimoe-router-model"},
		{"pimoe-expert-cpu", "is not executable"},
	} {
		got := find(t, Run(dir, dir, []string{c.needed}), "plugins")
		if got.Status != Failed || !strings.Contains(got.Detail, c.want) {
			t.Errorf("%s: %+v", c.needed, got)
		}
	}
	if found, err := Plugins(filepath.Join(dir, "none")); err != nil || found != nil {
		t.Errorf("a folder that is not there: %v %v", found, err)
	}
	if got := find(t, Run(dir, "/proc/1/pimoe", nil), "store"); got.Status != Failed || !strings.Contains(got.Detail, "PIMOE_HOME") {
		t.Errorf("a store that can't be written: %+v", got)
	}
}
