package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fake is a machine whose cgroups are files: a new group has the kernel's files, and one that has processes can't be removed.
type fake struct {
	system
	t    *testing.T
	root string
}

const fakePID = 4242

// newFake has a host in the cgroup /app.slice/pimoe.service, with the given controllers and processes in it.
func newFake(t *testing.T, controllers string, procs ...int) *fake {
	f := &fake{t: t, root: t.TempDir()}
	f.system = system{
		self: filepath.Join(f.root, "self"), mounts: filepath.Join(f.root, "mountinfo"), pid: fakePID,
		alive: func(pid int) bool { return pid == 77 }, delegated: func(string) bool { return true },
		mkdir: func(path string) error { return f.group(path, "", nil) }, remove: f.drop,
	}
	f.put("self", "4:memory:/x\n0::/app.slice/pimoe.service\n")
	f.put("mountinfo", fmt.Sprintf("30 23 0:26 / %s rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n", filepath.Join(f.root, "cg")))
	if err := os.MkdirAll(filepath.Join(f.root, "cg", "app.slice"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := f.group(f.own(), controllers, procs); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fake) own() string { return filepath.Join(f.root, "cg/app.slice/pimoe.service") }

func (f *fake) put(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.root, name), []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) group(path, controllers string, procs []int) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	list := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(procs)), "\n"), "[]")
	for name, text := range map[string]string{
		"cgroup.type": "domain\n", "cgroup.procs": list, "cgroup.controllers": controllers, "cgroup.subtree_control": "", "cgroup.kill": "",
		"memory.max": "max\n", "memory.oom.group": "0\n", "pids.max": "max\n", "cpu.max": "max 100000\n", "memory.events": "low 0\noom 0\noom_kill 0\n",
	} {
		if err := os.WriteFile(filepath.Join(path, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) drop(path string) error {
	if kill, _ := os.ReadFile(filepath.Join(path, "cgroup.kill")); string(kill) == "1" {
		os.WriteFile(filepath.Join(path, "cgroup.procs"), nil, 0o644)
	}
	b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
	switch {
	case err != nil:
		return err
	case len(b) > 0:
		return syscall.EBUSY
	}
	return os.RemoveAll(path)
}

func (f *fake) read(path ...string) string {
	b, err := os.ReadFile(filepath.Join(append([]string{f.own()}, path...)...))
	if err != nil {
		f.t.Error(err)
	}
	return strings.TrimSpace(string(b))
}

func TestTreeOfAService(t *testing.T) {
	f := newFake(t, "cpuset cpu io memory pids", fakePID)
	for name, procs := range map[string][]int{"pimoe-plugin-999-1": {5}, "pimoe-plugin-77-1": {6}, "pimoe-plugin-4242-9": nil, "other": nil} {
		if err := f.group(filepath.Join(f.own(), name), "", procs); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := open(f.system)
	if err != nil {
		t.Fatal(err)
	}
	if f.read(hostLeaf, "cgroup.procs") != "4242" || f.read("cgroup.subtree_control") != "+memory +pids +cpu" {
		t.Errorf("the host is in %q, divided by %q", f.read(hostLeaf, "cgroup.procs"), f.read("cgroup.subtree_control"))
	}
	for name, stays := range map[string]bool{"pimoe-plugin-999-1": false, "pimoe-plugin-77-1": true, "pimoe-plugin-4242-9": false, "other": true} {
		if _, err := os.Stat(filepath.Join(f.own(), name)); (err == nil) != stays {
			t.Errorf("%s: %v, should stay: %v", name, err, stays)
		}
	}
	l := Limits{Memory: 96 << 20, Threads: 512, CPU: 150}
	g, err := tree.New(l)
	if err != nil {
		t.Fatal(err)
	}
	name := "pimoe-plugin-4242-1"
	for file, want := range map[string]string{"memory.max": "100663296", "memory.oom.group": "1", "pids.max": "512", "cpu.max": "150000 100000"} {
		if got, _, _ := strings.Cut(f.read(name, file), "\n"); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
	if text := g.Describe(l); text != name+", memory 96 MiB, threads 512, cpu 150 %" {
		t.Errorf("described as %q", text)
	}
	if killed, limit := g.Killed(); killed || limit {
		t.Error("killed before anything has happened")
	}
	for events, want := range map[string][2]bool{"oom 1\noom_kill 1\n": {true, true}, "oom 0\noom_kill 2\n": {true, false}, "oom 3\noom_kill 0\n": {}} {
		f.put("cg/app.slice/pimoe.service/"+name+"/memory.events", events)
		if killed, limit := g.Killed(); [2]bool{killed, limit} != want {
			t.Errorf("%q: %v %v", events, killed, limit)
		}
	}
	f.put("cg/app.slice/pimoe.service/"+name+"/cgroup.procs", "9\n10\n") // what a plugin has left
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(f.own(), name)); err == nil {
		t.Error("the group stays")
	}
	// A host that was started by this one is in its leaf, and divides the same tree.
	f.put("self", "0::/app.slice/pimoe.service/"+hostLeaf+"\n")
	if again, err := open(f.system); err != nil || again.dir != tree.dir {
		t.Errorf("from within: %v %v", again, err)
	}
}

// Where the host may not divide its cgroup it says why, and leaves everything as it was.
func TestTreesThatAreNotOurs(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T) *fake
		want string
	}{
		{"no version 2", func(t *testing.T) *fake { f := newFake(t, "memory", fakePID); f.put("self", "4:memory:/x\n"); return f }, "no cgroups of version 2"},
		{"not mounted", func(t *testing.T) *fake {
			f := newFake(t, "memory", fakePID)
			f.put("mountinfo", "1 2 0:3 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
			return f
		}, "none"},
		{"another root", func(t *testing.T) *fake {
			f := newFake(t, "memory", fakePID)
			f.put("mountinfo", "30 23 0:26 /docker/1 /cg rw - cgroup2 none rw\n")
			return f
		}, "not below"},
		{"no memory controller", func(t *testing.T) *fake { return newFake(t, "pids cpu", fakePID) }, "no memory controller (it has: pids cpu)"},
		{"shared", func(t *testing.T) *fake { return newFake(t, "memory pids", fakePID, 17) }, "other processes in it, such as 17"},
		{"systemd's own", func(t *testing.T) *fake {
			f := newFake(t, "memory pids", fakePID)
			f.delegated = func(string) bool { return false }
			return f
		}, "Delegate=yes"},
		{"refused by the kernel", func(t *testing.T) *fake {
			f := newFake(t, "memory pids", fakePID)
			os.Remove(filepath.Join(f.own(), "cgroup.subtree_control"))
			if err := os.Mkdir(filepath.Join(f.own(), "cgroup.subtree_control"), 0o755); err != nil {
				t.Fatal(err)
			}
			return f
		}, "cgroup.subtree_control"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := c.make(t)
			_, err := open(f.system)
			if c.want == "none" {
				c.want = "no cgroups of version 2 are mounted"
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(f.own(), hostLeaf)); err == nil {
				t.Error("it has moved the host")
			}
			if procs := f.read("cgroup.procs"); !strings.Contains(procs, "4242") {
				t.Errorf("in the host's cgroup is %q", procs)
			}
		})
	}
}

// A group whose limits the kernel does not take is not left behind.
func TestGroupThatCanNotBeLimited(t *testing.T) {
	f := newFake(t, "memory pids", fakePID)
	tree, err := open(f.system)
	if err != nil {
		t.Fatal(err)
	}
	make := tree.sys.mkdir
	tree.sys.mkdir = func(path string) error {
		return errors.Join(make(path), os.Remove(filepath.Join(path, "memory.max")))
	}
	if _, err := tree.New(Limits{Memory: 1 << 20}); err == nil {
		t.Fatal("made without its limit")
	}
	if left, _ := filepath.Glob(filepath.Join(f.own(), groupPrefix+"*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

const inside = "PIMOE_TEST_IN_MOUNT_NAMESPACE"

// The kernel's own cgroups, in a mount namespace that only this test sees: a process starts in its group, what is left there ends
// with it, and nothing stays.
func TestKernelsCgroups(t *testing.T) {
	if os.Getenv(inside) == "" {
		if os.Geteuid() != 0 {
			t.Skip("only root can mount cgroups for itself")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestKernelsCgroups$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "--- SKIP") {
			t.Skipf("%s", out)
		}
		if err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	dir := os.Getenv(inside)
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("none", dir, "cgroup2", 0, "")); err != nil {
		t.Skipf("mount: %v", err)
	}
	mine := filepath.Join(dir, fmt.Sprintf("pimoe-test-%d", os.Getpid()))
	if err := os.Mkdir(mine, 0o755); err != nil {
		t.Skipf("this system lets nobody make cgroups: %v", err)
	}
	home, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if err := write(mine, "cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
		os.Remove(mine)
		t.Skipf("move: %v", err)
	}
	defer func() {
		for line := range strings.Lines(string(home)) {
			if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
				write(filepath.Join(dir, rest), "cgroup.procs", strconv.Itoa(os.Getpid()))
			}
		}
		if err := os.Remove(mine); err != nil {
			t.Errorf("left behind: %v", err)
		}
	}()
	s := machine
	s.optional = true // this system may have all controllers in version 1
	s.delegated = func(string) bool { return true }
	tree, err := open(s)
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(filepath.Join(mine, hostLeaf))
	t.Logf("controllers here: %v", tree.controllers)
	g, err := tree.New(Limits{Memory: 64 << 20, Threads: 16})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "sleep 600 & exec sleep 600")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: g.FD()}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if !g.Holds(cmd.Process.Pid) || g.Holds(os.Getpid()) {
		t.Error("it does not hold the process, or also this one")
	}
	for began := time.Now(); ; time.Sleep(time.Millisecond) { // until its child is there
		b, _ := os.ReadFile(filepath.Join(g.path, "cgroup.procs"))
		if len(strings.Fields(string(b))) == 2 {
			break
		}
		if time.Since(began) > 5*time.Second {
			t.Fatalf("in the group: %q", b)
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := g.Close(); err != nil {
		t.Errorf("close with a process that was left: %v", err)
	}
	if _, err := os.Stat(g.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the group stays: %v", err)
	}
}
