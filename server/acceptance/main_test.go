package acceptance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
)

func TestMain(m *testing.M) {
	os.Setenv("PIMOE_CACHE__ANSWERS", "off") // they compare what is computed; who tests the cache turns it on
	drop, err := ownBinaries()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	drop()
	os.RemoveAll(built.dir)
	coretest.RemoveBinaries()
	os.Exit(code)
}

// ownBinaries gives these tests a folder of their own with the executables in PIMOE_BIN. Other packages start the same ones at
// the same time, and these tests count and kill what runs out of their folder: see children.
func ownBinaries() (drop func(), err error) {
	shared := os.Getenv("PIMOE_BIN")
	if shared == "" {
		return func() {}, nil
	}
	own, err := os.MkdirTemp("", "pimoe-bin-")
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(shared, "*"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("copy the executables: %w", err)
		}
		if err := os.WriteFile(filepath.Join(own, filepath.Base(f)), b, 0o755); err != nil {
			return nil, fmt.Errorf("copy the executables: %w", err)
		}
	}
	os.Setenv("PIMOE_BIN", own)
	return func() { os.RemoveAll(own) }, nil
}

// built are the plugins of testdata that some test has needed, each compiled once.
var built struct {
	sync.Mutex
	dir  string
	made map[string]bool
}

// build compiles a plugin of testdata, if no test before has, and returns its path under the given name.
func build(t *testing.T, dir, pkg, name string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if built.made == nil {
		var err error
		if built.dir, err = os.MkdirTemp("", "pimoe-testdata-"); err != nil {
			t.Fatal(err)
		}
		built.made = map[string]bool{}
	}
	once, out := filepath.Join(built.dir, pkg), filepath.Join(dir, name)
	if !built.made[pkg] {
		cmd := exec.Command("go", "build", "-o", once, "./server/acceptance/testdata/"+pkg)
		cmd.Dir = coretest.Repo(t)
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, b)
		}
		built.made[pkg] = true
	}
	if err := os.Link(once, out); err != nil { // no copy: who writes an executable while others fork can't start it for a moment
		t.Fatal(err)
	}
	return out
}
