//go:build linux && (amd64 || arm64)

package serve

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk/internal/plane"
)

// watcher is the thread of Go's runtime that looks after goroutines, every 10 ms while lanes are ready: a lane sleeps so that
// the runtime believes it at work. Where a model has 64 processes, 10,000 looks a second took a tenth of the tokens from the
// lanes that compute. Under load nothing needs it in time: no goroutine of a plugin computes without end but the lanes, and the
// runtime has processors to spare for those that wait for the system. So it is then sent to sleep with every heartbeat, in the
// handler of a signal, and looks a few times between two of them. While a process starts it is needed: it takes the processors
// back from those who wait for the system for long.
//
// To let it run only where nobody else does would be simpler, and was worse. A process that is killed has ended when its last
// thread has, and on busy cores that thread was late: by 1 ms in the middle and by 10 of 100 times. It could leave the kernel's
// memory of its files in /proc half taken down, too, and then whoever waited for the process span in the kernel, for up to
// seconds.
type watcher struct{ tid int } // 0 = unknown

// sleeps are the numbers of nanosleep, by architecture.
var sleeps = map[string]string{"amd64": "35", "arm64": "101"}

const (
	// watcherTries and watcherPause bound how long the watcher is looked for, some 15 ms: it sleeps 20 us at a time while a
	// program starts, so the first looks find it, unless all was idle for a moment and it sleeps until something goes on.
	watcherTries = 200
	watcherPause = 50 * time.Microsecond
	// nearThreads is among how many numbers behind the process's own the second thread is looked for.
	nearThreads = 1 << 12
	// restSignal is one that debuggers pass on without a word. Sent by a terminal, of a plugin that somebody tries by hand, it
	// does nothing. It does not queue.
	restSignal = unix.SIGWINCH
)

// findWatcher looks for it. It is the first thread that a Go program starts, and believed to be it only if it sleeps as the
// watcher does. Where it isn't found, or the system refuses, everything stays as it was.
//
// A confined process's own entries in /proc are closed to it like everybody's, and are opened for the look.
func findWatcher() watcher {
	tid := secondThread()
	if tid == 0 || !handleRest() {
		return watcher{}
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err == nil && dumpable == 0 {
		unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
		defer unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	for range watcherTries {
		call, err := os.ReadFile("/proc/self/task/" + strconv.Itoa(tid) + "/syscall")
		if err != nil {
			break
		}
		if number, _, _ := strings.Cut(string(call), " "); number == sleeps[runtime.GOARCH] {
			return watcher{tid}
		}
		for start := time.Now(); time.Since(start) < watcherPause; { // at work, so that the watcher doesn't sleep for long
			runtime.Gosched()
		}
	}
	return watcher{}
}

// secondThread is the second thread of this process in the order of their starts, 0 if it is not near the first. Their folder
// would name them, too, but then the kernel remembers each thread's entry and has to forget it when the process ends.
func secondThread() int {
	pid := os.Getpid()
	for tid := pid + 1; tid < pid+nearThreads; tid++ {
		if unix.Tgkill(pid, tid, 0) == nil {
			return tid
		}
	}
	return 0
}

// handleRest has restSignal handled by resting, without the runtime's knowledge.
func handleRest() bool {
	handler, restorer := restAddresses()
	const withInfo, onStack, restart, hasRestorer = 4, 0x08000000, 0x10000000, 0x04000000 // SA_SIGINFO, SA_ONSTACK, SA_RESTART, SA_RESTORER
	action := struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}{handler: handler, flags: withInfo | onStack | restart, restorer: restorer}
	if restorer != 0 {
		action.flags |= hasRestorer
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(restSignal), uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0)
	return errno == 0
}

// restTime is how long a rest is, which ends shortly before the next heartbeat.
var restTime = unix.NsecToTimespec(int64(plane.BeatEvery - 50*time.Millisecond))

// restAddresses are those of the handler and of what the handler returns to; 0 where the kernel knows that itself. The handler runs on
// whatever stack the thread has for signals, without a goroutine: it may only make a system call, which sleeps for restTime.
func restAddresses() (handler, restorer uintptr)

// rest sends the watcher to sleep until shortly before the next heartbeat.
func (w watcher) rest() {
	if w.tid != 0 {
		unix.Tgkill(os.Getpid(), w.tid, restSignal)
	}
}
