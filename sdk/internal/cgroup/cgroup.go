// Package cgroup puts processes into cgroups of their own, version 2, where the host has a part of the hierarchy to itself:
// as a service with Delegate=yes, or alone in a container. There the kernel counts and limits what each process takes,
// whatever it is counted as, and says which one it has killed for memory.
//
// sdk/client uses it for plugins. Where the host may not divide its cgroup the package says why; it never mounts anything, takes
// no part of the hierarchy that others live in, and gives no process rights.
package cgroup

// Limits are those of one process. Zero means none.
type Limits struct {
	Memory  int64 // bytes, all that is counted as the process's
	Threads int
	CPU     int // percent of one core
}
