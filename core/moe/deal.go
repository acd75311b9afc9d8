package moe

import (
	"context"
	"slices"
	"sync"

	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
)

const (
	// dealtValues is from how many values on, in all calls together, a layer's rows are dealt: they take some tens of milliseconds.
	dealtValues = 2 << 20
	// dealtRows is the longest call that is not divided: its weights are read about as long as it is computed.
	dealtRows = 32
	// dealtAtOnce calls are under way for each core: it computes one while the other one is gathered or read.
	dealtAtOnce = 2
)

// deals reports whether the layer's calls are dealt: made one after the other, by whichever core has time, instead of all at
// once to the cores of the plan. What takes so long is never foreseen well enough, and would leave a core idle at the end; and
// answers are read while others are computed. Few rows take less time than the calls would cost.
func (l *Layer) deals(in Input) bool {
	return l.bound && l.cores > 1 && in.Meanwhile == nil && in.X.Rows*l.k*l.width >= l.dealFrom
}

// deal plans as fill does, but for calls that are made one after the other on any core: a call for each expert or a part of
// its rows, the longest first.
func (p *plan) deal(routes router.Routes, groups []int, cores int) {
	p.begin(routes, groups)
	p.cut(cores)
	p.segments = slices.Grow(p.segments, len(p.order)) // calls keep slices of it
	at := 0
	for i, j := range p.order {
		t := &p.parts[j]
		t.at, t.left = int32(at), t.rows
		p.segments = append(p.segments, expert.Segment{Expert: int(t.expert), Rows: int(t.rows)})
		p.calls = append(p.calls, planned{group: int(t.group), lane: -1, from: at, to: at + int(t.rows), segments: p.segments[i : i+1], threads: 1})
		at += int(t.rows)
	}
	p.place(routes)
}

// cut divides long parts and puts the longest first: none has more rows than a quarter of a core's share, and those that are
// dealt last, a quarter of all rows, no more than a sixteenth, so that all cores end at about the same time.
func (p *plan) cut(cores int) {
	share, dealt := len(p.rows)/cores, 0
	for _, i := range p.order {
		p.divide(i, share/4)
	}
	p.longestFirst()
	for _, i := range p.order {
		if dealt*4 >= len(p.rows)*3 {
			p.divide(i, share/16)
		} else {
			dealt += int(p.parts[i].rows)
		}
	}
	p.longestFirst()
}

// divide makes of a part as few as have at most so many rows each, or dealtRows, and all about as many.
func (p *plan) divide(i int32, rows int) {
	most := int32(max(rows, dealtRows))
	for n := (p.parts[i].rows + most - 1) / most; n > 1; n-- {
		more := p.parts[i]
		more.rows /= n
		p.parts[i].rows -= more.rows
		p.parts[i].next = int32(len(p.parts)) // more goes on with what came after the part
		p.order = append(p.order, int32(len(p.parts)))
		p.parts = append(p.parts, more)
	}
}

// serve makes the calls of dealt work and waits for them, a goroutine for each core.
func (l *Layer) serve(ctx context.Context, in Input, w *work) {
	w.errs = append(w.errs, make([]error, len(w.calls))...)
	d := dealer{layer: l, ctx: ctx, in: in, w: w, taken: make([]bool, len(w.calls))}
	var others sync.WaitGroup
	for core := 1; core < l.cores; core++ {
		others.Go(func() { d.serve(core) })
	}
	d.serve(0)
	others.Wait()
}

// dealer gives calls to cores.
type dealer struct {
	layer *Layer
	ctx   context.Context
	in    Input
	w     *work

	mu    sync.Mutex
	first int // that may not be taken
	taken []bool
}

// serve has the core compute calls until all are taken.
func (d *dealer) serve(core int) {
	var under [dealtAtOnce]struct {
		call    int
		pending expert.Pending
	}
	for n := 0; ; n-- {
		for ; n < len(under); n++ {
			call, lane := d.take(core)
			if call < 0 {
				break
			}
			under[n].call, under[n].pending = call, d.start(call, lane)
		}
		if n == 0 {
			return
		}
		d.w.errs[under[0].call] = under[0].pending.Wait()
		copy(under[:], under[1:n])
	}
}

// take is the next call that can run on the core, and its lane there; -1 if there is none.
func (d *dealer) take(core int) (call, lane int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for ; d.first < len(d.taken) && d.taken[d.first]; d.first++ {
	}
	for i := d.first; i < len(d.taken); i++ {
		if d.taken[i] {
			continue
		}
		if lane := slices.Index(d.layer.sites[d.w.plan.calls[i].group], core); lane >= 0 {
			d.taken[i] = true
			return i, lane
		}
	}
	return -1, -1
}

func (d *dealer) start(i, lane int) expert.Pending {
	c := &d.w.calls[i]
	c.Lane = lane + 1
	p := d.layer.start(d.ctx, d.in, d.layer.groups[d.w.plan.calls[i].group], c)
	d.w.hops.note(i, p)
	if s, ok := p.(Sleeper); ok {
		s.Wake(true)
	}
	return p
}
