package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tree is the part of the hierarchy that the host divides.
type Tree struct {
	dir         string
	controllers []string
	sys         system
	next        chan int // the next group's number, in a buffer of one
}

// system is what the package needs of the machine.
type system struct {
	self, mounts  string // proc(5): /proc/self/cgroup and /proc/self/mountinfo
	pid           int
	alive         func(pid int) bool
	delegated     func(dir string) bool // the host may divide it
	mkdir, remove func(path string) error
	optional      bool // no controller is needed: a test of what goes without
}

var machine = system{
	self: "/proc/self/cgroup", mounts: "/proc/self/mountinfo", pid: os.Getpid(),
	alive:     func(pid int) bool { return unix.Kill(pid, 0) != unix.ESRCH },
	delegated: delegated,
	mkdir:     func(path string) error { return os.Mkdir(path, 0o755) },
	remove:    os.Remove,
}

const (
	// hostLeaf is the cgroup into which the host moves itself: one that has processes can't be divided.
	hostLeaf = "pimoe-host"
	// groupPrefix begins the names of the processes' groups; the host's process number follows.
	groupPrefix = "pimoe-plugin-"
)

// Open finds the host's own cgroup and makes it ready to be divided. The error says why that is not possible; then nothing
// has changed. Groups that hosts which are gone have left are removed.
func Open() (*Tree, error) { return open(machine) }

func open(s system) (*Tree, error) {
	dir, err := s.own()
	if err != nil {
		return nil, err
	}
	if filepath.Base(dir) == hostLeaf { // a host that was started by another one
		dir = filepath.Dir(dir)
	}
	t := &Tree{dir: dir, sys: s, next: make(chan int, 1)}
	t.next <- 1
	if err := t.choose(); err != nil {
		return nil, err
	}
	if unix.Access(dir, unix.W_OK) != nil || unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK) != nil {
		return nil, fmt.Errorf("%s can't be written (systemd: Delegate=yes)", dir)
	}
	if !s.delegated(dir) {
		return nil, fmt.Errorf("%s is systemd's own (Delegate=yes gives it to the host)", dir)
	}
	if err := t.divide(); err != nil {
		return nil, err
	}
	t.sweep()
	return t, nil
}

// own is the folder of the host's cgroup.
func (s system) own() (string, error) {
	b, err := os.ReadFile(s.self)
	if err != nil {
		return "", fmt.Errorf("this system has no cgroups: %w", err)
	}
	path := ""
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			path = rest
		}
	}
	if path == "" {
		return "", errors.New("this system has no cgroups of version 2")
	}
	b, err = os.ReadFile(s.mounts)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if !strings.HasPrefix(after, "cgroup2 ") || len(f) < 5 {
			continue
		}
		root := f[3]
		rest, ok := strings.CutPrefix(path, strings.TrimSuffix(root, "/"))
		if !ok || strings.Contains(path, "..") {
			return "", fmt.Errorf("the cgroup %s is not below what is mounted at %s", path, f[4])
		}
		return filepath.Join(f[4], rest), nil
	}
	return "", errors.New("no cgroups of version 2 are mounted")
}

// choose takes the controllers that there are.
func (t *Tree) choose() error {
	b, err := os.ReadFile(filepath.Join(t.dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("%s is no cgroup: %w", t.dir, err)
	}
	there := strings.Fields(string(b))
	for _, c := range []string{"memory", "pids", "cpu"} {
		if slices.Contains(there, c) {
			t.controllers = append(t.controllers, c)
		}
	}
	if !t.sys.optional && !slices.Contains(t.controllers, "memory") {
		return fmt.Errorf("%s has no memory controller (it has: %s)", t.dir, strings.Join(there, " "))
	}
	return nil
}

// divide lets groups below have the controllers. The kernel wants a cgroup to be empty of processes for that, but the first one.
func (t *Tree) divide() error {
	missing := []string{}
	b, err := os.ReadFile(filepath.Join(t.dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	for _, c := range t.controllers {
		if !slices.Contains(strings.Fields(string(b)), c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	moved, err := t.moveHost()
	if err != nil {
		return err
	}
	if err := write(t.dir, "cgroup.subtree_control", strings.Join(missing, " ")); err != nil {
		if moved {
			write(t.dir, "cgroup.procs", strconv.Itoa(t.sys.pid))
			t.sys.remove(filepath.Join(t.dir, hostLeaf))
		}
		return fmt.Errorf("%s can't be divided: %w", t.dir, err)
	}
	return nil
}

// moveHost puts the host into a cgroup of its own, if it is the only process in the tree's.
func (t *Tree) moveHost() (moved bool, err error) {
	if _, err := os.Stat(filepath.Join(t.dir, "cgroup.type")); errors.Is(err, os.ErrNotExist) {
		return false, nil // the root
	}
	b, err := os.ReadFile(filepath.Join(t.dir, "cgroup.procs"))
	if err != nil {
		return false, err
	}
	inside := false
	for _, f := range strings.Fields(string(b)) {
		if f != strconv.Itoa(t.sys.pid) {
			return false, fmt.Errorf("%s has other processes in it, such as %s", t.dir, f)
		}
		inside = true
	}
	if !inside {
		return false, nil
	}
	leaf := filepath.Join(t.dir, hostLeaf)
	if err := t.sys.mkdir(leaf); err != nil && !errors.Is(err, os.ErrExist) {
		return false, err
	}
	if err := write(leaf, "cgroup.procs", strconv.Itoa(t.sys.pid)); err != nil {
		t.sys.remove(leaf)
		return false, fmt.Errorf("move the host to %s: %w", leaf, err)
	}
	return true, nil
}

// sweep removes what hosts that are gone have left.
func (t *Tree) sweep() {
	entries, _ := os.ReadDir(t.dir)
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), groupPrefix)
		host, _, _ := strings.Cut(rest, "-")
		pid, err := strconv.Atoi(host)
		if !ok || err != nil || pid != t.sys.pid && t.sys.alive(pid) {
			continue
		}
		g := &Group{tree: t, path: filepath.Join(t.dir, e.Name())}
		g.Close()
	}
}

// Group is the cgroup of one process. Close it after the process's end.
type Group struct {
	tree *Tree
	path string
	fd   *os.File
}

// New makes a group with limits, as far as there are controllers for them.
func (t *Tree) New(l Limits) (*Group, error) {
	n := <-t.next
	t.next <- n + 1
	g := &Group{tree: t, path: filepath.Join(t.dir, fmt.Sprintf("%s%d-%d", groupPrefix, t.sys.pid, n))}
	if err := t.sys.mkdir(g.path); err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	err := g.limit(l)
	if err == nil {
		var fd int
		if fd, err = unix.Open(g.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			g.fd = os.NewFile(uintptr(fd), g.path)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cgroup: %w", err), g.Close())
	}
	return g, nil
}

func (g *Group) limit(l Limits) error {
	set := func(controller, name, value string) error {
		if !slices.Contains(g.tree.controllers, controller) {
			return nil
		}
		return write(g.path, name, value)
	}
	var errs []error
	if l.Memory > 0 {
		errs = append(errs, set("memory", "memory.max", strconv.FormatInt(l.Memory, 10)))
	}
	errs = append(errs, set("memory", "memory.oom.group", "1"))
	if l.Threads > 0 {
		errs = append(errs, set("pids", "pids.max", strconv.Itoa(l.Threads)))
	}
	if l.CPU > 0 {
		const period = 100_000 // microseconds, the kernel's own default
		errs = append(errs, set("cpu", "cpu.max", fmt.Sprintf("%d %d", l.CPU*period/100, period)))
	}
	return errors.Join(errs...)
}

// Describe names what is limited.
func (g *Group) Describe(l Limits) string {
	text := filepath.Base(g.path)
	has := func(c string) bool { return slices.Contains(g.tree.controllers, c) }
	if has("memory") && l.Memory > 0 {
		text += fmt.Sprintf(", memory %d MiB", l.Memory>>20)
	}
	if has("pids") && l.Threads > 0 {
		text += fmt.Sprintf(", threads %d", l.Threads)
	}
	if has("cpu") && l.CPU > 0 {
		text += fmt.Sprintf(", cpu %d %%", l.CPU)
	}
	return text
}

// FD is what clone3(2) takes to start a process in the group.
func (g *Group) FD() int { return int(g.fd.Fd()) }

// Holds reports whether the kernel says that a process is in the group.
func (g *Group) Holds(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && bytes.Contains(append(b, '\n'), []byte("/"+filepath.Base(g.path)+"\n"))
}

// Killed reports whether the kernel has killed a process of the group for memory, and whether the group's own limit was why.
func (g *Group) Killed() (killed, limit bool) {
	b, err := os.ReadFile(filepath.Join(g.path, "memory.events"))
	if err != nil {
		return false, false
	}
	for line := range strings.Lines(string(b)) {
		name, count, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, _ := strconv.ParseUint(count, 10, 64)
		killed = killed || name == "oom_kill" && n > 0
		limit = limit || name == "oom" && n > 0
	}
	return killed, killed && limit
}

// Close ends what is left in the group and removes it.
func (g *Group) Close() error {
	if g.fd != nil {
		g.fd.Close()
	}
	const patience = 2 * time.Second // the kernel takes some milliseconds for those that it has just killed
	for began, wait := time.Now(), time.Millisecond; ; wait *= 2 {
		err := g.tree.sys.remove(g.path)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if time.Since(began) > patience {
			return fmt.Errorf("remove cgroup: %w", err)
		}
		write(g.path, "cgroup.kill", "1")
		time.Sleep(wait)
	}
}

// write sets one of the kernel's files, which are never made.
func write(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// delegated reports whether the host may divide a cgroup that it can write: systemd marks those that it has given away, and root
// could write the others as well.
func delegated(dir string) bool {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return true // no systemd: a container's own
	}
	for _, name := range []string{"trusted.delegate", "user.delegate"} {
		b := make([]byte, 8)
		if n, err := unix.Getxattr(dir, name, b); err == nil && n > 0 && b[0] == '1' {
			return true
		}
	}
	return os.Geteuid() != 0 // an ordinary user can write only what was given to it
}
