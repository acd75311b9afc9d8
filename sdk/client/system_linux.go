package client

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attributes: a process group of its own, so that all it starts can be ended with it, and death with the host.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// awaitDeath returns when the child has ended and can be waited for, and tells how it ended. Until it is waited for, its number
// stays taken, so that its group can be ended without hitting another one.
func awaitDeath(pid int) (e ending, known bool) {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		const exited, killed, dumped = 1, 2, 3 // CLD_EXITED, CLD_KILLED, CLD_DUMPED in si_code
		const siStatus = 24                    // behind si_pid and si_uid; waitid(2)
		status := *(*int32)(unsafe.Add(unsafe.Pointer(&info), siStatus))
		switch {
		case err == nil && info.Code == exited:
			return ending{code: int(status)}, true
		case err == nil && (info.Code == killed || info.Code == dumped):
			return ending{code: -1, signal: syscall.Signal(status)}, true
		}
		return ending{}, false
	}
}

// peerPID is the process that listens at the other end.
func peerPID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, fmt.Errorf("peer credentials: %w", credErr)
	}
	return int(cred.Pid), nil
}

// oom watches the kernel's count of processes that it killed for memory. The count is the whole machine's, so a rise
// shortly before a SIGKILL is a good guess and no proof.
type oom struct {
	count func() uint64
	now   func() time.Time

	mu     sync.Mutex // guards recent
	recent [2]struct {
		at    time.Time
		count uint64
	}
}

var theOOM = oom{count: oomKills, now: time.Now}

// look notes the count, at most once a second.
func (o *oom) look() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := o.now(); now.Sub(o.recent[1].at) > time.Second {
		o.recent[0] = o.recent[1]
		o.recent[1].at, o.recent[1].count = now, o.count()
	}
}

// rose reports whether the count is higher than it was one or two looks ago.
func (o *oom) rose() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.recent[0]
	if before.at.IsZero() {
		before = o.recent[1]
	}
	return !before.at.IsZero() && o.count() > before.count
}

func oomKills() uint64 {
	b, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if rest, ok := bytes.CutPrefix(s.Bytes(), []byte("oom_kill ")); ok {
			n, _ := strconv.ParseUint(string(rest), 10, 64)
			return n
		}
	}
	return 0
}

// fileIdentityOf is that of an open file.
func fileIdentityOf(path string, f *os.File) (fileIdentity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileIdentity{}, os.NewSyscallError("fstat", err)
	}
	return fileIdentity{path: path, dev: uint64(st.Dev), ino: st.Ino, size: st.Size, changed: st.Ctim, written: st.Mtim}, nil
}

// processNumbers is how many the system gives.
func processNumbers() uint32 {
	b, err := os.ReadFile("/proc/sys/kernel/pid_max")
	n, err2 := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 32)
	if err != nil || err2 != nil {
		return DefaultUsers.Count
	}
	return uint32(n)
}
