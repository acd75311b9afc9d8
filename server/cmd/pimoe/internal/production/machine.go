package production

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/doctor"
	"github.com/pimoe/pimoe/server/memory"
)

func memoryLimit(f *Facts) Verdict {
	limit := int64(f.Config.Limits.TotalMemoryMB) << 20
	group, machine := memory.Cgroup().Limit, f.machineMemory()
	bound := machine
	if group > 0 && (bound == 0 || group < bound) {
		bound = group
	}
	switch {
	case limit == 0 && group == 0:
		return warn("nothing bounds the host's memory: the kernel would choose whom to kill", "limits.total_memory_mb, or a limit of the service or container; pimoe report size says how much")
	case limit > bound && bound > 0:
		return fail(fmt.Sprintf("limits.total_memory_mb is %d MiB, the system gives %d MiB: new work would not be refused in time", limit>>20, bound>>20), "limits.total_memory_mb below that, or 0 for the cgroup's")
	case limit == 0:
		return ok(fmt.Sprintf("the cgroup's: %d MiB", group>>20))
	}
	return ok(fmt.Sprintf("limits.total_memory_mb: %d MiB of %d", limit>>20, bound>>20))
}

// machineMemory is what the machine has, in bytes; 0 = it does not say.
func (f *Facts) machineMemory() int64 {
	b, _ := os.ReadFile(filepath.Join(f.Root, "proc/meminfo"))
	for line := range strings.Lines(string(b)) {
		if w := strings.Fields(line); len(w) == 3 && w[0] == "MemTotal:" {
			n, _ := strconv.ParseInt(w[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

func diskSpace(f *Facts) Verdict {
	dir := homeDir(f.Config.Home)
	free, total, known := space(dir)
	if !known || total == 0 {
		return warn("the free space of "+dir+" can't be read", "look at it by hand")
	}
	const gib = 1 << 30
	why := fmt.Sprintf("%.1f GiB of %.1f are free at %s", float64(free)/gib, float64(total)/gib, dir)
	const fix = "free some, or move home to a larger disk: a full one ends jobs and changes, not answers"
	switch share := float64(free) / float64(total); {
	case share < 0.05 || free < gib/4:
		return fail(why, fix)
	case share < 0.15 || free < gib:
		return warn(why, fix)
	}
	return ok(why)
}

// The limits of open files: each connection takes one, each expert process some ten.
const (
	fewFiles  = 1024
	someFiles = 16 << 10
)

func openFiles(*Facts) Verdict {
	n, known := filesLimit()
	const fix = "LimitNOFILE=65536 of the service, or ulimit -n 65536"
	switch {
	case !known:
		return warn("the limit can't be read here", "look at ulimit -n")
	case n <= fewFiles:
		return fail(fmt.Sprintf("a process may have %d open files: a crowd of connections is refused", n), fix)
	case n < someFiles:
		return warn(fmt.Sprintf("a process may have %d open files", n), fix)
	}
	return ok(fmt.Sprintf("%d", n))
}

func kernel(f *Facts) Verdict {
	var lacking, failed []string
	wanted := []string{"memfd", "memfd sealing", "futex", "pidfd", "landlock", "seccomp", "cgroup"}
	for _, c := range doctor.Run(f.Config.Plugins.Dir, f.Config.Home, nil) {
		switch {
		case !slices.Contains(wanted, c.Name):
		case c.Status == doctor.Failed:
			failed = append(failed, c.Name+" ("+c.Detail+")")
		case c.Status == doctor.Missing:
			lacking = append(lacking, c.Name+" ("+c.Detail+")")
		}
	}
	const fix = "Linux 5.13 or newer, with Landlock among the security modules of the boot"
	switch {
	case len(failed) > 0:
		return fail(first(failed), fix)
	case len(lacking) > 0:
		return warn("missing: "+first(lacking), fix)
	}
	return ok("all features that isolation and the data plane stand on")
}

func clock(*Facts) Verdict {
	synchronised, known := clockSynchronised()
	const fix = "run chrony, systemd-timesyncd or what the machine's provider offers: tokens are judged by the clock"
	switch {
	case !known:
		return warn("whether the clock is synchronised can't be read here", fix)
	case !synchronised:
		return warn("nobody keeps this machine's clock right", fix)
	}
	return ok("synchronised")
}

// first is the first of a list, and how many more there are.
func first(list []string) string {
	if len(list) == 1 {
		return list[0]
	}
	return fmt.Sprintf("%s, and %d more", list[0], len(list)-1)
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
