package coretest

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var built struct {
	once sync.Once
	dir  string
	err  error
	out  []byte
}

// RemoveBinaries deletes what Binaries has built. A package that calls Binaries calls it at the end of its TestMain.
func RemoveBinaries() {
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
}

// Binaries is a folder with the host `pimoe` and the plugins, as `make build` makes it: PIMOE_BIN if that is set, else
// built once for the test process.
func Binaries(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("PIMOE_BIN"); dir != "" {
		return existing(t, dir)
	}
	repo := Repo(t)
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "pimoe-bin-"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", built.dir+string(filepath.Separator), "./server/cmd/...", "./plugins/cmd/...")
		cmd.Dir = repo
		if built.out, built.err = cmd.CombinedOutput(); built.err == nil {
			built.out, built.err = exec.Command(filepath.Join(built.dir, "pimoe"), "plugins", "pin").CombinedOutput()
		}
	})
	if built.err != nil {
		t.Fatalf("build the binaries: %v\n%s", built.err, built.out)
	}
	return built.dir
}
