package serve

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sleeps are the numbers of nanosleep, by architecture.
var sleeps = map[string]string{"amd64": "35", "arm64": "101"}

const (
	// watcherTries and watcherPause bound how long the watcher is looked for, some 15 ms: it sleeps 20 us at a time while a
	// program starts, so the first looks find it, unless all was idle for a moment and it sleeps until something goes on.
	watcherTries = 200
	watcherPause = 50 * time.Microsecond
	// spareThreads are more than the runtime ever misses beside those of the lanes.
	spareThreads = 6
)

// quietWatcher keeps the runtime's watcher from interrupting whoever computes. It looks after goroutines every 10 ms while lanes
// are ready, and where a model has 64 processes, 10,000 looks a second took a tenth of the tokens from the lanes that compute.
// Nothing here needs it in time: no goroutine of a plugin computes without end but the lanes. So it runs where nobody else wants
// the core, and otherwise hardly ever.
//
// Threads that it starts would inherit that. It starts none as long as the runtime has idle ones, which are made before; the lanes
// and the heartbeat have threads of their own.
//
// The watcher is the first thread that a Go program starts. It is believed to be it only while it sleeps as the watcher does.
// Where it isn't found, or the system refuses, everything stays as it was.
//
// A confined process's own entries in /proc are closed to it like everybody's, and are opened for the look.
func quietWatcher() {
	spare()
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err == nil && dumpable == 0 {
		unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
		defer unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	for range watcherTries {
		if tid, ok := watcher(); ok {
			idle := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
			unix.SchedSetAttr(tid, &idle, 0)
			return
		}
		for start := time.Now(); time.Since(start) < watcherPause; { // at work, so that the watcher doesn't sleep for long
			runtime.Gosched()
		}
	}
}

// spare leaves idle threads behind: goroutines hold one each until all have one.
func spare() {
	var held, ended sync.WaitGroup
	held.Add(spareThreads)
	for range spareThreads {
		ended.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			held.Done()
			held.Wait()
		})
	}
	ended.Wait()
}

// watcher is the second thread of this process in the order of their starts, if it is in nanosleep.
func watcher() (tid int, ok bool) {
	d, err := os.Open("/proc/self/task")
	if err != nil {
		return 0, false
	}
	defer d.Close()
	names, err := d.Readdirnames(2)
	if err != nil || len(names) < 2 {
		return 0, false
	}
	call, err := os.ReadFile("/proc/self/task/" + names[1] + "/syscall")
	if number, _, _ := strings.Cut(string(call), " "); err != nil || number != sleeps[runtime.GOARCH] {
		return 0, false
	}
	tid, err = strconv.Atoi(names[1])
	return tid, err == nil
}
