package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hugeProbe is memory in huge pages; nil where there is none.
func hugeProbe() ([]byte, func()) {
	b, err := unix.Mmap(-1, 0, probe, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil
	}
	free := func() { unix.Munmap(b) }
	if unix.Madvise(b, unix.MADV_HUGEPAGE) != nil {
		free()
		return nil, nil
	}
	for i := 0; i < len(b); i += 64 {
		b[i] = byte(i >> 6)
	}
	return b, free
}

// processor is the name of the machine's processor, and memory its size in bytes.
func processor() (name string, memory uint64) {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range bytes.Lines(b) {
		if key, value, ok := bytes.Cut(line, []byte(":")); ok && string(bytes.TrimSpace(key)) == "model name" {
			name = string(bytes.TrimSpace(value))
			break
		}
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		memory = info.Totalram * uint64(info.Unit)
	}
	return name, memory
}

func kernel() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}

// ownBytes is the memory that a process alone pays for: what is no file, and what it has changed of files. Shared slots
// and weights, which all replicas map, are files that it has not changed.
func ownBytes(pid int) (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	defer f.Close()
	var total, dirty, anonymous int64 // the latter of one mapping
	file := false
	add := func() {
		if file {
			dirty = 0 // the page cache's, until it is written back
		}
		total += max(dirty, anonymous) // most anonymous pages are dirty ones, too: not counted twice
		dirty, anonymous = 0, 0
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) < 2:
		case fields[0] == "Private_Dirty:":
			dirty = kibibytes(fields[1])
		case fields[0] == "Anonymous:":
			anonymous = kibibytes(fields[1])
		case !strings.HasSuffix(fields[0], ":"): // a mapping's first line: from-to rights offset device inode path
			add()
			file = len(fields) > 5 && strings.HasPrefix(fields[5], "/")
		}
	}
	add()
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	return total, nil
}

// kibibytes is 0 for what is no number: the kernel writes none.
func kibibytes(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n << 10
}

// cpuTime is what all threads of a process have worked.
func cpuTime(pid int) time.Duration {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	var total time.Duration
	for _, name := range files {
		b, _ := os.ReadFile(name)
		if fields := strings.Fields(string(b)); len(fields) > 0 {
			ns, _ := strconv.ParseInt(fields[0], 10, 64)
			total += time.Duration(ns)
		}
	}
	return total
}
