package host

import (
	"runtime"
	"slices"

	"github.com/pimoe/pimoe/sdk/client"
)

// lanes says on which cores the processes serve calls: each process has a thread on up to maxLanes of them, neighbours
// for one process and the next ones for the next process, so that all cores are covered.
type lanes struct {
	cores []int // their numbers; index in it = core of the plan
	most  int   // of one process
	bind  bool  // the numbers are real
}

// maxLanes is how many cores one process may work on at once. A layer has several experts at work; four cores for one of
// them are enough for the prompt that meets a single expert, and each more is a thread in each of some dozens of processes.
const maxLanes = 4

// newLanes takes the first threads of the usable cores, 0 for all, and so many of them for one process at most, 0 for maxLanes.
func newLanes(threads, process int) lanes {
	l := lanes{cores: usableCores(), bind: true}
	if len(l.cores) == 0 {
		l = lanes{cores: make([]int, runtime.NumCPU())}
	}
	if l.most = maxLanes; process > 0 {
		l.most = process
	}
	if threads > 0 && threads < len(l.cores) {
		l.cores = l.cores[:threads]
	}
	return l
}

// of are the plan's cores, counted from 0, of the n-th process.
func (l lanes) of(n int) []int {
	count := min(len(l.cores), l.most)
	own := make([]int, count)
	for i := range own {
		own[i] = (n*count + i) % len(l.cores)
	}
	return own
}

// replica are those of the n-th group's r-th replica: the group's own, or, of one that load has called for, cores that the others do
// not keep busy.
func (l lanes) replica(n, r int, spec GroupSpec) []int {
	if r >= spec.Replicas && r < spec.most() {
		return l.of(n + r)
	}
	return l.of(n)
}

// here is the plan's core on which the caller runs, -1 if it is none of them.
func (l lanes) here() int {
	if !l.bind {
		return -1
	}
	return slices.Index(l.cores, client.Core())
}

// apply gives a command its lanes. Two slots a lane: one to be filled or read while the other is computed.
func (l lanes) apply(c *client.Command, own []int) {
	c.Plane.Lanes, c.Plane.Slots = len(own), 2*len(own)
	if l.bind {
		for _, i := range own {
			c.Cores = append(c.Cores, l.cores[i])
		}
	}
}
