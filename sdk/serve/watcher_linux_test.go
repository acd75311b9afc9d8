package serve

import (
	"os"
	"os/exec"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestQuietWatcher runs this test binary once more, since a program's first moments count: one thread then gives way to
// others, and it is not the first.
func TestQuietWatcher(t *testing.T) {
	const variable = "SERVE_TEST_QUIET"
	if os.Getenv(variable) == "" {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestQuietWatcher$", "-test.v")
		cmd.Env = append(os.Environ(), variable+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	quietWatcher()
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	quiet := 0
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		a, err := unix.SchedGetAttr(tid, 0)
		if err != nil {
			continue // the thread has ended
		}
		if a.Policy == unix.SCHED_IDLE {
			if quiet++; tid == os.Getpid() {
				t.Error("the first thread gives way, too")
			}
		}
	}
	if quiet != 1 {
		t.Errorf("%d threads of %d give way, want one", quiet, len(entries))
	}
}
