//go:build linux && (amd64 || arm64)

package plane

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// callContext is a call's context: it ends with the call's time, when the host has given the call up, and with the call.
// A lane uses one for call after call as long as nobody has asked it for a channel, so that a call allocates nothing.
type callContext struct {
	mu     sync.Mutex     // guards all below
	cancel *atomic.Uint32 // a generation that nobody waits for any more
	gen    uint32
	limit  time.Time // zero = none
	timer  *time.Timer
	done   chan struct{}
	err    error
}

// lookEvery is how often a call that somebody waits on is looked at.
const lookEvery = 50 * time.Millisecond

// maxTimeout bounds what a header may say, so that no sum overflows.
const maxTimeout = uint64(time.Hour / time.Microsecond)

// begin makes it the context of a call. timeout is in microseconds, 0 for none.
func (c *callContext) begin(cancel *atomic.Uint32, gen uint32, timeout uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel, c.gen, c.limit, c.err = cancel, gen, time.Time{}, nil
	if timeout > 0 {
		c.limit = time.Now().Add(time.Duration(min(timeout, maxTimeout)) * time.Microsecond)
	}
}

// end is the end of the call. It reports whether somebody may still hold the context, which then stays ended.
func (c *callContext) end() (held bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.cancel = nil
		return false
	}
	c.finish(context.Canceled)
	if c.timer != nil {
		c.timer.Stop()
	}
	return true
}

// finish sets the error, once. The caller holds mu.
func (c *callContext) finish(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	if c.done != nil {
		close(c.done)
	}
}

// look ends the context if it is time. The caller holds mu.
func (c *callContext) look() error {
	switch {
	case c.err != nil:
	case c.cancel != nil && c.cancel.Load() == c.gen:
		c.finish(context.Canceled)
	case !c.limit.IsZero() && !time.Now().Before(c.limit):
		c.finish(context.DeadlineExceeded)
	}
	return c.err
}

// next is when to look again. The caller holds mu.
func (c *callContext) next() time.Duration {
	if c.limit.IsZero() {
		return lookEvery
	}
	return min(time.Until(c.limit), lookEvery)
}

// glance looks now and again later, for those who wait on the channel.
func (c *callContext) glance() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.look() == nil {
		c.timer.Reset(c.next())
	}
}

// Err implements context.Context.
func (c *callContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.look()
}

// Done implements context.Context. That the host has given the call up is seen within lookEvery.
func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		} else if c.look() == nil {
			c.timer = time.AfterFunc(c.next(), c.glance)
		}
	}
	return c.done
}

// Deadline implements context.Context.
func (c *callContext) Deadline() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.limit, !c.limit.IsZero()
}

// Value implements context.Context: there are none.
func (c *callContext) Value(any) any { return nil }

var _ context.Context = (*callContext)(nil)
