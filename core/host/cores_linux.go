package host

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// usableCores are the numbers of the cores that this process may run on.
func usableCores() []int {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return nil
	}
	var cores []int
	for i := 0; i < 8*len(set)*8 && len(cores) < set.Count(); i++ {
		if set.IsSet(i) {
			cores = append(cores, i)
		}
	}
	return cores
}

// core is the number of the core that the caller runs on just now, -1 if the system doesn't tell.
func core() int {
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return -1
	}
	return int(cpu)
}
