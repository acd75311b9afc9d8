package cost

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// System reads this machine: the CPU time of processes, the machine's busy time and its energy counters.
type System struct {
	root   string
	energy *counters
}

// OpenSystem finds out what can be read here.
func OpenSystem() *System { return openSystem("/") }

func openSystem(root string) *System { return &System{root: root, energy: openCounters(root)} }

// Read is a reading of this process, which is the part host with hostBytes read so far, and of others. Those that have ended, or
// whose time this system does not tell, are left out.
func (s *System) Read(hostBytes int64, others []Part) Reading {
	r := Reading{Busy: s.busy(), Energy: s.energy.read()}
	if used, ok := cpuTime(os.Getpid()); ok {
		r.Parts = append(r.Parts, Part{Name: hostPart, PID: os.Getpid(), CPU: used, Bytes: hostBytes})
	}
	for _, p := range others {
		if used, ok := cpuTime(p.PID); ok {
			p.CPU = used
			r.Parts = append(r.Parts, p)
		}
	}
	return r
}

// tick is the unit of /proc/stat: the kernel's USER_HZ is 100 on every architecture that Go knows.
const tick = time.Second / 100

// busy is the time that all processors were neither idle nor waiting for a disk (proc(5), /proc/stat).
func (s *System) busy() time.Duration {
	b, err := os.ReadFile(filepath.Join(s.root, "proc/stat"))
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	f := bytes.Fields(line)
	if len(f) < 9 || string(f[0]) != "cpu" {
		return 0
	}
	sum := int64(0)
	for i, field := range f[1:9] {
		if i == 3 || i == 4 { // idle, iowait
			continue
		}
		n, _ := strconv.ParseInt(string(field), 10, 64)
		sum += n
	}
	return time.Duration(sum) * tick
}
