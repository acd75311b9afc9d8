//go:build unix && !linux

package client

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// attributes: a process group of its own. There is no parent-death signal here; the lifeline does its work.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// awaitDeath returns at once: the wait that follows does the waiting.
func awaitDeath(int) (ending, bool) { return ending{}, false }

// peerPID is the process that listens at the other end.
func peerPID(c *net.UnixConn) (int, error) {
	const solLocal, localPeerPID = 0, 2 // <sys/un.h>
	if runtime.GOOS != "darwin" {
		return 0, fmt.Errorf("peer credentials: not known on %s", runtime.GOOS)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var pid int
	var pidErr error
	if err := raw.Control(func(fd uintptr) { pid, pidErr = unix.GetsockoptInt(int(fd), solLocal, localPeerPID) }); err != nil {
		return 0, err
	}
	return pid, pidErr
}

// oom has nothing to look at here.
type oom struct{}

var theOOM oom

func (oom) look()      {}
func (oom) rose() bool { return false }

// fileIdentityOf is not needed where nothing is copied.
func fileIdentityOf(path string, _ *os.File) (fileIdentity, error) {
	return fileIdentity{path: path}, nil
}

// processNumbers is not needed where no process gets a user of its own.
func processNumbers() uint32 { return 0 }
