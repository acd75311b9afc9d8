// Package confine starts a program that is not trusted: from a sealed copy of a checked file, as a user of its own where
// the host may do that, without network, files, capabilities or most system calls, and with limits on what it can take.
//
// sdk/client starts every plugin with it. Each measure is reported as applied or with the reason why not; a system that
// lacks one gets the others. The package refuses to believe the confined process: what was applied is written before the
// plugin's program begins and compared with what the kernel says of the process.
package confine

// Measure is one thing that was done, or not, to confine a process.
type Measure struct {
	Name    string `json:"name"`
	Applied bool   `json:"applied"`
	Detail  string `json:"detail"` // what exactly, or why not
}

// The names of the measures.
const (
	MeasureExecutable   = "sealed executable"
	MeasureUser         = "user id"
	MeasureNamespaces   = "namespaces"
	MeasureCapabilities = "no capabilities"
	MeasureLimits       = "limits"
	MeasureNoNewPrivs   = "no_new_privs"
	MeasureLandlock     = "landlock"
	MeasureSeccomp      = "seccomp"
	MeasureDump         = "not dumpable"
	MeasureCgroup       = "cgroup"
	MeasureOOM          = "oom score"
	MeasureProfile      = "profile"
)

// Profile says what a process gets beyond that of a plain program.
type Profile string

// The profiles.
const (
	ProfileNone   Profile = ""
	ProfilePython Profile = "python" // an interpreter with libraries of its own
	ProfileCUDA   Profile = "cuda"   // a program that computes on NVIDIA's devices
)

// Policy is what the host wants of the measures that leave a choice.
type Policy struct {
	FirstUser, Users uint32 // the range of user ids, one for each process; 0 users = the host's own
	CPU              int    // percent of one core; 0 = no limit, which only a cgroup can give
	Memory           int64  // private memory in bytes; 0 = by the size of the weights, negative = unlimited
}
