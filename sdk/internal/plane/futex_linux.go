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
// The runtime takes the sleeper's processor away meanwhile, which costs some microseconds afterwards and lets a watcher
// thread of the runtime wake up: it is for long sleeps.
func futexWait(word *atomic.Uint32, value uint32, limit time.Duration) {
	ts := unix.NsecToTimespec(int64(limit))
	unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWaitOp, uintptr(value), uintptr(unsafe.Pointer(&ts)), 0, 0)
}

// doze is futexWait that the runtime does not see. A garbage collection waits for it, so limit is short.
//
// To the runtime the goroutine computes all the time, and after 10 ms it asks it to make room for others. A goroutine bound
// to its thread does that by four switches of threads, just when the call that woke it waits: with 64 processes this took a
// twelfth of two cores. So whoever is woken forgets what was asked of it while it slept. A collection asks again.
func doze(word *atomic.Uint32, value uint32, limit time.Duration) {
	ts := unix.NsecToTimespec(int64(limit))
	procPin()
	_, _, err := unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWaitOp, uintptr(value), uintptr(unsafe.Pointer(&ts)), 0, 0)
	if err == 0 {
		forget()
	}
	procUnpin()
}

// forget is a call: a goroutine is asked at the beginning of one, and refuses while it is pinned.
//
//go:noinline
func forget() { var frame [128]byte; keep(&frame) }

//go:noinline
func keep(*[128]byte) {}

// procPin keeps the goroutine on its processor of the runtime, as in sync.Pool, until procUnpin.
//
//go:linkname procPin runtime.procPin
func procPin() int

//go:linkname procUnpin runtime.procUnpin
func procUnpin()

// futexWake wakes all sleepers on the word. It needs no write access to it, and it does not block, so the runtime need
// not know of it.
func futexWake(word *atomic.Uint32) {
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWakeOp, 1<<30, 0, 0, 0)
}

// yield gives the core to another thread that is ready to run on it.
func yield() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// Core is the one that the caller runs on just now, -1 if the system doesn't tell.
func Core() int {
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return -1
	}
	return int(cpu)
}

// watch loads the word until it is not old, at most so many times, with a pause of the processor between two loads. It
// returns the last value. The loads have acquire semantics.
//
//go:noescape
func watch(word *uint32, old, looks uint32) uint32

// looks is how often a word is loaded before the core is offered to others: about a microsecond, less than two switches
// of threads cost.
const looks = 20

// await is watch for an atomic word.
func await(word *atomic.Uint32, old uint32) uint32 {
	return watch((*uint32)(unsafe.Pointer(word)), old, looks)
}

// polls is false on a machine with one core, where looking keeps the other side from working.
var polls = runtime.NumCPU() > 1

func word(region []byte, off int) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&region[off]))
}

func word64(region []byte, off int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&region[off]))
}
