package confine

import "golang.org/x/sys/unix"

const (
	auditArch   = unix.AUDIT_ARCH_AARCH64
	otherABI    = 0 // there is none
	fstatat     = unix.SYS_FSTATAT
	fstatatName = "fstatat"
)

var architectureRules []rule

// interpreterArchitecture is readlink by its newer name.
var interpreterArchitecture = []rule{{name: "readlinkat", number: unix.SYS_READLINKAT}}

var nvidiaArchitecture []rule
