//go:build amd64 || arm64

package confine

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Landlock's rights that x/sys/unix names, grouped by what a plugin may have.
const (
	readFile = unix.LANDLOCK_ACCESS_FS_READ_FILE
	readTree = readFile | unix.LANDLOCK_ACCESS_FS_READ_DIR
	runTree  = readTree | unix.LANDLOCK_ACCESS_FS_EXECUTE
	// ownFolder is for go-plugin's server, which makes an empty file to find a free name for its socket.
	ownFolder = readTree | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
)

// hugePages is what Go's runtime reads when a program begins: the size of a huge page.
const hugePages = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"

// systemFolders are where programs that are linked dynamically find their libraries.
var systemFolders = []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"}

// landlockABI is the version of the kernel's interface, or why there is none.
var landlockABI = sync.OnceValues(func() (int, error) {
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version)
	if errno != 0 {
		return 0, fmt.Errorf("the kernel has none: %w", errno)
	}
	return int(abi), nil
})

// handled are all rights that a version knows: what no rule gives is denied.
func handled(abi int) (files, network, scope uint64) {
	files = 1<<13 - 1
	if abi >= 2 {
		files |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		files |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 4 {
		network = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if abi >= 5 {
		files |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if abi >= 6 {
		scope = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return files, network, scope
}

// ruleset makes the rules of one process, all but that for its own threads. The descriptor is the caller's.
func ruleset(abi int, s Spec) (fd int, err error) {
	var attr unix.LandlockRulesetAttr
	attr.Handled_access_fs, attr.Handled_access_net, attr.Scoped = handled(abi)
	size := unsafe.Offsetof(attr.Scoped) + unsafe.Sizeof(attr.Scoped)
	if abi < 4 {
		size = unsafe.Offsetof(attr.Handled_access_net)
	} else if abi < 6 {
		size = unsafe.Offsetof(attr.Scoped)
	}
	r, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return -1, fmt.Errorf("create rules: %w", errno)
	}
	fd = int(r)
	if err := allowAll(fd, s, attr.Handled_access_fs); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// allowAll adds the rules of one process to a set that knows certain rights.
func allowAll(fd int, s Spec, known uint64) error {
	if err := allow(fd, s.Dir, ownFolder); err != nil {
		return err
	}
	for _, path := range s.Reads {
		if err := allow(fd, path, readTree); err != nil {
			return err
		}
	}
	there := []access{{hugePages, readFile}}
	switch s.Profile {
	case ProfilePython:
		there = append(there, access{"/dev/urandom", readFile}) // gRPC's C++ core knows no other source of chance
	case ProfileCUDA:
		there = append(there, nvidia()...)
	}
	if s.Exe.dynamic {
		for _, path := range systemFolders {
			there = append(there, access{path, runTree})
		}
		there = append(there, access{"/etc/ld.so.cache", readFile})
	}
	for _, a := range there {
		if err := allowThere(fd, a.path, a.rights&known); err != nil {
			return err
		}
	}
	return nil
}

// access is what a process may do with what lies at a path, if anything does.
type access struct {
	path   string
	rights uint64
}

func allow(ruleset int, path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("%s: %w", path, errno)
	}
	return nil
}

// allowThere is allow for a path that not every system has.
func allowThere(ruleset int, path string, access uint64) error {
	err := allow(ruleset, path, access)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}
