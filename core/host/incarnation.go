package host

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
)

// process is what a supervisor needs of *client.Process.
type process interface {
	PID() int
	Exited() <-chan struct{}
	Ending() bool // has exited, or is about to and answers no calls any more
	Death() client.Death
	Beat() (count uint64, beats bool)
	Stopped() bool // by a signal or a debugger
	AtWork() bool  // computes, or waits for a core
	Ping(ctx context.Context) error
	Lanes() (lanes, bound int)
	Confined() []client.Measure
	Kill() error
	Stop(ctx context.Context) error
}

// computing is what a group needs of *client.Expert.
type computing interface {
	Forward(ctx context.Context, call *expert.Call) error
	Start(ctx context.Context, call *expert.Call) expert.Pending
	Wake(all bool)
}

// incarnation is one process from its known-answer test to its death.
type incarnation struct {
	proc     process
	expert   computing      // of an expert process
	router   *client.Router // of a router process
	info     sdk.Info
	digest   string                          // of what it executes
	zone     string                          // where it runs, if it is on another machine and says so
	observes bool                            // a router that observes
	since    time.Time                       // it is ready; set before others see it
	served   atomic.Bool                     // has answered a real call
	inflight atomic.Int64                    // calls under way
	devices  atomic.Pointer[[]expert.Device] // as it has last told
	memory   memory
	verdict  atomic.Pointer[string]
	condemn  chan struct{} // closed when verdict is set: the process must be replaced
	probe    func(ctx context.Context) error
}

// gone reports that the process has ended, whether or not its supervisor has noticed.
func (i *incarnation) gone() bool { return isClosed(i.proc.Exited()) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// condemned marks the process for replacement, once; the first cause stays.
func (i *incarnation) condemned(cause string) {
	if i.verdict.CompareAndSwap(nil, &cause) {
		close(i.condemn)
	}
}
