package host

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/scaling"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
)

// Budget bounds what all expert processes take together.
type Budget struct {
	Processes int // 0 = any number
	// Memory is bytes of the weights in use, whose pages processes share, and of what each process has for itself: as
	// measured, and before it can be measured as assumed. 0 = any amount.
	Memory int64
}

// newProcess is what a process has for itself before its slots, as far as nothing has been measured: the built-in backends
// have 10 to 25 MiB.
const newProcess = 32 << 20

// OverBudgetError says that the experts need more memory than the budget has.
type OverBudgetError struct {
	Need, Weights, Process, Budget int64 // bytes: in all, the weights, one process
	Processes                      int
}

func (e *OverBudgetError) Error() string {
	return fmt.Sprintf("the experts need %d MiB, %d MiB of weights and %d processes of %d MiB each; the memory budget is %d MiB",
		mib(e.Need), mib(e.Weights), e.Processes, mib(e.Process), mib(e.Budget))
}

// Unwrap makes it an sdk.ErrInvalid.
func (e *OverBudgetError) Unwrap() error { return sdk.ErrInvalid }

// mib rounds up.
func mib(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

// footprint is the memory that can be known before processes run.
type footprint struct {
	weights int64
	slots   int64 // of one process
}

// check returns the footprint of what the options describe; an error if it does not fit into the budget.
func (b Budget) check(o Options) (footprint, error) {
	var f footprint
	if b.Memory == 0 {
		return f, nil
	}
	files, processes := map[string]bool{}, 0
	for _, g := range o.Groups {
		if g.Remote != nil {
			continue // other machines' memory
		}
		processes += max(g.Replicas, 1) + g.Standby
		from := source(o.Model, g.Packed)
		for _, u := range g.Units {
			path := from.Path(weights.ExpertFile(u.Expert))
			if files[path] {
				continue
			}
			files[path] = true
			info, err := os.Stat(path)
			if err != nil {
				return f, fmt.Errorf("size of the shard of expert %d: %w", u.Expert, err)
			}
			f.weights += info.Size()
		}
	}
	plane := client.ExpertPlane(o.MaxRows, o.Experts.Hidden, 2*len(newLanes(o.Threads, o.ProcessCores).of(0)))
	plane.Lanes = plane.Slots / 2
	slots, err := plane.Bytes()
	if err != nil {
		return f, fmt.Errorf("slots of an expert process: %w", err)
	}
	f.slots = slots
	if need := f.weights + int64(processes)*(f.slots+newProcess); need > b.Memory {
		return f, &OverBudgetError{Need: need, Weights: f.weights, Process: f.slots + newProcess, Budget: b.Memory, Processes: processes}
	}
	return f, nil
}

// scale has the groups grow and shrink. Who changes a group holds Host.changing, too.
type scale struct {
	every  time.Duration // between two samples; 0 = no group follows load
	budget Budget
	known  footprint
	seats  []*seat

	mu      sync.Mutex // guards what follows
	scaler  *scaling.Scaler
	samples []scaling.Sample
}

func newScale(o Options, seats []*seat, known footprint) *scale {
	s := &scale{budget: o.Budget, known: known, seats: seats, samples: make([]scaling.Sample, len(seats))}
	var bounds []scaling.Bounds
	var replicas []int
	for n, spec := range o.Groups {
		least := max(spec.Replicas, 1)
		if spec.Remote != nil { // it has as many as there are endpoints
			spec.Replicas, spec.MaxReplicas, least = 1, 1, 1
		}
		bounds = append(bounds, scaling.Bounds{Group: seats[n].name, Min: least, Max: spec.most()})
		replicas = append(replicas, least)
		if spec.most() > least && o.Scaling.Window > 0 {
			const samples = 10 // of a window
			s.every = max(o.Scaling.Window/samples, time.Millisecond)
		}
	}
	s.scaler = scaling.New(o.Scaling, bounds, replicas)
	for n, seat := range seats {
		o.Metrics.Gauge("pimoe_expert_replicas_wanted", func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			if g := seat.own(); g.pool != nil {
				return float64(g.size())
			}
			return float64(s.scaler.Wanted(n))
		}, "group", seat.name)
	}
	return s
}

// measure takes samples of all groups. The caller holds mu.
func (s *scale) measure(now time.Time) {
	for n, seat := range s.seats {
		g := seat.own()
		m := &s.samples[n]
		m.Load, m.Queue = g.asked(now)
		m.Ready, m.Out = g.present()
	}
}

// room is what the budgets leave, and what one more replica of each group takes. The caller holds mu.
func (s *scale) room() scaling.Room {
	room := scaling.Room{Processes: math.MaxInt32, Memory: math.MaxInt64}
	if s.budget.Processes > 0 {
		room.Processes = s.budget.Processes
	}
	if s.budget.Memory > 0 {
		room.Memory = s.budget.Memory - s.known.weights
	}
	for n, seat := range s.seats {
		if seat.own().pool != nil {
			continue // it takes nothing of this machine
		}
		all := seat.own().serving()
		room.Processes -= len(all)
		if s.budget.Memory == 0 {
			continue
		}
		var most int64
		for _, one := range all {
			own := s.known.slots + newProcess
			if inc, _, _ := one.ready(); inc != nil {
				if now := inc.memory.of(inc.proc.PID(), time.Now()); now > 0 {
					own = s.known.slots + int64(now)
				}
				most = max(most, own)
			}
			room.Memory -= own
		}
		if s.samples[n].Need = most; most == 0 {
			s.samples[n].Need = s.known.slots + newProcess
		}
	}
	return room
}

// follow has the groups follow their load until life ends.
func (h *Host) follow(life context.Context) {
	s := h.scale
	for s.every > 0 && sleep(life, s.every) {
		if !h.changing.TryLock() { // one change at a time; the next sample is of a longer time
			continue
		}
		s.mu.Lock()
		now := time.Now()
		s.measure(now)
		group, d, ok := s.scaler.Decide(now, s.samples, s.room())
		s.mu.Unlock()
		if ok {
			_ = h.carryOut(group, d) // it has been logged, and is tried again later
		}
		h.changing.Unlock()
	}
}

// Scale is an operator's word: the group shall have so many replicas, whatever its load; 0 = it shall follow its load again. It
// returns when the new ones serve, or the ones too many have finished their calls and ended.
func (h *Host) Scale(name string, replicas int) (*GroupStatus, error) {
	if h.fleet == nil {
		return nil, fmt.Errorf("scale: the experts run in the host's own process: %w", sdk.ErrUnsupported)
	}
	h.changing.Lock()
	defer h.changing.Unlock()
	for n, seat := range h.groups {
		if seat.name != name {
			continue
		}
		if err := seat.own().away("scale"); err != nil {
			return nil, err
		}
		if err := h.obey(n, replicas); err != nil {
			return nil, fmt.Errorf("scale %s: %w", name, err)
		}
		return &h.Scaling()[n], nil
	}
	return nil, fmt.Errorf("scale %q: %w", name, errUnknownGroup)
}

func (h *Host) obey(group, replicas int) error {
	s := h.scale
	s.mu.Lock()
	if replicas == 0 {
		s.scaler.Unpin(group)
		s.mu.Unlock()
		return nil
	}
	room := s.room()
	d, ok, err := s.scaler.Set(time.Now(), group, replicas, s.samples[group].Need, room)
	s.mu.Unlock()
	if err != nil || !ok {
		return err
	}
	return h.carryOut(group, d)
}

// carryOut makes a change; if it can't be made, the group has as many replicas as before.
func (h *Host) carryOut(n int, d scaling.Decision) error {
	life, s := h.fleet.life, h.scale
	g := h.groups[n].own()
	began := time.Now()
	err := h.fleet.resize(life, g, d.To)
	if err != nil && life.Err() == nil {
		err = errors.Join(err, h.fleet.resize(life, g, d.From))
	}
	log := g.log.With("from", d.From, "to", d.To, "why", d.Why, "took", time.Since(began))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.scaler.Failed(time.Now(), publicCause(err))
		log.Error("expert group could not be scaled", "err", err)
		return err
	}
	s.scaler.Done(time.Now())
	log.Info("expert group scaled")
	return nil
}

// resize gives a group so many replicas, one after the other.
func (f *fleet) resize(ctx context.Context, g *group, replicas int) error {
	if err := g.away("scale"); err != nil {
		return err
	}
	for g.size() < replicas {
		if err := f.grow(ctx, g); err != nil {
			return err
		}
	}
	for g.size() > replicas {
		if err := f.shrink(ctx, g, g.leaver()); err != nil {
			return err
		}
	}
	return nil
}

// grow starts one more replica and returns when it gets calls.
func (f *fleet) grow(ctx context.Context, g *group) error {
	r := g.spare()
	if r < 0 {
		return fmt.Errorf("expert group %s: its other replicas are in quarantine: %w", g.spec.Name, sdk.ErrUnavailable)
	}
	s := g.replicas[r]
	f.count.Add(1)
	s.unpark()
	limited, cancel := context.WithTimeout(ctx, s.timeout+stopWithin)
	defer cancel()
	err := g.awaitStart(limited, s)
	if err != nil {
		return errors.Join(err, f.shrink(ctx, g, r))
	}
	return nil
}

// spare is a replica that the group can have in addition, -1 if there is none.
func (g *group) spare() int {
	for r, s := range g.replicas[:g.spec.most()] {
		if s.parked.Load() && s.barred.Load() == nil {
			return r
		}
	}
	return -1
}

// leaver is the replica that the group misses least: one that has no process, else the last.
func (g *group) leaver() int {
	last := -1
	for r, s := range g.replicas[:g.spec.most()] {
		if s.parked.Load() {
			continue
		}
		last = r
		if inc, _, _ := s.ready(); inc == nil {
			break
		}
	}
	return last
}

// awaitStart waits for a replica's process.
func (g *group) awaitStart(ctx context.Context, s *supervisor) error {
	for {
		changed := g.changed.wait()
		inc, err, hopeless := s.ready()
		switch {
		case inc != nil:
			return nil
		case hopeless && !errors.Is(err, errParked): // it may not have noticed yet that it isn't any more
			return fmt.Errorf("start %s: %w", s.name, err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("start %s: %w: %w", s.name, ctx.Err(), err)
		}
	}
}

// drainLook is between two looks at the calls of a replica that is to leave.
const drainLook = 2 * time.Millisecond

// shrink takes a replica out of use: it gets no new calls, finishes those that it has, and ends.
func (f *fleet) shrink(ctx context.Context, g *group, r int) error {
	s := g.replicas[r]
	defer f.count.Add(-1)
	s.park()
	g.mu.Lock()
	g.set.Drain(r)
	g.mu.Unlock()
	g.changed.broadcast() // whoever waited for it waits for another one
	for g.busy(r) {
		if !sleep(ctx, drainLook) {
			return ctx.Err()
		}
	}
	s.dismiss()
	for {
		changed := g.changed.wait()
		if s.isParked() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *group) busy(r int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.set.Inflight(r) > 0
}

func (s *supervisor) isParked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == StateParked
}

// GroupStatus is how many processes a group has and should have.
type GroupStatus struct {
	Group string `json:"group"`
	Ready int    `json:"ready"` // replicas that get calls
	scaling.State
	Queue time.Duration `json:"queue_ns"` // since when, without a break, there have been more calls than its processes take
}

// Scaling describes the number of replicas of every group; nil where nothing has a process. Where no group follows load, its
// busy share is that since the last look.
func (h *Host) Scaling() []GroupStatus {
	s := h.scale
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.every == 0 { // else follow looks
		s.measure(now)
	}
	var out []GroupStatus
	for n, seat := range s.seats {
		m := s.samples[n]
		st := GroupStatus{Group: seat.name, Queue: m.Queue, State: s.scaler.State(now, n)}
		st.Ready, _ = seat.own().present()
		if g := seat.own(); g.pool != nil {
			st.Wanted, st.Min, st.Max = g.size(), 1, g.spec.most()
		}
		if s.every == 0 {
			st.Busy = m.Load / float64(max(st.Ready, 1))
		}
		out = append(out, st)
	}
	return out
}
