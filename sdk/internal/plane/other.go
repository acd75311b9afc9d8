//go:build !(linux && (amd64 || arm64))

package plane

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Supported says that this build has no shared memory: calls travel over gRPC.
const Supported = false

var errNone = fmt.Errorf("plane: no shared memory here: %w", sdk.ErrUnsupported)

// Host exists so that callers compile; NewHost refuses to make one.
type Host struct{}

// Ticket exists so that callers compile.
type Ticket struct{}

// Handler computes one call.
type Handler func(ctx context.Context, head Head, in, out []byte) Reply

// Plugin exists so that callers compile; Attach refuses to make one.
type Plugin struct{ Idle, Busy func() }

// AnyLane is for a call that may run wherever there is room.
const AnyLane = -1

// NewHost refuses.
func NewHost(Spec, []int) (*Host, error) { return nil, errNone }

// Files has none.
func (*Host) Files() (requests, results *os.File) { return nil, nil }

// CloseFiles has nothing to close.
func (*Host) CloseFiles() {}

// Layout is empty.
func (*Host) Layout() Layout { return Layout{} }

// Bytes is 0.
func (*Host) Bytes() int64 { return 0 }

// Beat has no counter.
func (*Host) Beat() (uint64, bool) { return 0, false }

// Pinned has no lanes.
func (*Host) Pinned() int { return 0 }

// Wake has nobody to wake.
func (*Host) Wake(bool) {}

// Abort has nobody to wake.
func (*Host) Abort() {}

// Ending has nobody to end.
func (*Host) Ending() bool { return false }

// Close has nothing to close.
func (*Host) Close() error { return nil }

// TryPost refuses.
func (*Host) TryPost(int, Head, func([]byte)) (Ticket, bool, error) { return Ticket{}, false, errNone }

// Post refuses.
func (*Host) Post(context.Context, int, Head, func([]byte)) (Ticket, error) { return Ticket{}, errNone }

// Wait refuses.
func (Ticket) Wait(context.Context, time.Duration, func(Reply, []byte) error) error { return errNone }

// Settled has nothing to wait for.
func (Ticket) Settled(time.Duration) bool { return true }

// Leave has nothing to give up.
func (Ticket) Leave() {}

// Attach refuses.
func Attach(Layout, []int, *os.File, *os.File) (*Plugin, error) { return nil, errNone }

// Memory is none.
func (*Plugin) Memory() (calls, answers []byte) { return nil, nil }

// Serve has nothing to serve.
func (*Plugin) Serve(Handler) {}

// Stop has nothing to stop.
func (*Plugin) Stop(context.Context) error { return nil }

// Core doesn't tell.
func Core() int { return -1 }
