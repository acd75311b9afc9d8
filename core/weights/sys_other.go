//go:build !linux && !darwin

package weights

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"

	"github.com/pimoe/pimoe/sdk"
)

// mapFile reads the file: the portable stand-in for a mapping.
func mapFile(f *os.File, size int64) ([]byte, func() error, error) {
	b := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, size), b); err != nil {
		return nil, nil, err
	}
	return b, func() error { return nil }, nil
}

func privateMemory(size int64) (b []byte, seal, release func() error, err error) {
	none := func() error { return nil }
	return make([]byte, size), none, none, nil
}

// identify can't tell here, so every check reads the file.
func identify(*os.File) (identity, bool, error) { return identity{}, false, nil }

// freeSpace is unknown here: a full disk shows when a write fails.
func freeSpace(string) (uint64, error) { return math.MaxUint64, nil }

// lockFile refuses: without a lock that dies with its process two imports can't be kept apart.
func lockFile(context.Context, string, bool) (func() error, error) {
	return nil, fmt.Errorf("lock the store on %s: %w", runtime.GOOS, sdk.ErrUnsupported)
}

func populate([]byte) bool { return false }

func exchange(string, string) error { return sdk.ErrUnsupported }

func syncDir(string) error { return nil }
