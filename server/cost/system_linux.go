package cost

import (
	"time"

	"golang.org/x/sys/unix"
)

// maxPID is the highest number that Linux gives (proc(5), pid_max). Beyond it the clock's number would be another one's.
const maxPID = 1 << 22

// cpuTime is what all threads of a process have used, in nanoseconds and not in ticks. The number of a process's clock is
// ~pid<<3|2 (clock_getcpuclockid(3), CPUCLOCK_SCHED).
func cpuTime(pid int) (time.Duration, bool) {
	if pid <= 0 || pid > maxPID {
		return 0, false
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, false
	}
	return time.Duration(ts.Nano()), true
}
