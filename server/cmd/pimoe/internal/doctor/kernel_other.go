//go:build !linux

package doctor

import "runtime"

// kernel says what other systems lack.
func kernel() []Check {
	return []Check{
		{"shared memory plane", Missing, "needs Linux (memfd, futex); on " + runtime.GOOS + " tensors travel over gRPC"},
		{"sandbox", Missing, "needs Linux (Landlock, seccomp)"},
	}
}

func freeSpace(string) string { return "" }
