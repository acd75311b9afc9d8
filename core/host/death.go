package host

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pimoe/pimoe/sdk/client"
)

// Death says how a process ended.
type Death struct {
	At       time.Time `json:"at"`
	PID      int       `json:"pid"`
	Cause    string    `json:"cause"`            // one line for people
	Signal   string    `json:"signal,omitempty"` // such as "SIGKILL"
	ExitCode int       `json:"exit_code"`        // -1 when a signal ended it
	OOM      bool      `json:"oom"`              // the kernel's out-of-memory killer, as far as it can be told
	Log      []string  `json:"log"`              // last lines of standard error, escaped
	limit    bool      // of memory, by its cgroup
	lost     bool      // it was on another machine: only the connection is known to have ended
	asked    bool      // the host did it
}

func deathOf(d client.Death) *Death {
	lines := make([]string, len(d.LastLines))
	for i, l := range d.LastLines {
		lines[i] = escape(l)
	}
	return &Death{At: d.At, Signal: d.Signal, ExitCode: d.ExitCode, OOM: d.OOM, Log: lines, limit: d.OOMLimit, lost: d.Lost != "", asked: d.Asked}
}

// struck reports whether somebody else ended the process: a SIGKILL that neither the host nor the want of memory has sent, or
// the network between it and the host. Confined plugins can't send signals.
func (d *Death) struck() bool { return d.lost || d.Signal == "SIGKILL" && !d.OOM && !d.asked }

// describe completes the sentence "its process ...".
func (d *Death) describe() string {
	switch {
	case d.lost:
		return "can't be reached any more"
	case d.OOM && d.limit:
		return "was killed for lack of memory, at the limit of its cgroup"
	case d.OOM:
		return "was killed for lack of memory"
	case d.Signal != "":
		return "was killed by " + d.Signal
	default:
		return fmt.Sprintf("exited with code %d", d.ExitCode)
	}
}

// stoppedState reports whether the kernel has the process stopped or traced.
func stoppedState(pid int) bool {
	t := threadOf("/proc/" + strconv.Itoa(pid) + "/stat")
	return t.state == 'T' || t.state == 't'
}

// atWork reports whether a thread of the process computes or waits for a core. One that takes itself down, as those of a killed
// process do for some milliseconds before the kernel tells of its end, answers no call any more.
func atWork(pid int) bool {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	threads, err := d.Readdirnames(-1)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(threads, func(id string) bool {
		t := threadOf(dir + "/" + id + "/stat")
		return t.state == 'R' && !t.ending()
	})
}

// thread is what the kernel says of one (proc(5), stat).
type thread struct {
	state byte   // 0 where it doesn't say
	flags uint64 // PF_* of the kernel's sched.h
}

func (t thread) ending() bool {
	const exiting = 0x4 // PF_EXITING
	return t.flags&exiting != 0
}

func threadOf(stat string) thread {
	b, err := os.ReadFile(stat)
	if err != nil {
		return thread{}
	}
	return parseThread(b)
}

// parseThread reads "pid (name) state ppid pgrp session tty tpgid flags ...", in which a name may have anything.
func parseThread(stat []byte) thread {
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(f) < 7 || len(f[0]) != 1 {
		return thread{}
	}
	flags, err := strconv.ParseUint(string(f[6]), 10, 64)
	if err != nil {
		return thread{}
	}
	return thread{f[0][0], flags}
}

// memoryAge is how old a figure of a process's memory may be: to take it, the kernel walks over all pages of the process.
const memoryAge = 500 * time.Millisecond

// memory is the private memory of one process as it was last measured. Its use is safe from any goroutine.
type memory struct {
	mu    sync.Mutex // guards all below
	at    time.Time
	bytes uint64
}

// of measures it if the last measurement is too old.
func (m *memory) of(pid int, now time.Time) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at.IsZero() || now.Sub(m.at) >= memoryAge {
		m.bytes, m.at = privateBytes(pid), now
	}
	return m.bytes
}

// privateBytes is the memory that only this process uses (proc(5), smaps_rollup), or where a confined process's maps are
// closed to the host's user, its anonymous memory; 0 where the kernel doesn't say.
func privateBytes(pid int) uint64 {
	proc := "/proc/" + strconv.Itoa(pid)
	b, err := os.ReadFile(proc + "/smaps_rollup")
	fields := []string{"Private_Clean:", "Private_Dirty:"}
	if err != nil {
		if b, err = os.ReadFile(proc + "/status"); err != nil {
			return 0
		}
		fields = []string{"RssAnon:"}
	}
	var kib uint64
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) == 3 && slices.Contains(fields, f[0]) {
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err == nil {
				kib += n
			}
		}
	}
	return kib << 10
}
