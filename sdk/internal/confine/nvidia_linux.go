//go:build amd64 || arm64

package confine

import (
	"path/filepath"
	"sort"

	"golang.org/x/sys/unix"
)

// This file is profile cuda: what NVIDIA's driver library needs of the kernel. It was put together from the published source of
// the kernel's side (nv-ioctl-numbers.h, uvm_ioctl.h, uvm_linux_ioctl.h) and from what strace showed others of their CUDA
// programs, and has never met a driver: docs/cuda.md.

// onDevice is what the library does with a device: it opens it for reading and writing, maps it, and speaks to it by ioctl.
const onDevice = readFile | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

// nvidia is what a process may open: the devices that there are, and, to read, what the kernel says of the driver, the processors
// and the memory's nodes. It says nothing of other processes or of users. Devices that come later are for processes that start later.
func nvidia() []access {
	list := []access{
		{"/dev/nvidiactl", onDevice}, {"/dev/nvidia-uvm", onDevice},
		{"/proc/driver/nvidia", readTree}, {"/proc/devices", readFile}, {"/proc/modules", readFile}, {"/proc/cpuinfo", readFile},
		{"/proc/sys/vm/mmap_min_addr", readFile},
		{"/sys/devices/system/cpu", readTree}, {"/sys/devices/system/node", readTree}, {"/sys/devices/system/memory", readTree},
	}
	numbered, _ := filepath.Glob("/dev/nvidia[0-9]*") // its only error is about the pattern
	parts, _ := filepath.Glob("/dev/nvidia-caps/nvidia-cap[0-9]*")
	sort.Strings(numbered)
	for _, path := range numbered {
		list = append(list, access{path, onDevice})
	}
	for _, path := range parts { // instances of a device that is divided (MIG)
		list = append(list, access{path, readFile})
	}
	return list
}

// The numbers of ioctls have a type in their second byte: 'F' is that of /dev/nvidiactl and /dev/nvidia*, and those of
// /dev/nvidia-uvm are plain numbers without one. Terminals have 'T', sockets 0x89, file systems 'f' and 'X'.
const (
	ioctlType    = 0xff00
	ioctlNVIDIA  = 'F' << 8
	ioctlWithout = 0
)

// nvidiaRules are the calls beside the table. On which descriptors ioctl works, Landlock says (from Linux 6.10 on; before, the types
// are all that keeps it to the driver).
var nvidiaRules = []rule{
	{name: "ioctl", number: unix.SYS_IOCTL, checks: []check{{arg: 1, mask: ioctlType, values: []uint32{ioctlNVIDIA, ioctlWithout}, about: "its type is NVIDIA's or none"}}},
	{name: "ppoll", number: unix.SYS_PPOLL}, {name: "get_mempolicy", number: unix.SYS_GET_MEMPOLICY},
	{name: "sched_get_priority_max", number: unix.SYS_SCHED_GET_PRIORITY_MAX}, {name: "sched_get_priority_min", number: unix.SYS_SCHED_GET_PRIORITY_MIN},
	{name: "getuid", number: unix.SYS_GETUID}, {name: "geteuid", number: unix.SYS_GETEUID},
	{name: "uname", number: unix.SYS_UNAME}, {name: "sysinfo", number: unix.SYS_SYSINFO},
}
