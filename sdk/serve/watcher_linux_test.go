//go:build linux && (amd64 || arm64)

package serve

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestWatcherRests runs this test binary once more, since a program's first moments count: one thread then sleeps that is not
// the first, hardly ever runs while goroutines are at work, and sleeps no more when it is left alone. The program goes on working.
func TestWatcherRests(t *testing.T) {
	const variable = "SERVE_TEST_WATCHER"
	if os.Getenv(variable) == "" {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestWatcherRests$", "-test.v")
		cmd.Env = append(os.Environ(), variable+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	w := findWatcher()
	if w.tid <= os.Getpid() {
		t.Fatalf("thread %d of process %d", w.tid, os.Getpid())
	}
	awake := looks(t, w, 500*time.Millisecond)
	info := [32]int32{int32(restSignal), 0, -1} // si_signo, si_errno, si_code: SI_QUEUE, as from anybody but rest
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_TGSIGQUEUEINFO, uintptr(os.Getpid()), uintptr(w.tid), uintptr(restSignal), uintptr(unsafe.Pointer(&info)), 0, 0); errno != 0 {
		t.Fatal(errno)
	}
	time.Sleep(20 * time.Millisecond)
	if n := looks(t, w, 500*time.Millisecond); awake < 20 || n < 20 {
		t.Errorf("it ran %d times in half a second, and %d after another's signal", awake, n)
	}
	w.rest()
	time.Sleep(20 * time.Millisecond)
	if n := looks(t, w, 500*time.Millisecond); n > 2 {
		t.Errorf("it ran %d times while it was to rest", n)
	}
	time.Sleep(2 * time.Second)
	if n := looks(t, w, 500*time.Millisecond); n < 20 {
		t.Errorf("it ran %d times after its rest", n)
	}
}

// looks is how often the watcher begins to run while a goroutine is at work for so long.
func looks(t *testing.T, w watcher, long time.Duration) int {
	t.Helper()
	switches := func() (n int) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", w.tid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, ok := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
		if _, err := fmt.Sscan(rest, &n); !ok || err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		return n
	}
	before := switches()
	for began := time.Now(); time.Since(began) < long; {
	}
	return switches() - before
}
