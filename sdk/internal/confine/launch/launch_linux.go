package launch

import (
	"syscall"
	"unsafe"
)

// init runs on the process's first thread, which the runtime keeps for it: what binds a thread binds the plugin.
func init() {
	fd, ok := syscall.Getenv(Variable)
	if !ok {
		return
	}
	n := 0
	for _, c := range []byte(fd) {
		n = n*10 + int(c-'0')
	}
	run(n)
}

// exitLost is the exit code of a process that could not become the plugin; the host reads why in the plan.
const exitLost = 127

// Numbers that package syscall has not, the same on every architecture.
const (
	sysAddRule      = 445
	sysRestrictSelf = 446
	prSetNoNewPrivs = 38
	prCapbsetDrop   = 24
	rulePathBeneath = 1
	mapNoReplace    = 0x100000
	openPath        = 0x200000
	lastCapability  = 63
)

func run(fd int) {
	p := mapPlan(fd)
	if p == nil {
		const text = "this process was asked to become a plugin, without a plan\n"
		syscall.Write(2, []byte(text))
		syscall.Exit(exitLost)
	}
	p.hideDescriptors(fd)
	p.note(StepOOM, p.OOMScore != 0, p.raiseOOM)
	p.note(StepNamespaces, p.Namespaces != 0, p.leave)
	p.note(StepFolder, p.FirstUser != 0, p.takeFolder)
	p.note(StepLimits, p.LimitCount != 0, p.limit)
	p.note(StepUser, p.FirstUser != 0, p.changeUser)
	p.note(StepCapabilities, p.KeepUser != 0, dropCapabilities)
	p.note(StepNoNewPrivs, p.NoNewPrivs != 0, func() syscall.Errno { return prctl(prSetNoNewPrivs, 1, 0) })
	p.note(StepLandlock, p.Ruleset >= 0, p.restrict)
	p.note(StepParentDeath, true, p.dieWithParent)
	p.note(StepSeccomp, p.FilterCount != 0, p.filter)
	p.exec()
	syscall.Exit(exitLost)
}

// mapPlan maps the plan where its pointers want it.
func mapPlan(fd int) *Plan {
	const rw = syscall.PROT_READ | syscall.PROT_WRITE
	b, err := syscall.Mmap(fd, 0, PlanSize, rw, syscall.MAP_SHARED)
	if err != nil {
		return nil
	}
	p := (*Plan)(unsafe.Pointer(&b[0]))
	if p.Magic != Magic {
		return nil
	}
	at, _, errno := syscall.RawSyscall6(syscall.SYS_MMAP, uintptr(p.Base), uintptr(PlanSize), rw, syscall.MAP_SHARED|mapNoReplace, uintptr(fd), 0)
	if errno != 0 || uint64(at) != p.Base {
		return nil
	}
	return p
}

// hideDescriptors closes what is not the plugin's when it begins.
func (p *Plan) hideDescriptors(plan int) {
	for _, fd := range []int{plan, int(p.Exe), int(p.Done), int(p.Ruleset)} {
		if fd >= 0 {
			syscall.CloseOnExec(fd)
		}
	}
}

func (p *Plan) note(step int, asked bool, f func() syscall.Errno) {
	if !asked {
		return
	}
	if errno := f(); errno != 0 {
		p.Results[step] = Result{Refused, int32(errno)}
		return
	}
	p.Results[step].State = Applied
}

func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if e, ok := err.(syscall.Errno); ok {
		return e
	}
	return syscall.EINVAL
}

func prctl(option, a, b uintptr) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, option, a, b, 0, 0, 0)
	return errno
}

func (p *Plan) raiseOOM() syscall.Errno {
	fd, err := syscall.Open("/proc/self/oom_score_adj", syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return errnoOf(err)
	}
	defer syscall.Close(fd)
	var text [8]byte
	n, at := p.OOMScore, len(text)
	for ; n > 0; n /= 10 {
		at--
		text[at] = byte('0' + n%10)
	}
	_, err = syscall.Write(fd, text[at:])
	return errnoOf(err)
}

func (p *Plan) leave() syscall.Errno {
	_, _, errno := syscall.RawSyscall(syscall.SYS_UNSHARE, uintptr(p.Namespaces), 0, 0)
	return errno
}

// user is the process's own: no two living processes have the same number.
func (p *Plan) user() int { return int(p.FirstUser + uint32(syscall.Getpid())%p.Users) }

func (p *Plan) takeFolder() syscall.Errno { return errnoOf(syscall.Chown(".", p.user(), p.user())) }

func (p *Plan) limit() (first syscall.Errno) {
	for _, l := range p.Limits[:p.LimitCount] {
		var old syscall.Rlimit
		if err := syscall.Getrlimit(int(l.Resource), &old); err == nil && old.Max < l.Value {
			l.Value = old.Max
		}
		v := [2]uint64{l.Value, l.Value}
		// Not package syscall's own: that one would restore a limit at the exec.
		_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, uintptr(l.Resource), uintptr(unsafe.Pointer(&v)), 0, 0, 0)
		if first == 0 {
			first = errno
		}
	}
	return first
}

// changeUser uses the calls for one thread: the exec ends the others.
func (p *Plan) changeUser() syscall.Errno {
	u := uintptr(p.user())
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return errno
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, u, u, u); errno != 0 {
		return errno
	}
	_, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, u, u, u)
	return errno
}

// dropCapabilities takes them out of the bounding set too, from where an exec as root would bring them back.
func dropCapabilities() syscall.Errno {
	for c := range uintptr(lastCapability + 1) {
		if errno := prctl(prCapbsetDrop, c, 0); errno != 0 && errno != syscall.EINVAL { // EINVAL: the kernel has no such
			return errno
		}
	}
	header := [2]uint32{0x20080522, 0} // version 3, this thread
	var none [6]uint32
	_, _, errno := syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	return errno
}

// restrict adds what only the process itself can name, its own threads, to the host's rules, and obeys them.
func (p *Plan) restrict() syscall.Errno {
	if p.TaskAccess != 0 {
		fd, err := syscall.Open("/proc/self/task", openPath|syscall.O_CLOEXEC, 0)
		if err != nil {
			return errnoOf(err)
		}
		defer syscall.Close(fd)
		var rule struct {
			access uint64
			fd     int32
		}
		rule.access, rule.fd = p.TaskAccess, int32(fd)
		if _, _, errno := syscall.RawSyscall6(sysAddRule, uintptr(p.Ruleset), rulePathBeneath, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
			return errno
		}
	}
	_, _, errno := syscall.RawSyscall(sysRestrictSelf, uintptr(p.Ruleset), 0, 0)
	return errno
}

// dieWithParent ends the process if the host has ended already: nothing would tell it.
func (p *Plan) dieWithParent() syscall.Errno {
	errno := prctl(syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0)
	if syscall.Getppid() != int(p.Parent) {
		syscall.Exit(exitLost)
	}
	return errno
}

func (p *Plan) filter() syscall.Errno {
	for _, i := range p.PIDs {
		if i >= 0 {
			p.Filter[i].K = uint32(syscall.Getpid())
		}
	}
	program := syscall.SockFprog{Len: uint16(p.FilterCount), Filter: &p.Filter[0]}
	const modeFilter = 2
	return prctl(syscall.PR_SET_SECCOMP, modeFilter, uintptr(unsafe.Pointer(&program)))
}

// exec becomes the plugin. The filter lets these pointers pass and no others.
func (p *Plan) exec() {
	const emptyPath = 0x1000
	_, _, errno := syscall.RawSyscall6(sysExecveat, uintptr(p.Exe), uintptr(p.Empty), uintptr(p.Argv), uintptr(p.Env), emptyPath, 0)
	p.Results[StepExec] = Result{Refused, int32(errno)}
}
