package meter

import (
	"cmp"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/shirou/gopsutil/v4/process"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/server/memory"
)

// processes measures every process of the host, and the host. A place in a group has one process after the other; its counters go
// on over all of them.
type processes struct {
	places  map[place]*running
	private int // whose turn it is to have its private memory measured
}

type place struct {
	name    string
	replica int
}

// running is the process of a place.
type running struct {
	pid     int32
	process *process.Process // nil = there is none now
	now     counters         // of this process
	before  counters         // of those before it
	private float64          // bytes; below 0 = not measured yet
}

// counters are what only grows while a process lives.
type counters struct{ cpu, major, minor float64 }

func (c counters) plus(o counters) counters {
	return counters{c.cpu + o.cpu, c.major + o.major, c.minor + o.minor}
}

func newProcesses() *processes { return &processes{places: map[place]*running{}} }

func (ps *processes) measure(p *printer, list []host.Running) {
	list = append([]host.Running{{Name: "host", PID: os.Getpid()}}, list...)
	seen, walked := map[place]bool{}, false
	for i, r := range list {
		at := place{r.Name, r.Replica}
		seen[at] = true
		x := ps.places[at]
		if x == nil {
			x = &running{private: -1}
			ps.places[at] = x
		}
		x.become(r.PID)
		x.look()
		// Asking for it walks the page tables of the process, a millisecond for some hundred megabytes: one of them at a time, new
		// ones first.
		if x.process != nil && !walked && (x.private < 0 || i == ps.private%len(list)) {
			x.private, walked = float64(memory.Private([]int{r.PID})), true
		}
	}
	ps.private++
	for at, x := range ps.places {
		if !seen[at] {
			x.end()
		}
	}
	ps.print(p)
}

// become takes the id of the process that is in the place now.
func (x *running) become(pid int) {
	if x.process != nil && x.pid == int32(pid) {
		return
	}
	x.end()
	if p, err := process.NewProcess(int32(pid)); err == nil { // else it has just ended
		x.pid, x.process = int32(pid), p
	}
}

// end keeps what the process has used.
func (x *running) end() {
	x.before, x.now = x.before.plus(x.now), counters{}
	x.process, x.private = nil, -1
}

// look reads the counters, and returns the CPU time since the last look.
func (x *running) look() {
	if x.process == nil {
		return
	}
	t, err := x.process.Times()
	if err != nil {
		x.end()
		return
	}
	now := counters{cpu: t.User + t.System, major: x.now.major, minor: x.now.minor}
	if f, err := x.process.PageFaults(); err == nil && f != nil {
		now.major, now.minor = float64(f.MajorFaults), float64(f.MinorFaults)
	}
	if now.cpu < x.now.cpu { // another process that has got the same id
		x.before, x.now = x.before.plus(x.now), counters{}
	}
	x.now = now
}

func (ps *processes) print(p *printer) {
	order := slices.SortedFunc(maps.Keys(ps.places), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.replica, b.replica))
	})
	for _, at := range order {
		ps.places[at].print(p, []string{"process", at.name, "replica", strconv.Itoa(at.replica)})
	}
}

func (x *running) print(p *printer, labels []string) {
	all := x.before.plus(x.now)
	p.add("pimoe_process_cpu_seconds_total", all.cpu, labels...)
	p.add("pimoe_process_page_faults_total", all.major, append(labels, "kind", "major")...)
	p.add("pimoe_process_page_faults_total", all.minor, append(labels, "kind", "minor")...)
	if x.process == nil {
		return
	}
	if m, err := x.process.MemoryInfo(); err == nil && m != nil {
		p.add("pimoe_process_resident_bytes", float64(m.RSS), labels...)
	}
	if x.private > 0 {
		p.add("pimoe_process_private_bytes", x.private, labels...)
	}
	if n, err := x.process.NumFDs(); err == nil { // a confined process of another user keeps them to itself
		p.add("pimoe_process_open_descriptors", float64(n), labels...)
	}
}
