//go:build linux && (amd64 || arm64)

package team

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	futexWait = 128 // FUTEX_WAIT | FUTEX_PRIVATE_FLAG
	futexWake = 129 // FUTEX_WAKE | FUTEX_PRIVATE_FLAG
)

// sleep waits for a wake while the word has the value, for at most limit; the runtime may use the processor meanwhile.
func sleep(word *atomic.Uint32, value uint32, limit time.Duration) {
	ts := unix.NsecToTimespec(int64(limit))
	unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait, uintptr(value), uintptr(unsafe.Pointer(&ts)), 0, 0)
}

// doze is sleep that the runtime does not see.
func doze(word *atomic.Uint32, value uint32, limit time.Duration) {
	ts := unix.NsecToTimespec(int64(limit))
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait, uintptr(value), uintptr(unsafe.Pointer(&ts)), 0, 0)
}

// wake wakes up to n of those who sleep on the word.
func wake(word *atomic.Uint32, n int) {
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, uintptr(n), 0, 0, 0)
}

// yield gives the core to another thread that is ready to run on it.
func yield() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// watch loads the word until it is not old, at most so many times, with a pause of the processor between two loads. It
// returns the last value.
func watch(word *atomic.Uint32, old uint32, looks uint32) uint32 {
	return look((*uint32)(unsafe.Pointer(word)), old, looks)
}

//go:noescape
func look(word *uint32, old, looks uint32) uint32
