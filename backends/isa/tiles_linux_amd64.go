package isa

import "golang.org/x/sys/unix"

// tilesAllowed asks the kernel for the tile registers. The permission is the whole process's.
func tilesAllowed() bool {
	const reqXCompPerm, tileData = 0x1023, 18 // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
	_, _, errno := unix.Syscall(unix.SYS_ARCH_PRCTL, reqXCompPerm, tileData, 0)
	return errno == 0
}
