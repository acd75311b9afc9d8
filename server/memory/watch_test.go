package memory

import (
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Work is refused from 80 percent on until it is below 75; what is kept for later is given up from 75 on, before that.
func TestPressed(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "off") // the heap of the tests stays as it is
	var use atomic.Int64
	relieved := 0
	w := &Watch{o: Options{
		Read: func() Use { return Use{use.Load(), 1000} }, Relieve: func() { relieved++ }, Log: slog.New(slog.DiscardHandler),
	}}
	for i, step := range []struct {
		used     int64
		pressed  bool
		relieved int
	}{{0, false, 0}, {749, false, 0}, {750, false, 1}, {799, false, 2}, {800, true, 3}, {950, true, 4}, {799, true, 5}, {750, true, 6}, {749, false, 6}, {799, false, 7}} {
		use.Store(step.used)
		w.look()
		if w.Pressed() != step.pressed || relieved != step.relieved {
			t.Errorf("step %d, %d used: pressed %v, relieved %d", i, step.used, w.Pressed(), relieved)
		}
	}
	if (*Watch)(nil).Pressed() {
		t.Error("nobody watches, and it presses")
	}
}

func TestWatchRunsUntilClose(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "off")
	var use, reads atomic.Int64
	w := Start(Options{Read: func() Use { reads.Add(1); return Use{use.Load(), 1000} }, Relieve: func() {}, Every: time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	use.Store(900)
	for end := time.Now().Add(20 * time.Second); !w.Pressed(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not pressed after 20 s")
		}
	}
	w.Close()
	w.Close()
	n := reads.Load()
	time.Sleep(10 * time.Millisecond)
	if reads.Load() != n {
		t.Error("it reads after Close")
	}
}

// Both versions of cgroups, limits of those around, and systems without.
func TestCgroup(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  Use
	}{
		"none":     {nil, Use{}},
		"v2":       {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "1000\n", "sys/fs/cgroup/a/b/memory.current": "700\n", "sys/fs/cgroup/a/b/memory.stat": "anon 5\ninactive_file 200\n"}, Use{500, 1000}},
		"v2 max":   {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "700\n"}, Use{}},
		"v2 above": {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "1000\n", "sys/fs/cgroup/a/b/memory.current": "100\n", "sys/fs/cgroup/a/memory.max": "2000\n", "sys/fs/cgroup/a/memory.current": "1900\n"}, Use{1900, 2000}},
		"v1":       {map[string]string{"proc/self/cgroup": "9:cpu:/\n8:memory:/x\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1000", "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "900", "sys/fs/cgroup/memory/x/memory.stat": "inactive_file 1\ntotal_inactive_file 300\n"}, Use{600, 1000}},
		"v1 none":  {map[string]string{"proc/self/cgroup": "8:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712", "sys/fs/cgroup/memory/memory.usage_in_bytes": "900"}, Use{}},
		"garbage":  {map[string]string{"proc/self/cgroup": "x\n0::\n8:memory\n0::../..\n", "sys/fs/cgroup/memory.max": "1"}, Use{}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range c.files {
				file = filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := cgroup(root); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
