package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

const (
	recheckQueue = 16 // calls that wait to be repeated; more are let go
	recheckLimit = 10 * time.Second
	// glanceEvery is between two looks at whether a repeated call is done, for which nobody waits.
	glanceEvery = 500 * time.Microsecond
)

// recheck repeats some calls behind the back of whoever made them, on another replica or, where there is none, with the
// host's own kernels, and compares the answers bit for bit: calls are pure. Whoever gave other bits than the rest gives
// plausible but wrong numbers, which no look at an answer shows, and is quarantined.
type recheck struct {
	rate  float64 // share of the calls
	here  bool    // those of a lone replica are repeated in the host
	trial *atomic.Pointer[trialOf]
	queue chan *sampled
	twins map[*group]*twin // made when first needed
	make  func(ctx context.Context, g *group) (*twin, error)
	log   *slog.Logger

	same, other, skipped *metrics.Counter
}

// sampled is a call and its answer.
type sampled struct {
	group   *group
	again   bool     // it is to be repeated by the group itself
	shadow  *trialOf // which repeats it too; nil = none
	replica int
	inc     *incarnation
	call    expert.Call
	y       tensor.Matrix
}

// twin computes what a group computes, in this process.
type twin struct {
	expert expert.Expert
	files  []*weights.File
}

func (t *twin) close() error {
	err := t.expert.Close()
	for _, f := range t.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

func newRecheck(o Options, m func(context.Context, *group) (*twin, error)) *recheck {
	return &recheck{
		rate: o.RecheckRate, here: o.RecheckHere, trial: new(atomic.Pointer[trialOf]), queue: make(chan *sampled, recheckQueue), twins: map[*group]*twin{}, make: m, log: o.Log,
		same:    o.Metrics.Counter("pimoe_rechecks_total", "outcome", "same"),
		other:   o.Metrics.Counter("pimoe_rechecks_total", "outcome", "different"),
		skipped: o.Metrics.Counter("pimoe_rechecks_total", "outcome", "skipped"),
	}
}

// sample has a call repeated, if it is its turn and somebody has time for it.
func (g *group) sample(replica int, inc *incarnation, call *expert.Call) {
	t := g.recheck.trial.Load()
	shadow := t != nil && t.seat.name == g.spec.Name && g != t.fresh && g.draw() < t.share && t.running()
	again := g.draw() < g.recheck.rate
	if !again && !shadow {
		return
	}
	if len(g.recheck.queue) == cap(g.recheck.queue) {
		g.recheck.skipped.Inc()
		return
	}
	s := &sampled{group: g, again: again, replica: replica, inc: inc, call: *call, y: copied(call.Y, nil)}
	if shadow {
		s.shadow = t
	}
	s.call.Segments = slices.Clone(call.Segments)
	s.call.X, s.call.From, s.call.Lane, s.call.Threads = copied(call.X, call.From), nil, 0, 1
	select {
	case g.recheck.queue <- s:
	default:
		g.recheck.skipped.Inc()
	}
}

// copied are the rows of m, or those of them that from names.
func copied(m tensor.Matrix, from []int32) tensor.Matrix {
	rows := m.Rows
	if from != nil {
		rows = len(from)
	}
	c := tensor.NewMatrix(rows, m.Cols)
	for r := range rows {
		source := r
		if from != nil {
			source = int(from[r])
		}
		copy(c.Row(r), m.Row(source))
	}
	return c
}

// run compares until ctx ends, and lets the twins go.
func (c *recheck) run(ctx context.Context) {
	defer func() {
		for _, t := range c.twins {
			if t != nil {
				_ = t.close() // nothing was written
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-c.queue:
			one, cancel := context.WithTimeout(ctx, recheckLimit)
			if s.again {
				c.check(one, s)
			}
			if s.shadow != nil && s.shadow.running() {
				c.shadow(one, s, s.shadow)
			}
			cancel()
			c.dropOld()
		}
	}
}

// dropOld lets the twins of groups go whose processes have ended: others have their places.
func (c *recheck) dropOld() {
	for g, t := range c.twins {
		if g.life.Err() == nil {
			continue
		}
		delete(c.twins, g)
		if t != nil {
			_ = t.close() // nothing was written
		}
	}
}

// check asks for a second opinion, and if it is another one, for a third.
func (c *recheck) check(ctx context.Context, s *sampled) {
	g := s.group
	second := func(y tensor.Matrix) error { return c.askTwin(ctx, s, y) }
	replica, inc := g.begin(1 << s.replica)
	if inc == nil && !c.here {
		c.skipped.Inc()
		return
	}
	if inc != nil {
		second = func(y tensor.Matrix) error { return g.ask(ctx, replica, inc, s.call, y) }
	}
	y := tensor.NewMatrix(s.y.Rows, s.y.Cols)
	if err := second(y); err != nil {
		c.skipped.Inc()
		c.log.Debug("call not repeated", "group", g.spec.Name, "err", err)
		return
	}
	if sameBits(y.Data, s.y.Data) {
		c.same.Inc()
		return
	}
	c.other.Inc()
	if inc == nil {
		g.quarantine(s.replica, "gave other numbers than the host's own kernels")
		return
	}
	c.judge(ctx, s, replica, inc, y)
}

// judge decides between two replicas that gave different bits: the host's own kernels know, where they compute the group's
// function; else a third replica. Who can't be cleared is guilty.
func (c *recheck) judge(ctx context.Context, s *sampled, replica int, inc *incarnation, y tensor.Matrix) {
	g, third := s.group, tensor.NewMatrix(y.Rows, y.Cols)
	err := c.askTwin(ctx, s, third)
	if err != nil {
		if r, other := g.begin(1<<s.replica | 1<<replica); other != nil {
			err = g.ask(ctx, r, other, s.call, third)
		}
	}
	const cause = "gave other numbers than another replica"
	firstRight, secondRight := false, false
	if err == nil {
		firstRight, secondRight = sameBits(third.Data, s.y.Data), sameBits(third.Data, y.Data)
	}
	c.log.Error("replicas gave different bits", "group", g.spec.Name, "layer", s.call.Layer,
		"first", s.replica, "second", replica, "first_right", firstRight, "second_right", secondRight, "err", err)
	if !firstRight {
		g.quarantine(s.replica, cause)
	}
	if !secondRight {
		g.quarantine(replica, cause)
	}
}

// ask makes a call that the group has counted on a replica.
func (g *group) ask(ctx context.Context, replica int, inc *incarnation, call expert.Call, y tensor.Matrix) error {
	call.Y = y
	p := groupCall{group: g, ctx: ctx, call: &call, quiet: true}
	p.send(replica, inc)
	if q, ok := p.try.pending.(client.Settling); ok {
		for !q.Settled(0) && sleep(ctx, glanceEvery) { // to wait at work would keep those from the cores whose answers clients wait for
		}
	}
	return p.finish(p.try.pending.Wait())
}

// askTwin asks the host's own kernels.
func (c *recheck) askTwin(ctx context.Context, s *sampled, y tensor.Matrix) error {
	t, known := c.twins[s.group]
	if !known {
		var err error
		if t, err = c.make(ctx, s.group); err != nil {
			c.log.Info("the host can't compute what a group computes; its replicas are compared with each other only",
				"group", s.group.spec.Name, "err", err)
		}
		c.twins[s.group] = t
	}
	if t == nil {
		return errNoTwin
	}
	call := s.call
	call.Y = y
	return t.expert.Forward(ctx, &call)
}

var errNoTwin = errors.New("the host has no kernels for this group")

// twin makes the host's own version of a group. It is only believed if it gives the group's known answers bit for bit.
func (l *launcher) twin(ctx context.Context, g *group) (*twin, error) {
	if l.options.Builtin == nil {
		return nil, errNoTwin
	}
	e, files, err := loadHere(ctx, g.spec, l.options, l.options.Builtin)
	if err != nil {
		return nil, err
	}
	t := &twin{e, files}
	if err := g.answers.probe(ctx, e); err != nil {
		return nil, errors.Join(fmt.Errorf("known-answer test: %w", err), t.close())
	}
	return t, nil
}
