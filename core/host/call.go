package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/resilience"
	"github.com/pimoe/pimoe/core/spans"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

const (
	// maxDeaths is how many processes one call may outlive. A call that kills whoever computes it must end.
	maxDeaths = 8
	// retryWait is how long a call waits that may not be repeated just now, since others are.
	retryWait = 5 * time.Millisecond
	// hedgeLook is how long one of two replicas with the same call is looked at before the other.
	hedgeLook = 100 * time.Microsecond
	// workPatience is how many times as long a call may take before it is hedged if its process is seen at work.
	workPatience = 8
	// hangFloor is the least time after which a process may count as hung for not answering a call: far above a pause of a
	// machine that is only busy. hangLook is between two looks at whether anybody still waits.
	hangFloor = 5 * time.Second
	hangLook  = 250 * time.Millisecond
	// unitRows is the work of reading a unit's weights, in rows.
	unitRows = 16
)

// groupCall is a call on a group: the same call on one process after the other until one answers, and on two at once where
// the first takes too long. Calls are pure, so a repeated one gives the same bits.
type groupCall struct {
	group  *group
	ctx    context.Context
	call   *expert.Call
	try    try
	last   *incarnation // that failed
	retry  bool         // the try is one of the budget's retries, as all are after the first
	quiet  bool         // not to be sampled: it is itself a repetition
	now    bool         // does not wait for a restart
	noted  *moe.Answer  // who has answered goes here, if not nil
	sent   int          // tries so far, one after the other
	beside bool         // another call that takes long
}

// try is a call on one process.
type try struct {
	replica int
	inc     *incarnation
	pending expert.Pending // nil = there is none
	sent    time.Time
	follow  *followed // nil = nobody does
}

var groupCalls = sync.Pool{New: func() any { return new(groupCall) }}

func (p *groupCall) send(replica int, inc *incarnation) {
	p.sent++
	p.try = p.begin(replica, inc)
}

// begin sends a call that the group has counted.
func (p *groupCall) begin(replica int, inc *incarnation) try {
	inc.inflight.Add(1)
	if l := spans.LayerOf(p.ctx); l != nil {
		f := p.follow(l, replica, inc)
		return try{replica, inc, inc.expert.Start(client.Carry(p.ctx, &f.carried), p.call), f.sent, f}
	}
	return try{replica, inc, inc.expert.Start(p.ctx, p.call), time.Now(), nil}
}

// Wake implements moe.Sleeper.
func (p *groupCall) Wake(all bool) {
	if p.try.pending != nil {
		p.try.inc.expert.Wake(all)
	}
}

// Wait repeats the call until a process answers.
func (p *groupCall) Wait() error {
	err := p.wait()
	*p = groupCall{}
	groupCalls.Put(p)
	return err
}

func (p *groupCall) wait() error {
	for invalid, deaths := 0, 0; ; {
		if p.try.pending == nil {
			if err := p.again(); err != nil {
				return err
			}
		}
		err := p.settle()
		switch {
		case err == nil:
			return nil
		case p.ctx.Err() != nil:
			return p.group.timedOut(p.ctx)
		case errors.Is(err, sdk.ErrInvalidOutput):
			invalid++
		case isProcessFault(err):
			deaths++
		}
		if !isProcessFault(err) || errors.Is(err, errUnsound) || invalid > p.group.maxInvalid || deaths > maxDeaths {
			return fmt.Errorf("expert group %s: %w", p.group.spec.Name, err)
		}
	}
}

// again sends the call to a process, once more if one has failed. A retry beside living replicas needs the budget's leave;
// without any, there is nothing that it could overload.
func (p *groupCall) again() error {
	g := p.group
	if p.last != nil {
		for !g.mayRetry() {
			if !sleep(p.ctx, retryWait) {
				return g.timedOut(p.ctx)
			}
		}
		p.retry = true
		g.counts.retries.Inc()
	}
	replica, inc, err := p.next()
	if err != nil {
		p.endRetry()
		return err
	}
	p.send(replica, inc)
	return nil
}

func (g *group) mayRetry() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.set.Retry()
}

// endRetry gives the budget back what the current try took from it.
func (p *groupCall) endRetry() {
	if !p.retry {
		return
	}
	p.group.mu.Lock()
	defer p.group.mu.Unlock()
	p.group.set.EndRetry()
}

// settle waits for the call's end on its process, or on another one that was asked too because it took long.
func (p *groupCall) settle() error {
	q, ok := p.try.pending.(client.Settling)
	if !ok {
		return p.finish(p.try.pending.Wait())
	}
	if due, hedge := p.group.hedgeAfter(work(p.call)); hedge && p.overdue(q, due) {
		return p.hedge(q)
	}
	return p.outlast(q)
}

// overdue waits until the call is settled or due to be hedged, and reports the latter. Where the process is seen at work, it
// is given more time: what a second one computed beside it would mostly come later, and keep cores from those that others wait for.
func (p *groupCall) overdue(q client.Settling, due time.Duration) bool {
	for until := due; ; until += due / 2 {
		left := until - time.Since(p.try.sent)
		if !p.outlives(left) || q.Settled(left) {
			return false
		}
		if until >= workPatience*due || !p.try.inc.proc.AtWork() {
			return true
		}
	}
}

// outlast waits for the current try alone. A process that beats and answers its tests but not this call is hung, too.
func (p *groupCall) outlast(q client.Settling) error {
	if p.group.spec.Guest == nil && p.lasts(q, hangFloor) {
		p.group.mu.Lock()
		after := p.group.set.HangAfter(work(p.call))
		p.group.mu.Unlock()
		if after > 0 && p.lasts(q, after) {
			p.try.inc.condemned("hung (no answer to a call)")
		}
	}
	return p.finish(q.Wait())
}

// lasts waits until the call has taken so long, and reports whether somebody still waits for its answer.
func (p *groupCall) lasts(q client.Settling, long time.Duration) bool {
	until := p.try.sent.Add(long)
	if d, ok := p.ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	for left := time.Until(until); left > 0; left = time.Until(until) {
		if q.Settled(min(left, hangLook)) || p.ctx.Err() != nil {
			return false
		}
	}
	return !q.Settled(0) && p.ctx.Err() == nil && time.Since(p.try.sent) >= long
}

// outlives reports whether the call's deadline is farther away than d. A look at a call knows nothing of its deadline, so
// whoever looks for longer would have the caller wait past it.
func (p *groupCall) outlives(d time.Duration) bool {
	deadline, ok := p.ctx.Deadline()
	return !ok || time.Until(deadline) > d
}

// finish takes the outcome of the current try.
func (p *groupCall) finish(err error) error {
	t := p.try
	err = p.judge(err)
	p.try, p.last = try{}, t.inc
	p.endRetry()
	t.inc.inflight.Add(-1)
	took := time.Since(t.sent)
	t.follow.end(err, false)
	p.group.stats[t.replica].count(p.call.Y.Rows, took, err)
	p.group.end(t.replica, t.inc, p.outcome(err), took, work(p.call))
	if err == nil {
		t.inc.served.Store(true)
		if p.noted != nil {
			*p.noted = p.group.answer(t, took, p.sent)
		}
		if !p.quiet {
			p.group.seen.call(p.call, took)
			p.group.heat.add(p.call, took)
			p.group.sample(t.replica, t.inc, p.call)
		}
	} else if p.ctx.Err() == nil {
		p.group.wrong(p.call, err)
	}
	return err
}

// errUnsound is in the error of a call whose own rows may be the reason that no valid answer came.
var errUnsound = errors.New("the call's rows are out of bounds")

// soundLimit is far above what a norm lets through, and far below what an honest expert's float32 can't hold the answer to.
// Rows beyond it are a client's own, or what is left of a lie about the layer before.
const soundLimit = 1 << 20

// judge gives an error its class. The host sends only calls that it has checked, of units that the process has loaded and been
// tested on. So a process that refuses one, or says that its time is up while it is not, has answered wrongly; what it
// says is for the log and not for the client. Nobody is blamed for what comes of rows that are out of bounds.
func (p *groupCall) judge(err error) error {
	if err == nil || p.ctx.Err() != nil {
		return err
	}
	if d, ok := p.ctx.Deadline(); ok && errors.Is(err, sdk.ErrDeadline) && time.Until(d) < deadlineSlack {
		return err
	}
	if errors.Is(err, sdk.ErrUnavailable) {
		dead, lost := (*client.DeadError)(nil), (*client.LostError)(nil)
		if !errors.As(err, &dead) && !errors.As(err, &lost) {
			p.try.inc.condemned("does not take calls")
		}
		return err
	}
	if !errors.Is(err, sdk.ErrInvalidOutput) {
		err = fmt.Errorf("%w: a call was refused: %.200q", sdk.ErrInvalidOutput, err.Error())
	}
	if !sound(p.call) {
		err = fmt.Errorf("%w: %w", errUnsound, err)
	}
	return err
}

// deadlineSlack is how far the clocks of a call's two ends may seem to differ.
const deadlineSlack = 50 * time.Millisecond

// sound reports whether an honest expert must be able to answer the call.
func sound(c *expert.Call) bool {
	for r := range c.Y.Rows {
		at := r
		if c.From != nil {
			at = int(c.From[r])
		}
		for _, v := range c.X.Row(at) {
			if !(v >= -soundLimit && v <= soundLimit) {
				return false
			}
		}
	}
	return true
}

// outcome says what an error tells about the replica.
func (p *groupCall) outcome(err error) resilience.Outcome {
	switch {
	case err == nil:
		return resilience.Answered
	case errors.Is(err, errUnsound):
		return resilience.Dropped
	case errors.Is(err, sdk.ErrInvalidOutput):
		return resilience.Invalid
	case p.ctx.Err() == nil && isProcessFault(err):
		return resilience.Failed
	}
	return resilience.Dropped
}

// drop gives the current try up: the other one was quicker.
func (p *groupCall) drop(o resilience.Outcome) {
	t := p.try
	p.try, p.last = try{}, t.inc
	p.endRetry()
	t.pending.(client.Settling).Abandon()
	t.follow.end(nil, true)
	t.inc.inflight.Add(-1)
	p.group.end(t.replica, t.inc, o, time.Since(t.sent), work(p.call))
}

// work is what a call costs: its rows, and the weights that are read for them.
func work(c *expert.Call) float64 { return float64(c.Y.Rows + unitRows*len(c.Segments)) }

func (g *group) hedgeAfter(work float64) (time.Duration, bool) {
	if len(g.replicas) < 2 {
		return 0, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.set.HedgeAfter(work)
}

// hedged is the memory of a second try.
type hedged struct {
	call expert.Call
	y    []float32
}

var hedges = sync.Pool{New: func() any { return new(hedged) }}

// hedge sends the call to a second replica, into memory of its own, and takes the first valid answer. first is the current
// try. Where nothing may be hedged, it is waited for alone.
func (p *groupCall) hedge(first client.Settling) error {
	g := p.group
	replica, inc := g.beginHedge(p.try.replica)
	if inc == nil {
		return p.outlast(first)
	}
	defer g.endHedge()
	h := hedges.Get().(*hedged)
	defer hedges.Put(h)
	h.call = *p.call
	if n := p.call.Y.Rows * p.call.Y.Cols; len(h.y) < n {
		h.y = make([]float32, n)
	}
	h.call.Y = tensor.MatrixOf(p.call.Y.Rows, p.call.Y.Cols, h.y[:p.call.Y.Rows*p.call.Y.Cols])
	other := groupCall{group: g, ctx: p.ctx, call: &h.call, noted: p.noted, sent: p.sent, beside: true}
	other.send(replica, inc)
	defer func() { h.call = expert.Call{} }()
	second, ok := other.try.pending.(client.Settling)
	if !ok { // it can't be looked at without waiting: a call that found no slot
		err := p.finish(first.Wait())
		other.finish(other.try.pending.Wait())
		return err
	}
	return p.race(&other, first, second)
}

// race waits for the first of two tries that ends well, and gives the other one up.
func (p *groupCall) race(other *groupCall, first, second client.Settling) error {
	for {
		switch {
		case first.Settled(hedgeLook):
			if err := p.finish(first.Wait()); err == nil || p.ctx.Err() != nil {
				other.drop(resilience.Dropped)
				return err
			}
			return p.take(other, second)
		case second.Settled(hedgeLook):
			replica := other.try.replica
			if err := other.finish(second.Wait()); err != nil {
				return p.finish(first.Wait())
			}
			p.group.prefer(replica)
			p.drop(resilience.Overtaken)
			p.copyFrom(other)
			return nil
		case p.ctx.Err() != nil:
			other.drop(resilience.Dropped)
			return p.finish(first.Wait())
		}
	}
}

// take waits for the second try alone.
func (p *groupCall) take(other *groupCall, second client.Settling) error {
	if err := other.finish(second.Wait()); err != nil {
		p.last = other.last
		return err
	}
	p.copyFrom(other)
	return nil
}

func (p *groupCall) copyFrom(other *groupCall) {
	for r := range p.call.Y.Rows {
		copy(p.call.Y.Row(r), other.call.Y.Row(r))
	}
	p.group.counts.hedgesWon.Inc()
}

// beginHedge picks the replica for a second try, and counts it, if the budget allows one.
func (g *group) beginHedge(replica int) (int, *incarnation) {
	g.mu.Lock()
	allowed := g.set.Hedge()
	g.mu.Unlock()
	if !allowed {
		return -1, nil
	}
	r, inc := g.begin(1 << replica)
	if inc == nil {
		g.endHedge()
		return -1, nil
	}
	g.counts.hedges.Inc()
	return r, inc
}

func (g *group) prefer(replica int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.set.Prefer(replica)
}

func (g *group) endHedge() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.set.EndHedge()
}

var (
	_ moe.Sleeper      = (*groupCall)(nil)
	_ moe.Attributable = (*groupCall)(nil)
)
