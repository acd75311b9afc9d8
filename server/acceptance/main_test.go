package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
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
