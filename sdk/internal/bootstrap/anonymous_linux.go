package bootstrap

import (
	"os"

	"golang.org/x/sys/unix"
)

// anonymous makes a file without a name, in memory.
func anonymous(name, _ string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
