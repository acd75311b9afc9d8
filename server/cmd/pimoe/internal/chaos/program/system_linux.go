package program

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Supported is nil: what this package needs to know, Linux tells.
func Supported() error { return nil }

// attributes: a session of its own, by which the processes of a server are known when their parent is gone, and death with
// whoever started it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// Members are the living processes of the server's session: itself and its children, with or without it. A process that
// only waits to be collected is none.
func (p *Server) Members() []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var pids []int
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended meanwhile
		}
		// proc(5): pid (command) state parent group session ...; the command may hold anything.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) < 4 || fields[0] == "Z" || fields[0] == "X" || fields[3] != strconv.Itoa(p.PID) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(name, "/")[2]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Memfds are the anonymous files of a process, by their identity.
func Memfds(pid int) map[string]bool {
	found := map[string]bool{}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		name, err := os.Readlink(fd)
		var st unix.Stat_t
		if err == nil && strings.HasPrefix(name, "/memfd:") && unix.Stat(fd, &st) == nil {
			found[fmt.Sprint(st.Dev, ":", st.Ino)] = true
		}
	}
	for _, m := range mappings(pid) {
		if strings.HasPrefix(m.path, "/memfd:") {
			found[m.id] = true
		}
	}
	return found
}

// mapping is a mapped file.
type mapping struct{ id, path string }

// mappings of files. The kernel writes devices as major:minor in hexadecimal.
func mappings(pid int) []mapping {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	var out []mapping
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line) // from-to rights offset device inode path
		if len(f) < 6 || !strings.HasPrefix(f[5], "/") {
			continue
		}
		major, minor, _ := strings.Cut(f[3], ":")
		ma, _ := strconv.ParseUint(major, 16, 32)
		mi, _ := strconv.ParseUint(minor, 16, 32)
		out = append(out, mapping{fmt.Sprint(unix.Mkdev(uint32(ma), uint32(mi)), ":", f[4]), f[5]})
	}
	return out
}

// Holders counts which of the anonymous files any process still has.
func Holders(memfds map[string]bool) int {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	left := map[string]bool{}
	for _, dir := range procs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		for id := range Memfds(pid) {
			if memfds[id] {
				left[id] = true
			}
		}
	}
	return len(left)
}

// Sockets counts the bound Unix sockets below a folder.
func Sockets(dir string) int {
	b, _ := os.ReadFile("/proc/net/unix")
	n := 0
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 7 && strings.HasPrefix(f[7], dir+"/") {
			n++
		}
	}
	return n
}

// FootprintOf measures a living process.
func FootprintOf(pid int) (Footprint, error) {
	var f Footprint
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return f, fmt.Errorf("descriptors of process %d: %w", pid, err)
	}
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return f, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	if fields := strings.Fields(string(statm)); len(fields) > 1 {
		pages, _ := strconv.ParseInt(fields[1], 10, 64)
		f.RSS = pages * int64(os.Getpagesize())
	}
	files := map[string]bool{} // the kernel splits and joins the mappings of a file as it likes
	for _, m := range mappings(pid) {
		files[m.id] = true
	}
	f.Descriptors, f.Mappings = len(fds), len(files)
	return f, nil
}
