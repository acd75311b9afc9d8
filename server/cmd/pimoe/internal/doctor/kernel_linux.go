package doctor

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernel tests the features by using them, on objects that vanish at once.
func kernel() []Check {
	memfd, sealing := memfds()
	return []Check{memfd, sealing, futex(), pidfd(), landlock(), seccomp(), userNamespaces(), cgroup()}
}

const overGRPC = "tensors travel over gRPC"

// memfds makes a sealed memfd the way the data plane does, and checks that the seals hold.
func memfds() (memfd, sealing Check) {
	memfd, sealing = Check{"memfd", Missing, overGRPC}, Check{"memfd sealing", Missing, overGRPC}
	fd, err := unix.MemfdCreate("pimoe-doctor", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		memfd.Detail = err.Error() + "; " + overGRPC
		return memfd, sealing
	}
	defer unix.Close(fd)
	memfd = Check{"memfd", OK, "memfd_create works"}
	const page = 4096
	if err := unix.Ftruncate(fd, page); err != nil {
		sealing.Detail = err.Error() + "; " + overGRPC
		return memfd, sealing
	}
	seals := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		sealing.Detail = err.Error() + "; " + overGRPC
		return memfd, sealing
	}
	if err := unix.Ftruncate(fd, 2*page); !errors.Is(err, unix.EPERM) {
		sealing.Detail = "a sealed file can still grow; " + overGRPC
		return memfd, sealing
	}
	return memfd, Check{"memfd sealing", OK, "shrink, grow and future-write seals hold"}
}

// futex waits for a value that is not there, which returns at once where the call exists.
func futex() Check {
	var word uint32 = 1
	const futexWait = 0
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&word)), futexWait, 0, 0, 0, 0)
	if errno == unix.EAGAIN {
		return Check{"futex", OK, "shared futex works"}
	}
	return Check{"futex", Missing, fmt.Sprintf("%v; %s", errno, overGRPC)}
}

func pidfd() Check {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return Check{"pidfd", Failed, err.Error() + "; the supervisor needs it (Linux 5.3)"}
	}
	unix.Close(fd)
	return Check{"pidfd", OK, "process exits are seen at once"}
}

// landlock asks for the version of the interface; see landlock_create_ruleset(2).
func landlock() Check {
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version)
	if errno != 0 {
		return Check{"landlock", Missing, errno.Error()}
	}
	return Check{"landlock", OK, fmt.Sprintf("ABI %d", abi)}
}

func seccomp() Check {
	b, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil {
		return Check{"seccomp", Missing, err.Error()}
	}
	return Check{"seccomp", OK, strings.TrimSpace(string(b))}
}

// userNamespaces reads the limits that forbid them; making one needs a process of its own.
func userNamespaces() Check {
	for path, forbidden := range map[string]string{
		"/proc/sys/user/max_user_namespaces":         "0",
		"/proc/sys/kernel/unprivileged_userns_clone": "0",
	} {
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == forbidden && os.Geteuid() != 0 {
			return Check{"user namespaces", Missing, path + " is " + forbidden}
		}
	}
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		return Check{"user namespaces", Missing, err.Error()}
	}
	return Check{"user namespaces", OK, "allowed by the kernel's settings"}
}

func cgroup() Check {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		if unix.Access("/sys/fs/cgroup", unix.W_OK) == nil {
			return Check{"cgroup", OK, "v2, writable"}
		}
		return Check{"cgroup", OK, "v2, not writable: limits come from whoever started this"}
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil {
		return Check{"cgroup", OK, "v1"}
	}
	return Check{"cgroup", Missing, "no cgroup file system"}
}

func freeSpace(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return ""
	}
	return fmt.Sprintf(", %.1f GiB free", float64(st.Bavail)*float64(st.Bsize)/(1<<30))
}
