package confine

import "golang.org/x/sys/unix"

const (
	auditArch   = unix.AUDIT_ARCH_X86_64
	otherABI    = 0x40000000 // numbers of the x32 interface begin here
	fstatat     = unix.SYS_NEWFSTATAT
	fstatatName = "newfstatat"
)

// interpreterArchitecture are older calls, where the other architecture has only the newer.
var interpreterArchitecture = []rule{
	{name: "epoll_wait", number: unix.SYS_EPOLL_WAIT}, {name: "readlink", number: unix.SYS_READLINK}, {name: "stat", number: unix.SYS_STAT},
	{name: "dup2", number: unix.SYS_DUP2},
}

// nvidiaArchitecture are older calls, too: the driver's library looks by stat whether its devices are there.
var nvidiaArchitecture = []rule{{name: "poll", number: unix.SYS_POLL}, {name: "stat", number: unix.SYS_STAT}}

// architectureRules: AMX must be asked for, and the C library sets its thread's base.
var architectureRules = []rule{
	{name: "arch_prctl", number: unix.SYS_ARCH_PRCTL, checks: []check{only("code is ARCH_SET_FS, ARCH_GET_XCOMP_PERM or ARCH_REQ_XCOMP_PERM", 0, 0x1002, 0x1022, 0x1023)}},
}
