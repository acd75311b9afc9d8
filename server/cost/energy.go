package cost

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// counters read the processor's energy counters, as Linux shows them in /sys/class/powercap.
type counters struct {
	zones []zone
}

// zone is one counter. It counts from 0 to wrap and begins again: about once a minute for a busy server's package.
type zone struct {
	name, file string
	wrap       int64
	last, sum  int64
}

// openCounters finds the counters of whole packages, and of the memory beside them, that can be read; root is / but in tests.
// Zones within a package, such as core, are part of its own count.
func openCounters(root string) *counters {
	c := &counters{}
	dirs, _ := filepath.Glob(filepath.Join(root, "sys/class/powercap/intel-rapl:*"))
	for _, dir := range dirs {
		name := text(filepath.Join(dir, "name"))
		if sub := strings.Count(filepath.Base(dir), ":") > 1; sub && name != "dram" || strings.HasPrefix(name, "psys") {
			continue
		}
		z := zone{name: label(filepath.Base(dir), name), file: filepath.Join(dir, "energy_uj")}
		now, ok := z.now()
		if z.wrap, _ = strconv.ParseInt(text(filepath.Join(dir, "max_energy_range_uj")), 10, 64); !ok || z.wrap <= 0 {
			continue
		}
		z.last = now
		c.zones = append(c.zones, z)
	}
	return c
}

// label tells the memory of two packages apart: dram of intel-rapl:1:0 is dram-1.
func label(dir, name string) string {
	if name != "dram" {
		return name
	}
	return name + "-" + strings.Split(dir, ":")[1]
}

func text(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (z *zone) now() (int64, bool) {
	n, err := strconv.ParseInt(text(z.file), 10, 64)
	return n, err == nil && n >= 0
}

// read is microjoules since openCounters, by domain; nil where there is no counter.
func (c *counters) read() map[string]int64 {
	if len(c.zones) == 0 {
		return nil
	}
	out := map[string]int64{}
	for i := range c.zones {
		z := &c.zones[i]
		if now, ok := z.now(); ok {
			more := now - z.last
			if more < 0 {
				more += z.wrap
			}
			z.sum += max(more, 0)
			z.last = now
		}
		out[z.name] = z.sum
	}
	return out
}
