//go:build !linux

package bench

import (
	"fmt"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

func hugeProbe() ([]byte, func()) { return nil, nil }

func processor() (name string, memory uint64) { return "", 0 }

func kernel() string { return "" }

func ownBytes(pid int) (int64, error) {
	return 0, fmt.Errorf("memory of process %d: only on Linux: %w", pid, sdk.ErrUnsupported)
}

func cpuTime(int) time.Duration { return 0 }
