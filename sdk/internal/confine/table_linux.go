//go:build amd64 || arm64

package confine

import "golang.org/x/sys/unix"

// These are not in x/sys/unix by these names.
const (
	prSetVMA       = 0x53564d41
	fGetSeals      = 1034
	fDupFDCloexec  = 1030
	cloneThread    = unix.CLONE_THREAD | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	socketTypeMask = 0xf // SOCK_CLOEXEC and SOCK_NONBLOCK lie above
)

// table is what a plugin needs: Go's runtime, gRPC over a Unix socket that it listens on, shared memory, and a C library
// that starts. Most calls are those that strace shows of the project's plugins in all their phases; the others are what
// the C library and gRPC do in other moments (signals, errors, end). dynamic says that a loader begins the program.
func table(dynamic bool, profile Profile) []rule {
	rules := []rule{
		// Descriptors. openat: Landlock decides which.
		{name: "read", number: unix.SYS_READ}, {name: "write", number: unix.SYS_WRITE}, {name: "writev", number: unix.SYS_WRITEV},
		{name: "pread64", number: unix.SYS_PREAD64}, {name: "close", number: unix.SYS_CLOSE}, {name: "fstat", number: unix.SYS_FSTAT},
		{name: "openat", number: unix.SYS_OPENAT}, {name: "getdents64", number: unix.SYS_GETDENTS64},
		{name: "lseek", number: unix.SYS_LSEEK}, {name: "unlinkat", number: unix.SYS_UNLINKAT}, {name: "pipe2", number: unix.SYS_PIPE2},
		{name: "dup3", number: unix.SYS_DUP3}, {name: "eventfd2", number: unix.SYS_EVENTFD2},
		{name: "epoll_create1", number: unix.SYS_EPOLL_CREATE1}, {name: "epoll_ctl", number: unix.SYS_EPOLL_CTL},
		{name: "epoll_pwait", number: unix.SYS_EPOLL_PWAIT},
		// F_SETOWN and F_SETSIG would send signals to others.
		{name: "fcntl", number: unix.SYS_FCNTL, checks: []check{only("command is F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC or F_GET_SEALS", 1,
			unix.F_DUPFD, unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL, fDupFDCloexec, fGetSeals)}},

		// The control socket: it listens and never calls anybody.
		{name: "socket", number: unix.SYS_SOCKET, checks: []check{only("family is AF_UNIX", 0, unix.AF_UNIX),
			{arg: 1, mask: socketTypeMask, values: []uint32{unix.SOCK_STREAM}, about: "type is SOCK_STREAM"}}},
		{name: "bind", number: unix.SYS_BIND}, {name: "listen", number: unix.SYS_LISTEN}, {name: "accept4", number: unix.SYS_ACCEPT4},
		{name: "getsockname", number: unix.SYS_GETSOCKNAME}, {name: "getsockopt", number: unix.SYS_GETSOCKOPT}, {name: "setsockopt", number: unix.SYS_SETSOCKOPT},

		// Memory.
		{name: "mmap", number: unix.SYS_MMAP}, {name: "mprotect", number: unix.SYS_MPROTECT}, {name: "munmap", number: unix.SYS_MUNMAP},
		{name: "mremap", number: unix.SYS_MREMAP}, {name: "madvise", number: unix.SYS_MADVISE}, {name: "brk", number: unix.SYS_BRK},

		// Threads, not processes. clone3's flags lie where no filter can look.
		{name: "clone", number: unix.SYS_CLONE, checks: []check{{arg: 0, mask: cloneThread, values: []uint32{unix.CLONE_THREAD}, about: "it makes a thread in no new namespace"}}},
		{name: "clone3", number: unix.SYS_CLONE3, never: true, other: absent},
		{name: "futex", number: unix.SYS_FUTEX}, {name: "set_robust_list", number: unix.SYS_SET_ROBUST_LIST},
		{name: "set_tid_address", number: unix.SYS_SET_TID_ADDRESS}, {name: "rseq", number: unix.SYS_RSEQ},
		{name: "exit", number: unix.SYS_EXIT}, {name: "exit_group", number: unix.SYS_EXIT_GROUP},
		{name: "getpid", number: unix.SYS_GETPID}, {name: "gettid", number: unix.SYS_GETTID},
		{name: "sched_yield", number: unix.SYS_SCHED_YIELD}, {name: "sched_getaffinity", number: unix.SYS_SCHED_GETAFFINITY},
		{name: "sched_setaffinity", number: unix.SYS_SCHED_SETAFFINITY, checks: []check{only("of the calling thread", 0, 0)}},

		// Signals, to itself alone.
		{name: "rt_sigaction", number: unix.SYS_RT_SIGACTION}, {name: "rt_sigprocmask", number: unix.SYS_RT_SIGPROCMASK},
		{name: "rt_sigreturn", number: unix.SYS_RT_SIGRETURN}, {name: "sigaltstack", number: unix.SYS_SIGALTSTACK},
		{name: "restart_syscall", number: unix.SYS_RESTART_SYSCALL},
		{name: "kill", number: unix.SYS_KILL, checks: []check{{arg: 0, about: "to itself"}}},
		{name: "tgkill", number: unix.SYS_TGKILL, checks: []check{{arg: 0, about: "to itself"}}},

		// Time and chance.
		{name: "nanosleep", number: unix.SYS_NANOSLEEP}, {name: "clock_nanosleep", number: unix.SYS_CLOCK_NANOSLEEP},
		{name: "clock_gettime", number: unix.SYS_CLOCK_GETTIME}, {name: "getrandom", number: unix.SYS_GETRANDOM},

		// Settings of its own. A plugin must not outlive its host: PR_SET_PDEATHSIG is not among them.
		{name: "prctl", number: unix.SYS_PRCTL, checks: []check{only("option is PR_SET_NAME, PR_GET_NAME, PR_SET_DUMPABLE, PR_GET_DUMPABLE or PR_SET_VMA", 0,
			unix.PR_SET_NAME, unix.PR_GET_NAME, unix.PR_SET_DUMPABLE, unix.PR_GET_DUMPABLE, prSetVMA)}},
		{name: "prlimit64", number: unix.SYS_PRLIMIT64, checks: []check{only("of itself", 0, 0)}},
	}
	if dynamic { // the loader looks at libraries by it. Landlock does not hide what a file's owner, mode and size are
		rules = append(rules, rule{name: fstatatName, number: fstatat})
	}
	switch profile {
	case ProfilePython:
		rules = append(rules, interpreterRules...)
		rules = append(rules, interpreterArchitecture...)
	case ProfileCUDA:
		rules = append(rules, nvidiaRules...)
		rules = append(rules, nvidiaArchitecture...)
	}
	rules = append(rules, architectureRules...)
	for _, h := range hopeless {
		rules = append(rules, rule{name: h.name, number: h.number, never: true, other: killed})
	}
	return rules
}

// interpreterRules are what strace shows of Python with grpcio and numpy beside the table: gRPC's C++ core waits, sends and
// receives by other calls than Go's, and Python asks where it is. Messages can go nowhere but to who has called
// the control socket: all sockets are streams, on which the kernel refuses an address.
var interpreterRules = []rule{
	{name: "sendmsg", number: unix.SYS_SENDMSG}, {name: "recvmsg", number: unix.SYS_RECVMSG}, {name: "getpeername", number: unix.SYS_GETPEERNAME},
	{name: "shutdown", number: unix.SYS_SHUTDOWN}, {name: "uname", number: unix.SYS_UNAME}, {name: "sysinfo", number: unix.SYS_SYSINFO},
}

// hopeless are calls that only root may make, to change the kernel: who tries one has been taken over.
var hopeless = []rule{
	{name: "init_module", number: unix.SYS_INIT_MODULE}, {name: "finit_module", number: unix.SYS_FINIT_MODULE},
	{name: "delete_module", number: unix.SYS_DELETE_MODULE}, {name: "kexec_load", number: unix.SYS_KEXEC_LOAD},
	{name: "kexec_file_load", number: unix.SYS_KEXEC_FILE_LOAD}, {name: "reboot", number: unix.SYS_REBOOT},
}
