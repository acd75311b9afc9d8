//go:build amd64 || arm64

package confine

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk/internal/cgroup"
	"github.com/pimoe/pimoe/sdk/internal/confine/launch"
)

// Supported says that this build can confine.
const Supported = true

// Spec is one process to start.
type Spec struct {
	Args    []string
	Env     []string
	Dir     string // its private folder, where it starts
	Exe     *Executable
	Files   []*os.File // that it inherits, from descriptor 3 on
	Weights int64      // bytes of files that it will map
	Shared  int64      // bytes of memory that it shares with the host
	Tree    *cgroup.Tree
	NoTree  string // why there is no Tree
	Policy  Policy
	Profile Profile
	Reads   []string // folders with libraries that it may read
}

// Launch is a start under way. Start Cmd, then call Wait, then Close.
type Launch struct {
	Cmd   *exec.Cmd
	Group *cgroup.Group // that the process was started in, nil if in the host's; whoever started it closes it

	plan     *launch.Plan
	memory   []byte
	keep     []*os.File // of this process, until Close
	done     *os.File
	measures []Measure
	ownUser  bool
	rules    int
	abi      int
	noRules  error // why there is no ruleset
	reads    []string
	userns   bool
	nsReason string
	bounds   cgroup.Limits // of the group
	noGroup  string        // why there is none
}

// oomScore is added to the score of a plugin: the kernel takes any of them before the host and before most others.
const oomScore = 500

// New prepares a start: everything that the host can do before the fork.
func New(s Spec) (*Launch, error) {
	l := &Launch{ownUser: s.Policy.Users > 0 && os.Geteuid() == 0, reads: s.Reads}
	if err := l.prepare(s); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Launch) prepare(s Spec) error {
	fd, err := unix.MemfdCreate("pimoe-plan", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	file := os.NewFile(uintptr(fd), "plan")
	l.keep = append(l.keep, file)
	if err := file.Truncate(int64(launch.PlanSize)); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	if l.memory, err = unix.Mmap(fd, 0, launch.PlanSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("plan: map: %w", err)
	}
	l.plan = (*launch.Plan)(unsafe.Pointer(&l.memory[0]))
	files := append(append([]*os.File(nil), s.Files...), file)
	inherit := func(f *os.File) int32 {
		files = append(files, f)
		return int32(2 + len(files))
	}
	p := l.plan
	planFD := 2 + len(files)
	p.Magic, p.Base, p.Parent = launch.Magic, randomBase(), int32(os.Getpid())
	p.Exe = inherit(s.Exe.file)
	var written *os.File
	if l.done, written, err = os.Pipe(); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	l.keep = append(l.keep, written)
	p.Done = inherit(written)
	if p.Ruleset = -1; l.landlock(s) {
		p.Ruleset = inherit(l.keep[len(l.keep)-1])
	}
	p.NoNewPrivs = 1
	l.score()
	l.users(s.Policy)
	l.limits(s)
	if err := l.texts(s.Args, s.Env); err != nil {
		return err
	}
	if err := l.seccomp(s.Exe.dynamic, s.Profile); err != nil {
		return err
	}
	l.Cmd = &exec.Cmd{
		Path: "/proc/self/exe", Args: s.Args[:1], Dir: s.Dir, ExtraFiles: files,
		Env:         []string{launch.Variable + "=" + strconv.Itoa(planFD), "GOMAXPROCS=1", "GOGC=off"},
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	l.group(s)
	return nil
}

// booksOfKernel is what the kernel itself may need for a process: page tables, stacks, sockets.
const booksOfKernel = 64 << 20

// group makes the process's cgroup. Its memory is what the limit of private memory allows and, since whoever touches a page
// first is charged for it, the weights and the shared memory.
func (l *Launch) group(s Spec) {
	if s.Tree == nil {
		l.noGroup = s.NoTree
		return
	}
	l.bounds = cgroup.Limits{Threads: maxThreads, CPU: s.Policy.CPU}
	if m := memoryLimit(s); m > 0 {
		l.bounds.Memory = m + s.Weights + s.Shared + booksOfKernel
	}
	g, err := s.Tree.New(l.bounds)
	if err != nil {
		l.noGroup = err.Error()
		return
	}
	l.Group = g
	l.Cmd.SysProcAttr.UseCgroupFD, l.Cmd.SysProcAttr.CgroupFD = true, g.FD()
}

// leaveGroup makes the command one that starts in the host's own cgroup.
func (l *Launch) leaveGroup(cmd exec.Cmd, why error) {
	l.noGroup = "the system refuses: " + why.Error()
	l.Group.Close()
	l.Group = nil
	attr := *cmd.SysProcAttr
	attr.UseCgroupFD = false
	cmd.SysProcAttr = &attr
	l.Cmd = &cmd
}

// randomBase is where the child maps its plan: above what programs and Go's heap use, below the end of every address
// space that is meant.
func randomBase() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	const low, bits = 0x4000_0000_0000, 44
	return low + binary.LittleEndian.Uint64(b[:])&(1<<bits-1)&^0xffff
}

// landlock makes the rules; false if there are none.
func (l *Launch) landlock(s Spec) bool {
	abi, err := landlockABI()
	if err != nil {
		l.noRules = err
		return false
	}
	fd, err := ruleset(abi, s)
	if err != nil {
		l.noRules = err
		return false
	}
	l.abi = abi
	l.keep = append(l.keep, os.NewFile(uintptr(fd), "rules"))
	l.plan.TaskAccess = readTree
	return true
}

// score is the host's own and oomScore, at most the kernel's greatest.
func (l *Launch) score() {
	own := 0
	if b, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil {
		own, _ = strconv.Atoi(string(trimNewline(b)))
	}
	l.plan.OOMScore = int32(min(max(own, 0)+oomScore, 1000))
}

func trimNewline(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		return b[:n-1]
	}
	return b
}

// users chooses how the process is kept apart from those of the host's user.
func (l *Launch) users(p Policy) {
	if os.Geteuid() == 0 {
		l.plan.Namespaces = unix.CLONE_NEWNET | unix.CLONE_NEWIPC
		if l.ownUser {
			l.plan.FirstUser, l.plan.Users = p.FirstUser, p.Users
		} else {
			l.plan.KeepUser = 1
		}
	}
}

// The limits of a process. A Go program with some lanes has two dozen threads and as many descriptors of its own.
const (
	maxThreads     = 512
	moreFiles      = 256
	baseMemory     = 2 << 30
	memoryByWeight = 4 // a copy of the weights in another packing or in float32, twice
)

func (l *Launch) limits(s Spec) {
	p := l.plan
	set := func(resource int, v uint64) {
		p.Limits[p.LimitCount] = launch.Limit{Resource: uint32(resource), Value: v}
		p.LimitCount++
	}
	set(unix.RLIMIT_CORE, 0)
	set(unix.RLIMIT_FSIZE, 0) // the pipes and the shared memory are no files that grow
	set(unix.RLIMIT_MSGQUEUE, 0)
	set(unix.RLIMIT_MEMLOCK, 0)
	set(unix.RLIMIT_RTPRIO, 0)
	set(unix.RLIMIT_NICE, 0)
	set(unix.RLIMIT_NOFILE, uint64(3+len(s.Files)+moreFiles))
	if l.ownUser { // a limit for the user's processes together
		set(unix.RLIMIT_NPROC, maxThreads)
	}
	if m := memoryLimit(s); m > 0 {
		set(unix.RLIMIT_DATA, uint64(m))
	}
}

func memoryLimit(s Spec) int64 {
	if s.Policy.Memory != 0 {
		return s.Policy.Memory
	}
	return baseMemory + memoryByWeight*s.Weights
}

// texts lays out what execve wants, at the addresses that the child will see.
func (l *Launch) texts(args, env []string) error {
	p := l.plan
	base := p.Base + uint64(unsafe.Offsetof(p.Text))
	used := 8 // the first bytes are the empty path
	p.Empty = base
	put := func(list []string) (uint64, error) {
		at := make([]uint64, 0, len(list)+1)
		for _, s := range list {
			if used+len(s)+1 > len(p.Text) {
				return 0, errors.New("arguments and environment are too long")
			}
			at = append(at, base+uint64(used))
			used += copy(p.Text[used:], s) + 1
		}
		used = (used + 7) &^ 7
		array := used
		for _, a := range append(at, 0) {
			if used+8 > len(p.Text) {
				return 0, errors.New("arguments and environment are too long")
			}
			binary.LittleEndian.PutUint64(p.Text[used:], a)
			used += 8
		}
		return base + uint64(array), nil
	}
	var err error
	if p.Argv, err = put(args); err != nil {
		return err
	}
	p.Env, err = put(env)
	return err
}

func (l *Launch) seccomp(dynamic bool, profile Profile) error {
	p := l.plan
	rules := append(table(dynamic, profile), once(int(p.Exe), p.Empty, p.Argv, p.Env))
	l.rules = count(rules)
	prog, err := assemble(rules)
	if err != nil {
		return err
	}
	p.FilterCount = uint32(copy(p.Filter[:], prog.code))
	for i := range p.PIDs {
		p.PIDs[i] = -1
	}
	for i, at := range prog.pids {
		p.PIDs[i] = int32(at)
	}
	return nil
}

// noUserNamespaces is why the system refuses them, once it has.
var noUserNamespaces atomic.Pointer[string]

var namespaceOnce sync.Mutex

// Start runs f, which starts the command, in its cgroup if the system allows it.
func (l *Launch) Start(f func(*exec.Cmd) error) error {
	if l.Group == nil {
		return l.start(f)
	}
	before := *l.Cmd
	err := l.start(f)
	if err != nil {
		l.leaveGroup(before, err)
		err = l.start(f)
	}
	return err
}

// start is Start in the cgroup that the command names. An ordinary user's host first tries with a user namespace, where the process may
// be kept from the network.
func (l *Launch) start(f func(*exec.Cmd) error) error {
	if os.Geteuid() == 0 {
		return f(l.Cmd)
	}
	if why := noUserNamespaces.Load(); why != nil {
		l.nsReason = *why
		return f(l.Cmd)
	}
	namespaceOnce.Lock()
	defer namespaceOnce.Unlock()
	plain := *l.Cmd
	attr := *plain.SysProcAttr
	attr.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWIPC
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	l.Cmd.SysProcAttr = &attr
	err := f(l.Cmd)
	if err == nil {
		l.userns = true
		return nil
	}
	why := fmt.Sprintf("the system refuses user namespaces: %v", err)
	l.Cmd = &plain
	if err := f(l.Cmd); err != nil {
		return err
	}
	l.nsReason = why
	noUserNamespaces.Store(&why)
	return nil
}

// Wait returns when the process has become the plugin. Its error is that of the exec.
func (l *Launch) Wait(deadline time.Time) error {
	for _, f := range l.keep {
		f.Close()
	}
	l.keep = nil
	l.done.SetReadDeadline(deadline)
	_, err := io.Copy(io.Discard, l.done)
	if err != nil {
		return err
	}
	l.judge()
	if r := l.plan.Results[launch.StepExec]; r.State == launch.Refused {
		return syscall.Errno(r.Errno)
	}
	return nil
}

// Close frees what the start needed.
func (l *Launch) Close() {
	for _, f := range l.keep {
		f.Close()
	}
	l.keep = nil
	if l.done != nil {
		l.done.Close()
	}
	if l.memory != nil {
		unix.Munmap(l.memory)
		l.memory, l.plan = nil, nil
	}
}

// judge words the results.
func (l *Launch) judge() {
	add := func(name string, applied bool, detail string) {
		l.measures = append(l.measures, Measure{name, applied, detail})
	}
	outcome := func(step int) (ok bool, why string) {
		switch r := l.plan.Results[step]; r.State {
		case launch.Applied:
			return true, ""
		case launch.Refused:
			return false, "the system refuses: " + syscall.Errno(r.Errno).Error()
		default:
			return false, "not asked for"
		}
	}
	step := func(name string, step int, detail string) bool {
		ok, why := outcome(step)
		if !ok {
			detail = why
		}
		add(name, ok, detail)
		return ok
	}
	add(MeasureExecutable, true, "a copy in memory that nobody can change")
	switch ok, why := outcome(launch.StepUser); {
	case ok:
		add(MeasureUser, true, "a user of its own")
	case os.Geteuid() != 0:
		add(MeasureUser, false, "the host is an ordinary user and can't start processes of another")
	default:
		add(MeasureUser, false, why)
	}
	switch ok, why := outcome(launch.StepNamespaces); {
	case l.userns:
		add(MeasureNamespaces, true, "user, network, ipc; none but the loopback interface, which is down")
	case ok:
		add(MeasureNamespaces, true, "network, ipc; none but the loopback interface, which is down")
	case l.nsReason != "":
		add(MeasureNamespaces, false, l.nsReason)
	default:
		add(MeasureNamespaces, false, why)
	}
	step(MeasureLimits, launch.StepLimits, l.limitText())
	step(MeasureNoNewPrivs, launch.StepNoNewPrivs, "")
	if l.noRules != nil {
		add(MeasureLandlock, false, l.noRules.Error())
	} else {
		step(MeasureLandlock, launch.StepLandlock, fmt.Sprintf("version %d: no files but %s, no network, no signals to others", l.abi, l.readable()))
	}
	step(MeasureSeccomp, launch.StepSeccomp, fmt.Sprintf("%d system calls, on %s", l.rules, runtime.GOARCH))
	if l.Group != nil {
		add(MeasureCgroup, true, l.Group.Describe(l.bounds))
	} else {
		add(MeasureCgroup, false, "none ("+l.noGroup+")")
	}
	step(MeasureOOM, launch.StepOOM, fmt.Sprintf("%d", l.plan.OOMScore))
}

// readable names the files that the process can read.
func (l *Launch) readable() string {
	if len(l.reads) == 0 {
		return "an own folder"
	}
	return "an own folder and, to read, " + strings.Join(l.reads, ", ")
}

func (l *Launch) limitText() string {
	names := map[uint32]string{unix.RLIMIT_DATA: "memory", unix.RLIMIT_NOFILE: "files", unix.RLIMIT_NPROC: "threads"}
	text := "file size 0, core 0"
	for _, r := range l.plan.Limits[:l.plan.LimitCount] {
		if n := names[r.Resource]; n == "memory" {
			text += fmt.Sprintf(", %s %d MiB", n, r.Value>>20)
		} else if n != "" {
			text += fmt.Sprintf(", %s %d", n, r.Value)
		}
	}
	return text
}
