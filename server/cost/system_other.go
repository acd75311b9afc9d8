//go:build !linux

package cost

import (
	"os"
	"syscall"
	"time"
)

// cpuTime is known of this process only: other systems have no clock of another one.
func cpuTime(pid int) (time.Duration, bool) {
	var u syscall.Rusage
	if pid != os.Getpid() || syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}
