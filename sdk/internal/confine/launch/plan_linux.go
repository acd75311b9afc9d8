package launch

import (
	"syscall"
	"unsafe"
)

// Variable tells a process that it is to become a plugin: its value is the descriptor of the plan.
const Variable = "PIMOE_CONFINE_FD"

// Magic begins a plan. Plan and reader are the same program, so there is no version.
const Magic = 0x50694d6f45706c6e

// The steps, in their order. A step that fails is noted and the others follow: the host decides what that means.
const (
	StepOOM        = iota // more likely to be killed for memory than the host
	StepNamespaces        // no network, no System V objects of others
	StepFolder            // the private folder belongs to the process's own user
	StepLimits
	StepUser         // a user id of its own
	StepCapabilities // none, also none to regain
	StepNoNewPrivs
	StepLandlock
	StepParentDeath // again: a change of user clears it
	StepSeccomp
	StepExec // has a result only if it failed
	Steps
)

// The bounds of a plan. Filters have some 150 instructions; arguments and environment are the host's own.
const (
	MaxFilter = 512
	MaxLimits = 16
	MaxText   = 128 << 10
)

// State of a step.
const (
	NotAsked = iota
	Applied
	Refused // Errno says why
)

// Result is what came of a step.
type Result struct {
	State int32
	Errno int32
}

// Limit is one resource limit, soft and hard.
type Limit struct {
	Resource uint32
	_        uint32
	Value    uint64
}

// Plan is a piece of memory that host and child share until the child becomes the plugin.
type Plan struct {
	Magic uint64
	Base  uint64 // where the child maps the plan: the pointers below are addresses in it

	Parent   int32 // the host
	Exe      int32 // descriptor of the executable; these four are closed by the exec
	Done     int32 // of a pipe that the host reads to its end
	Ruleset  int32 // of Landlock's rules, -1 = none
	OOMScore int32 // 0 = as inherited

	Namespaces  uint32 // to leave
	FirstUser   uint32 // its own user is FirstUser plus its process number, modulo Users; 0 = the host's
	Users       uint32
	KeepUser    uint32 // 1 = drop the capabilities of the user that it keeps
	NoNewPrivs  uint32
	TaskAccess  uint64 // Landlock's rights on its own threads in /proc
	Limits      [MaxLimits]Limit
	LimitCount  uint32
	FilterCount uint32
	PIDs        [4]int32 // indices of the instructions that compare with the process's own number, -1 = none
	Filter      [MaxFilter]syscall.SockFilter

	Empty, Argv, Env uint64 // addresses of "", of the arguments and of the environment
	Text             [MaxText]byte

	Results [Steps]Result
}

// PlanSize is a plan in whole pages.
const PlanSize = (int(unsafe.Sizeof(Plan{})) + 4095) &^ 4095
