package host

import (
	"context"
	"errors"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk/expert"
)

// backed is a group with another one behind it, which gives the same bits and takes the calls that the first one can't answer.
type backed struct {
	*group
	behind *group
}

// Start implements moe.Group.
func (b *backed) Start(ctx context.Context, call *expert.Call) expert.Pending {
	return &backedCall{front: b.group.begun(ctx, call, false), behind: b.behind, ctx: ctx, call: call, forgives: isProcessFault}
}

// StartNow implements moe.Impatient.
func (b *backed) StartNow(ctx context.Context, call *expert.Call) expert.Pending {
	return &backedCall{front: b.group.begun(ctx, call, true), behind: b.behind, ctx: ctx, call: call, forgives: isProcessFault, now: true}
}

// available implements member.
func (b *backed) available() error {
	if b.behind.available() == nil {
		return nil
	}
	return b.group.available()
}

// Available implements moe.Availability.
func (b *backed) Available() error { return b.available() }

// Hopeless implements moe.Availability.
func (b *backed) Hopeless() error {
	if b.behind.hopeless() == nil {
		return nil
	}
	return b.group.hopeless()
}

// backedCall is a call on one group, which another one answers if the first does not.
type backedCall struct {
	front    *groupCall
	behind   *group
	ctx      context.Context
	call     *expert.Call
	forgives func(error) bool   // which errors of the front's are made good
	spent    context.CancelFunc // of a time that the front alone has; nil = it has the call's
	now      bool               // nobody waits for a restart
	noted    *moe.Answer
}

// Wait implements expert.Pending.
func (c *backedCall) Wait() error {
	err := c.front.Wait()
	if c.spent != nil {
		c.spent()
	}
	if err == nil || c.ctx.Err() != nil || !c.forgives(err) {
		return err
	}
	again := c.behind.begun(c.ctx, c.call, c.now)
	again.noted = c.noted
	if e := again.Wait(); e != nil {
		return errors.Join(e, err)
	}
	return nil
}

// Wake implements moe.Sleeper.
func (c *backedCall) Wake(all bool) { c.front.Wake(all) }

// Note implements moe.Attributable.
func (c *backedCall) Note(to *moe.Answer) {
	c.noted = to
	c.front.Note(to)
}

var (
	_ member           = (*backed)(nil)
	_ moe.Impatient    = (*backed)(nil)
	_ moe.Availability = (*backed)(nil)
	_ moe.Sleeper      = (*backedCall)(nil)
	_ moe.Attributable = (*backedCall)(nil)
)
