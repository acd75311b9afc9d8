//go:build linux && (amd64 || arm64)

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk/internal/bootstrap"
)

// peek reads the bootstrap document and leaves its descriptor to serve.
func peek() (doc bootstrap.Document) {
	fd, err := strconv.Atoi(os.Getenv(bootstrap.FDKey))
	if err != nil {
		return doc
	}
	b := make([]byte, 1<<20)
	if n, err := unix.Pread(fd, b, 0); err == nil {
		json.Unmarshal(b[:n], &doc) // a document that is not there shows as descriptors that are missing
	}
	return doc
}

// probe is one try and the answers that mean that it has failed for the right reason.
type probe struct {
	name string
	try  func() error
	want []syscall.Errno
}

var (
	filtered = []syscall.Errno{unix.EPERM}              // by the table of system calls
	fenced   = []syscall.Errno{unix.EACCES}             // by Landlock or the file's mode
	closed   = []syscall.Errno{unix.EACCES, unix.EPERM} // the folder is closed too
	absent   = []syscall.Errno{unix.ENOSYS}             // C libraries try the older call
	sealed   = []syscall.Errno{unix.EPERM, unix.EACCES} // a seal, or a descriptor for reading
	too      = []syscall.Errno{unix.EPERM, unix.EINVAL} // more than the limit
)

func open(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func create(path string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func socket(domain, kind, protocol int) error {
	fd, err := unix.Socket(domain, kind, protocol)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func connect(domain int, to unix.Sockaddr) error {
	fd, err := unix.Socket(domain, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, to)
}

func vmRead(pid int) error {
	b := make([]byte, 8)
	local := []unix.Iovec{{Base: &b[0], Len: 8}}
	_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
	return err
}

func vmWrite(pid int) error {
	b := make([]byte, 8)
	_, err := unix.ProcessVMWritev(pid, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
	return err
}

func ptrace(pid int) error { return unix.PtraceSeize(pid) }

func pidfd(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func idle(pid int) error {
	return unix.SchedSetAttr(pid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
}

// call is a system call with these arguments.
func call(nr uintptr, args ...uintptr) func() error {
	return func() error {
		var a [6]uintptr
		copy(a[:], args)
		r, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno != 0 {
			return errno
		}
		if nr == unix.SYS_CLONE && r == 0 { // the child of a fork that should not have been
			unix.Exit(0)
		}
		return nil
	}
}

func text(s string) uintptr {
	b, _ := unix.BytePtrFromString(s)
	kept = append(kept, b)
	return uintptr(unsafe.Pointer(b))
}

var kept []*byte // texts whose addresses were given away

func mapShared(fd, prot int) error {
	if fd < 0 {
		return fmt.Errorf("no descriptor")
	}
	b, err := unix.Mmap(fd, 0, 4096, prot, unix.MAP_SHARED)
	if err == nil {
		unix.Munmap(b)
	}
	return err
}

// probe tells what each try gave, and whether that is what it must give.
func (e *escape) probe() {
	for _, p := range e.probes() {
		got := outcome(p.try())
		good := slices.ContainsFunc(p.want, func(w syscall.Errno) bool { return unix.ErrnoName(w) == got })
		fmt.Fprintf(os.Stderr, "probe\t%s\t%s\t%v\n", p.name, got, good)
	}
}

func (e *escape) probes() []probe {
	var list []probe
	list = append(list, e.files()...)
	list = append(list, e.processes()...)
	list = append(list, e.network()...)
	list = append(list, programs()...)
	list = append(list, kernel()...)
	return append(list, e.memory()...)
}

func (e *escape) files() (list []probe) {
	host, sibling := "/proc/"+strconv.Itoa(e.target.host), "/proc/"+strconv.Itoa(e.target.sibling)
	for _, path := range []string{
		"/etc/passwd", "/etc/shadow", "/etc/hostname", "/", "/proc", "/tmp", "/root", "/dev", "/dev/null", "/dev/shm",
		"/proc/cpuinfo", "/proc/meminfo", "/proc/1/environ", "/proc/1/cmdline", "/proc/self/environ", "/proc/self/maps", "/proc/self/root", "/proc/self/cwd/..",
		"/sys/kernel", "/sys/class/net", "/sys/fs/cgroup", "/proc/sys/kernel/hostname", "/proc/net/unix", "..", "../..",
		host + "/environ", host + "/mem", host + "/maps", host + "/cmdline", host + "/fd", host + "/status", host + "/task",
		sibling + "/environ", sibling + "/mem", sibling + "/maps", sibling + "/cmdline", sibling + "/fd", sibling + "/root", sibling + "/task",
		e.target.secret, strings.TrimSuffix(e.target.socket, "/"+lastElement(e.target.socket)),
	} {
		list = append(list, probe{"open " + generic(path, e.target), func() error { return open(path) }, fenced})
	}
	for _, device := range []string{"/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse"} { // not every machine has them
		list = append(list, probe{"open " + device, func() error { return open(device) }, []syscall.Errno{unix.EACCES, unix.ENOENT}})
	}
	at := unix.AT_FDCWD
	return append(list,
		probe{"create a file in the own folder", func() error { return create("loot") }, closed},
		probe{"create a file in /tmp", func() error { return create("/tmp/loot") }, fenced},
		probe{"create a file in /dev/shm", func() error { return create("/dev/shm/loot") }, fenced},
		probe{"an unnamed file", func() error {
			fd, err := unix.Open("/tmp", unix.O_TMPFILE|unix.O_RDWR, 0o600)
			unix.Close(fd)
			return err
		}, fenced},
		probe{"make a folder", func() error { return unix.Mkdirat(at, "d", 0o700) }, filtered},
		probe{"make a symbolic link", func() error { return unix.Symlinkat("/", at, "l") }, filtered},
		probe{"make a hard link", func() error { return unix.Linkat(at, e.target.secret, at, "l", 0) }, filtered},
		probe{"make a device", func() error { return unix.Mknodat(at, "n", unix.S_IFBLK|0o600, 0x800) }, filtered},
		probe{"rename", func() error { return unix.Renameat(at, e.target.secret, at, "r") }, filtered},
		probe{"remove the host's file", func() error { return unix.Unlinkat(at, e.target.secret, 0) }, fenced},
		probe{"remove the sibling's socket", func() error { return unix.Unlinkat(at, e.target.socket, 0) }, fenced},
		probe{"truncate the host's file", func() error { return unix.Truncate(e.target.secret, 0) }, filtered},
		probe{"stat the host's file", func() error { return unix.Fstatat(at, e.target.secret, &unix.Stat_t{}, 0) }, filtered},
		probe{"access the host's file", func() error { return unix.Faccessat(at, e.target.secret, unix.R_OK, 0) }, filtered},
		probe{"read a link", func() error { _, err := unix.Readlinkat(at, "/proc/self/exe", make([]byte, 99)); return err }, filtered},
		probe{"mode of the own folder", func() error { return unix.Fchmodat(at, ".", 0o777, 0) }, filtered},
		probe{"owner of the own folder", func() error { return unix.Fchownat(at, ".", 0, 0, 0) }, filtered},
		probe{"change folder", func() error { return unix.Chdir("/") }, filtered},
		probe{"change root", func() error { return unix.Chroot("/") }, filtered},
		probe{"watch files", func() error { _, err := unix.InotifyInit1(0); return err }, filtered},
		probe{"file handles", call(unix.SYS_OPEN_BY_HANDLE_AT, 0, 0, 0), filtered},
	)
}

func lastElement(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// generic names a path alike in every run.
func generic(path string, t target) string {
	path = strings.ReplaceAll(path, "/proc/"+strconv.Itoa(t.host), "the host's")
	path = strings.ReplaceAll(path, "/proc/"+strconv.Itoa(t.sibling), "the sibling's")
	switch path {
	case t.secret:
		return "the host's file"
	case strings.TrimSuffix(t.socket, "/"+lastElement(t.socket)):
		return "the sibling's folder"
	}
	return path
}

func (e *escape) processes() (list []probe) {
	for name, pid := range map[string]int{"the host": e.target.host, "the sibling": e.target.sibling} {
		list = append(list,
			probe{"ptrace " + name, func() error { return ptrace(pid) }, filtered},
			probe{"read the memory of " + name, func() error { return vmRead(pid) }, filtered},
			probe{"write the memory of " + name, func() error { return vmWrite(pid) }, filtered},
			probe{"kill " + name, func() error { return unix.Kill(pid, unix.SIGKILL) }, filtered},
			probe{"kill a thread of " + name, func() error { return unix.Tgkill(pid, pid, unix.SIGKILL) }, filtered},
			probe{"queue a signal for " + name, call(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), 9, 0), filtered},
			probe{"pidfd of " + name, func() error { return pidfd(pid) }, filtered},
			probe{"limits of " + name, func() error { return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: 1}, nil) }, filtered},
			probe{"read the limits of " + name, func() error { return unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &unix.Rlimit{}) }, filtered},
			probe{"cores of " + name, func() error { return unix.SchedSetaffinity(pid, &unix.CPUSet{1}) }, filtered},
			probe{"scheduling of " + name, func() error { return idle(pid) }, filtered},
			probe{"priority of " + name, func() error { return unix.Setpriority(unix.PRIO_PROCESS, pid, 19) }, filtered},
			probe{"pages of " + name, call(unix.SYS_MOVE_PAGES, uintptr(pid), 0, 0, 0, 0, 0), filtered},
			probe{"compare with " + name, call(unix.SYS_KCMP, uintptr(pid), uintptr(pid), 0, 0, 0), filtered},
		)
	}
	return append(list,
		probe{"kill everybody", func() error { return unix.Kill(-1, unix.SIGKILL) }, filtered},
		probe{"kill the group", func() error { return unix.Kill(0, unix.SIGKILL) }, filtered},
		probe{"be traced", call(unix.SYS_PTRACE, 0, 0, 0, 0), filtered},
		probe{"outlive the host", func() error { return unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0) }, filtered},
		probe{"adopt orphans", func() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }, filtered},
		probe{"leave the session", func() error { _, err := unix.Setsid(); return err }, filtered},
		probe{"leave the group", func() error { return unix.Setpgid(0, 0) }, filtered},
		probe{"signals by way of a descriptor", func() error {
			_, err := unix.FcntlInt(0, unix.F_SETOWN, e.target.host)
			return err
		}, filtered},
		probe{"another signal of a descriptor", func() error { _, err := unix.FcntlInt(0, unix.F_SETSIG, 9); return err }, filtered},
	)
}

func (e *escape) network() (list []probe) {
	for name, s := range map[string][3]int{
		"tcp": {unix.AF_INET, unix.SOCK_STREAM, 0}, "udp": {unix.AF_INET, unix.SOCK_DGRAM, 0}, "tcp6": {unix.AF_INET6, unix.SOCK_STREAM, 0},
		"udp6": {unix.AF_INET6, unix.SOCK_DGRAM, 0}, "raw": {unix.AF_INET, unix.SOCK_RAW, 1}, "packet": {unix.AF_PACKET, unix.SOCK_RAW, 0},
		"netlink": {unix.AF_NETLINK, unix.SOCK_RAW, 0}, "vsock": {unix.AF_VSOCK, unix.SOCK_STREAM, 0}, "alg": {unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
		"unix datagram": {unix.AF_UNIX, unix.SOCK_DGRAM, 0}, "unix packet": {unix.AF_UNIX, unix.SOCK_SEQPACKET, 0},
		"bluetooth": {unix.AF_BLUETOOTH, unix.SOCK_RAW, 0}, "can": {unix.AF_CAN, unix.SOCK_RAW, 0}, "xdp": {unix.AF_XDP, unix.SOCK_RAW, 0},
	} {
		list = append(list, probe{"socket " + name, func() error { return socket(s[0], s[1], s[2]) }, filtered})
	}
	return append(list,
		probe{"connect to the sibling", func() error { return connect(unix.AF_UNIX, &unix.SockaddrUnix{Name: e.target.socket}) }, filtered},
		probe{"connect to an abstract name", func() error { return connect(unix.AF_UNIX, &unix.SockaddrUnix{Name: "@pimoe-test"}) }, filtered},
		probe{"send to an address", func() error { return unix.Sendto(0, []byte("x"), 0, &unix.SockaddrUnix{Name: e.target.socket}) }, filtered},
		probe{"send descriptors", call(unix.SYS_SENDMSG, 0, 0, 0), filtered},
		probe{"receive descriptors", call(unix.SYS_RECVMSG, 0, 0, 0), filtered},
		probe{"a pair of sockets", func() error { _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err }, filtered},
		probe{"io_uring", call(unix.SYS_IO_URING_SETUP, 8, 0), filtered},
		probe{"bind outside", func() error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return nil // would be another fault: this must be possible
			}
			defer unix.Close(fd)
			return unix.Bind(fd, &unix.SockaddrUnix{Name: "/tmp/pimoe-escape"})
		}, fenced},
	)
}

func programs() []probe {
	return []probe{
		{"fork", call(unix.SYS_CLONE, uintptr(unix.SIGCHLD)), filtered},
		{"fork into new namespaces", call(unix.SYS_CLONE, uintptr(unix.SIGCHLD|unix.CLONE_NEWUSER)), filtered},
		{"a thread in a new namespace", call(unix.SYS_CLONE, unix.CLONE_THREAD|unix.CLONE_NEWUSER), filtered},
		{"clone3", call(unix.SYS_CLONE3, 0, 0), absent},
		{"execve", call(unix.SYS_EXECVE, text("/bin/sh"), 0, 0), filtered},
		{"a file in memory", func() error { _, err := unix.MemfdCreate("x", 0); return err }, filtered},
		{"a secret file in memory", call(unix.SYS_MEMFD_SECRET, 0), filtered},
		{"another personality", call(unix.SYS_PERSONALITY, 0x0040000), filtered},
		{"another filter", call(unix.SYS_SECCOMP, 1, 0, 0), filtered},
		{"become root", call(unix.SYS_SETUID, 0), filtered},
		{"become root's group", call(unix.SYS_SETGID, 0), filtered},
		{"real, effective, saved", call(unix.SYS_SETRESUID, 0, 0, 0), filtered},
		{"groups", call(unix.SYS_SETGROUPS, 0, 0), filtered},
		{"capabilities", call(unix.SYS_CAPSET, 0, 0), filtered},
		{"more descriptors", func() error {
			return unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 19, Max: 1 << 19}, nil)
		}, too},
		{"larger files", func() error { return unix.Prlimit(0, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 30, Max: 1 << 30}, nil) }, too},
		{"core dumps", func() error { return unix.Prlimit(0, unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 30, Max: 1 << 30}, nil) }, too},
	}
}

func kernel() (list []probe) {
	for name, f := range map[string]func() error{
		"userfaultfd": call(unix.SYS_USERFAULTFD, 0), "bpf": call(unix.SYS_BPF, 0, 0, 0), "keyctl": call(unix.SYS_KEYCTL, 0), "add_key": call(unix.SYS_ADD_KEY),
		"request_key": call(unix.SYS_REQUEST_KEY), "perf_event_open": call(unix.SYS_PERF_EVENT_OPEN), "mount": call(unix.SYS_MOUNT), "umount2": call(unix.SYS_UMOUNT2),
		"pivot_root": call(unix.SYS_PIVOT_ROOT), "unshare": call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER), "setns": call(unix.SYS_SETNS), "fsopen": call(unix.SYS_FSOPEN),
		"open_tree": call(unix.SYS_OPEN_TREE), "move_mount": call(unix.SYS_MOVE_MOUNT), "quotactl": call(unix.SYS_QUOTACTL), "swapon": call(unix.SYS_SWAPON),
		"acct": call(unix.SYS_ACCT), "syslog": call(unix.SYS_SYSLOG), "sethostname": call(unix.SYS_SETHOSTNAME), "settimeofday": call(unix.SYS_SETTIMEOFDAY),
		"clock_settime": call(unix.SYS_CLOCK_SETTIME), "adjtimex": call(unix.SYS_ADJTIMEX), "shmget": call(unix.SYS_SHMGET, 0, 4096, 0o1600),
		"semget": call(unix.SYS_SEMGET, 0, 1, 0o1600), "msgget": call(unix.SYS_MSGGET, 0, 0o1600), "mq_open": call(unix.SYS_MQ_OPEN), "fanotify": call(unix.SYS_FANOTIFY_INIT),
		"splice": call(unix.SYS_SPLICE), "vmsplice": call(unix.SYS_VMSPLICE), "sendfile": call(unix.SYS_SENDFILE), "ioctl": call(unix.SYS_IOCTL, 0, unix.TIOCSTI),
		"mlock": call(unix.SYS_MLOCK), "mlockall": call(unix.SYS_MLOCKALL, 1), "remap_file_pages": call(unix.SYS_REMAP_FILE_PAGES),
		"set_mempolicy": call(unix.SYS_SET_MEMPOLICY), "pkey_alloc": call(unix.SYS_PKEY_ALLOC), "getdents of a closed folder": func() error { return open("/proc") },
	} {
		want := filtered
		if strings.HasPrefix(name, "getdents") {
			want = fenced
		}
		list = append(list, probe{name, f, want})
	}
	return list
}

func (e *escape) memory() []probe {
	return []probe{
		{"map the requests writable", func() error { return mapShared(e.requests, unix.PROT_READ|unix.PROT_WRITE) }, sealed},
		{"write to the requests", func() error { _, err := unix.Write(e.requests, []byte("x")); return err }, []syscall.Errno{unix.EPERM, unix.EFBIG}},
		{"map the weights writable", func() error { return mapShared(e.shard, unix.PROT_READ|unix.PROT_WRITE) }, fenced},
		{"truncate the results", func() error { return unix.Ftruncate(e.results, 0) }, filtered},
		{"a hole in the results", func() error { return unix.Fallocate(e.results, 3, 0, 4096) }, filtered},
		{"seal the results", func() error {
			_, err := unix.FcntlInt(uintptr(e.results), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
			return err
		}, filtered},
		{"open the weights again", func() error {
			fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(e.shard), unix.O_RDWR, 0)
			unix.Close(fd)
			return err
		}, fenced},
		{"map page zero", call(unix.SYS_MMAP, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED, ^uintptr(0)), closed},
	}
}
