package bundle

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
)

// facts are files of the system that say how much a process has and may have. Other systems than Linux have none of them.
var facts = []string{
	"/proc/version", "/proc/loadavg", "/proc/meminfo", "/proc/self/limits", "/proc/self/status", "/proc/self/cgroup",
	"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/proc/pressure/cpu", "/proc/pressure/memory",
}

// Host is what there is to know of the machine and of this process. Of the environment it has the names of the program's own
// variables, and no value.
func Host() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s, %d CPUs, GOMAXPROCS %d, %s\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.GOMAXPROCS(0), runtime.Version())
	var names []string
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "PIMOE_") || slices.Contains([]string{"GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG"}, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	fmt.Fprintf(&b, "variables that are set: %s\n", strings.Join(names, " "))
	for _, path := range facts {
		if text, err := os.ReadFile(path); err == nil { // what is not there is not there
			fmt.Fprintf(&b, "\n== %s\n%s", path, text)
		}
	}
	return []byte(b.String())
}
