//go:build linux && (amd64 || arm64)

package serve

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

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
	unix.Kill(os.Getpid(), restSignal) // from elsewhere, to any thread
	awake := looks(t, w, 500*time.Millisecond)
	w.rest()
	time.Sleep(20 * time.Millisecond)
	resting := looks(t, w, 500*time.Millisecond)
	if awake < 20 || resting > 2 {
		t.Errorf("it ran %d times in half a second, and %d while it was to rest", awake, resting)
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
