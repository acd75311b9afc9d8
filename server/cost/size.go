package cost

import (
	"fmt"
	"math"
	"slices"
)

// Load is what a host was seen to do and what it has to do it with.
type Load struct {
	Peak
	Cores       int   `json:"cores"`        // that it may use
	MemoryLimit int64 `json:"memory_limit"` // bytes that it may use; 0 = nothing bounds it
	HostBytes   int64 `json:"host_bytes"`   // private memory of the host, without the cache's
	WeightBytes int64 `json:"weight_bytes"` // of files that all processes map, and the system keeps once
	PageBytes   int64 `json:"page_bytes"`   // of the cache of keys and values
	Pages       int   `json:"pages"`
	MaxRunning  int   `json:"max_running"` // limits.max_concurrent_requests
	Groups      []GroupLoad
}

// GroupLoad is an expert group.
type GroupLoad struct {
	Name         string  `json:"group"`
	Replicas     int     `json:"replicas"`
	Lanes        int     `json:"lanes"`         // calls that a replica computes at once; 0 = nobody says
	PrivateBytes int64   `json:"private_bytes"` // of the largest replica
	Cores        float64 `json:"cores"`         // that it kept busy in the busiest minute
}

// Advice is one figure, as it is and as it should be.
type Advice struct {
	What    string `json:"what"` // a key of the configuration, or what is to be provided
	Now     string `json:"now"`
	Advised string `json:"advised"`
	Change  bool   `json:"change"`
	Why     string `json:"why"` // the arithmetic
}

const (
	// aim is how busy the busiest minute may be: the rest is for the second within it that is busier, and for a host that has to
	// take another's load.
	aim = 0.75
	// perCore is how many expert processes a core serves without most of its time going into waking them: each process is woken
	// for each layer.
	perCore = 8
	// full is where the host refuses new work (server/memory); what is needed must stay below it.
	full = 0.80
	// roomy is how much of the cache may be unused before a smaller one is advised.
	roomy = 0.40
	// overlap is the kernel's memory of sockets, pipes and page tables for each process, by measurement below 2 MiB.
	overlap = 2 << 20
)

// Size is what the load asks for. It is a function of the load alone.
func Size(l Load) []Advice {
	return slices.Concat([]Advice{l.cores(), l.processes()}, l.replicas(), []Advice{l.cache(), l.places(), l.memory()})
}

// advice is an Advice whose change is told by its figures.
func advice(what, now, advised, why string, args ...any) Advice {
	return Advice{What: what, Now: now, Advised: advised, Change: now != advised, Why: fmt.Sprintf(why, args...)}
}

func (l Load) cores() Advice {
	need := max(int(math.Ceil(l.Peak.Cores/aim)), 1)
	now := fmt.Sprint(l.Cores)
	why := fmt.Sprintf("the busiest minute kept %.2f cores busy; %.2f / %.2f = %.2f, rounded up %d", l.Peak.Cores, l.Peak.Cores, aim, l.Peak.Cores/aim, need)
	if need <= l.Cores {
		return advice("cores of the host", now, now, "%s; fewer than there are would do, and none needs to be added", why)
	}
	hosts := (need + l.Cores - 1) / l.Cores
	return advice("cores of the host", now, fmt.Sprint(need), "%s; or %d hosts with %d each", why, hosts, l.Cores)
}

func (l Load) processes() Advice {
	n := 0
	for _, g := range l.Groups {
		n += g.Replicas
	}
	most := perCore * l.Cores
	return advice("experts.max_processes", fmt.Sprint(n), fmt.Sprint(min(n, most)), "%d processes on %d cores; %d a core are woken without much loss: %d * %d = %d", n, l.Cores, perCore, perCore, l.Cores, most)
}

// replicas is advice for each group that the machine has room for, the busiest first.
func (l Load) replicas() (out []Advice) {
	groups := slices.Clone(l.Groups)
	slices.SortStableFunc(groups, func(a, b GroupLoad) int { return int(math.Copysign(1, b.Cores-a.Cores)) })
	if len(groups) > maxShown {
		groups = groups[:maxShown]
	}
	for _, g := range groups {
		lanes := max(g.Lanes, 1)
		need := max(int(math.Ceil(g.Cores/(aim*float64(lanes)))), 1)
		why := fmt.Sprintf("it kept %.2f cores busy; a replica has %d lanes, %.2f of each: %.2f / (%d * %.2f) = %.2f", g.Cores, lanes, aim, g.Cores, lanes, aim, g.Cores/(aim*float64(lanes)))
		if free := float64(l.Cores) - l.Peak.Cores; need > g.Replicas && free < 1 {
			need = g.Replicas
			why += fmt.Sprintf("; but only %.2f cores were free, and a replica without a core waits for the others'", max(free, 0))
		}
		out = append(out, advice("replicas of "+g.Name, fmt.Sprint(g.Replicas), fmt.Sprint(need), "%s", why))
	}
	return out
}

// maxShown bounds the groups that advice is given for: the busiest decide.
const maxShown = 8

func (l Load) cache() Advice {
	now := mib(int64(l.Pages) * l.PageBytes)
	used := int64(l.KVPages) * l.PageBytes
	share := float64(l.KVPages) / float64(max(l.Pages, 1))
	why := fmt.Sprintf("at most %d of %d pages of %d bytes were in use: %.0f %%", l.KVPages, l.Pages, l.PageBytes, 100*share)
	if share > full || share < roomy && l.KVPages > 0 {
		need := int64(math.Ceil(float64(used) / full))
		return advice("kv_cache.memory_mb", now, mib(max(need, l.PageBytes)), "%s; %d * %d / %.2f", why, l.KVPages, l.PageBytes, full)
	}
	return advice("kv_cache.memory_mb", now, now, "%s; it fits", why)
}

func (l Load) places() Advice {
	now := fmt.Sprint(l.MaxRunning)
	if l.Queued > 0 && l.Running >= l.MaxRunning && l.Peak.Cores < aim*float64(l.Cores) {
		need := min(l.Running+l.Queued, 2*l.MaxRunning)
		return advice("limits.max_concurrent_requests", now, fmt.Sprint(need), "%d ran, %d waited, and only %.2f of %d cores were busy", l.Running, l.Queued, l.Peak.Cores, l.Cores)
	}
	return advice("limits.max_concurrent_requests", now, now, "at most %d ran and %d waited", l.Running, l.Queued)
}

func (l Load) memory() Advice {
	private, n := int64(0), 0
	for _, g := range l.Groups {
		private += g.PrivateBytes * int64(g.Replicas)
		n += g.Replicas
	}
	cache := int64(l.Pages) * l.PageBytes
	need := l.HostBytes + cache + private + l.WeightBytes + int64(n)*overlap
	limit := int64(math.Ceil(float64(need) / full))
	why := fmt.Sprintf("host %s + cache %s + %d processes %s + weights %s + %d * %s = %s; / %.2f", mib(l.HostBytes), mib(cache), n, mib(private), mib(l.WeightBytes), n, mib(overlap), mib(need), full)
	const what = "memory of the host"
	switch {
	case l.MemoryLimit == 0:
		return advice(what, "no limit", mib(limit), "%s", why)
	case l.MemoryLimit < limit:
		return advice(what, mib(l.MemoryLimit), mib(limit), "%s", why)
	}
	return advice(what, mib(l.MemoryLimit), mib(l.MemoryLimit), "%s = %s, which is less", why, mib(limit))
}

func mib(bytes int64) string { return fmt.Sprintf("%d MiB", (bytes+1<<20-1)>>20) }
