package memory

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// Cgroup is the use of the cgroup, of this process's and those around it, that is nearest to its limit; without a limit where
// there are no cgroups. Files that the system can drop at any time, such as mapped weights that nobody reads, don't count.
func Cgroup() Use { return cgroup("/") }

// cgroup is Cgroup of a system whose files are below root.
func cgroup(root string) (worst Use) {
	list, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return Use{}
	}
	for line := range strings.Lines(string(list)) {
		id, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, dir, ok := strings.Cut(rest, ":")
		var f layout
		switch {
		case !ok || !path.IsAbs(dir):
			continue
		case id == "0":
			f = layout{"sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"}
		case controllers == "memory":
			f = layout{"sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}
		default:
			continue
		}
		for ; ; dir = path.Dir(dir) {
			if u := f.read(filepath.Join(root, f.base, dir)); u.percent() >= worst.percent() && u.Limit > 0 {
				worst = u
			}
			if dir == "/" {
				break
			}
		}
	}
	return worst
}

// layout are the names of one version of cgroups.
type layout struct{ base, limit, used, droppable string }

// unlimited is what version 1 says for no limit, rounded down: no machine has as much.
const unlimited = 1 << 60

func (l layout) read(dir string) Use {
	limit, ok := number(filepath.Join(dir, l.limit))
	if !ok || limit >= unlimited {
		return Use{}
	}
	used, ok := number(filepath.Join(dir, l.used))
	if !ok {
		return Use{}
	}
	stat, _ := os.ReadFile(filepath.Join(dir, "memory.stat")) // without it all counts
	for line := range bytes.Lines(stat) {
		if f := bytes.Fields(line); len(f) == 2 && string(f[0]) == l.droppable {
			n, _ := strconv.ParseInt(string(f[1]), 10, 64)
			used -= n
		}
	}
	return Use{max(used, 0), limit}
}

func number(file string) (int64, bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}

// Private is the memory that processes have for themselves, in bytes: what is resident and no file. A process that has
// ended, or that this system can't tell about, counts nothing.
func Private(pids []int) (sum int64) {
	page := int64(os.Getpagesize())
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			continue
		}
		f := bytes.Fields(b)
		if len(f) < 3 {
			continue
		}
		resident, _ := strconv.ParseInt(string(f[1]), 10, 64)
		shared, _ := strconv.ParseInt(string(f[2]), 10, 64)
		sum += (resident - shared) * page
	}
	return sum
}
