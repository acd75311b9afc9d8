//go:build linux && (amd64 || arm64)

package plane

import (
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	futexWaitOp = 0 // FUTEX_WAIT, shared: the word lies in memory of two processes
	futexWakeOp = 1 // FUTEX_WAKE
)

// futexWait sleeps while the word has the value, for at most limit. It returns for any reason: the caller looks again.
func futexWait(word *atomic.Uint32, value uint32, limit time.Duration) {
	ts := unix.NsecToTimespec(int64(limit))
	unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWaitOp, uintptr(value), uintptr(unsafe.Pointer(&ts)), 0, 0)
}

// futexWake wakes all sleepers on the word. It needs no write access to it.
func futexWake(word *atomic.Uint32) {
	unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWakeOp, 1<<30, 0, 0, 0)
}

// spinner decides whether it is worth looking at a word for some microseconds before sleeping. Sleeping costs about
// 20 us of waking on a virtual machine; looking costs a core. It keeps a moving average of how long the waits were and
// looks only if they are of the size of a wake-up. One goroutine uses it at a time.
type spinner struct {
	average time.Duration
}

const (
	spinLimit = 60 * time.Microsecond // more than this and the core is better given away
	spinEvery = 24                    // loads between two looks at the clock and an offer of the core to others
)

// spins is false on a machine with one core, where looking keeps the other side from working.
var spins = runtime.NumCPU() > 1

// until looks at the condition for a while and reports whether it became true.
func (s *spinner) until(ready func() bool) bool {
	if !spins || s.average > spinLimit || runtime.GOMAXPROCS(0) < 2 {
		return ready()
	}
	start := time.Now()
	for {
		for range spinEvery {
			if ready() {
				return true
			}
		}
		if time.Since(start) > spinLimit {
			return false
		}
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
}

// took records the length of a wait.
func (s *spinner) took(d time.Duration) {
	s.average += (min(d, 8*spinLimit) - s.average) / 8
}

func word(region []byte, off int) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&region[off]))
}

func word64(region []byte, off int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&region[off]))
}
