// Package scaling decides how many processes an expert group has, and which units share a process. Scaler follows measured
// load with thresholds that lie apart, windows, cool-downs and budgets; Regroup deals units anew by their heat.
//
// core/host tells a Scaler what it has measured and does what it says; server/instance asks for a Regroup. Everything here is
// a deterministic function or state machine: time is an argument, and nothing waits, starts a goroutine or takes a lock. The
// package refuses to know about processes, calls and settings.
package scaling

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Rules say when the number of a group's replicas changes.
type Rules struct {
	// Busy is the share of the time in which a group's replicas have a call, from which on one more is started. One is stopped
	// only if the rest would have half of it at most. So the two never follow each other under the same load: n replicas grow
	// with n*Busy calls at once, and n+1 shrink with n*Busy/2.
	Busy float64
	// Window is how long load must be high. It must be low for three of them, since a replica too many costs less than one too
	// few.
	Window time.Duration
	// CoolDown is the least time between two changes of a group.
	CoolDown time.Duration
	// Cores is how many calls can be computed at once, whatever the number of processes; 0 = not known.
	Cores int
}

const (
	lowWindows = 3
	// mostPatience is how many times a cool-down is doubled for a group whose new replica does not start.
	mostPatience = 5
)

// Bounds are a group's name and how many replicas it may have.
type Bounds struct {
	Group    string
	Min, Max int
}

// Sample is what was measured of a group since the last one.
type Sample struct {
	Load  float64       // replicas that had a call, on average over the time
	Queue time.Duration // since when, without a break, there have been more calls than its replicas take; 0 = there are not
	Ready int           // replicas that get calls
	Out   int           // replicas in quarantine, which nobody waits for
	Need  int64         // bytes that one more replica takes
}

// Room is what the budgets of all groups leave; negative = they are exceeded.
type Room struct {
	Processes int
	Memory    int64 // bytes
}

// Decision is a change by one replica, or by an operator's word by several.
type Decision struct {
	At   time.Time `json:"at"`
	From int       `json:"from"`
	To   int       `json:"to"`
	Why  string    `json:"why"`
	// Failed says why it was taken back; empty if it was not.
	Failed string `json:"failed,omitempty"`
}

// State is what is known of a group.
type State struct {
	Wanted int       `json:"wanted"`
	Min    int       `json:"min"`
	Max    int       `json:"max"`
	Pinned bool      `json:"pinned"` // an operator has set the number, and load does not change it
	Busy   float64   `json:"busy"`   // share of the time in which a replica has a call, over a window
	Held   string    `json:"held"`   // why there is no replica more although load is high; empty where that is not so
	Last   *Decision `json:"last"`   // nil = none yet
}

// Scaler holds the number of replicas that each group should have. One change at a time is made: after a Decision whoever
// carries it out says Done or Failed before there is another one. It is not safe for concurrent use.
type Scaler struct {
	rules  Rules
	groups []following
	open   *following // the group whose change is under way; nil = none
}

// following is one group's.
type following struct {
	Bounds
	wanted  int
	out     int // of them, in quarantine
	pinned  bool
	since   time.Time // of the history; zero = it has none
	history []measured
	next    time.Time // no change before
	patient int       // starts that have failed in a row
	held    string
	last    *Decision
}

// measured is a sample and the time that it is of.
type measured struct {
	from, to time.Time
	load     float64
	queue    time.Duration
}

// New begins with so many replicas of each group.
func New(rules Rules, groups []Bounds, replicas []int) *Scaler {
	s := &Scaler{rules: rules}
	for i, b := range groups {
		s.groups = append(s.groups, following{Bounds: b, wanted: replicas[i]})
	}
	return s
}

// Wanted is how many replicas a group should have.
func (s *Scaler) Wanted(group int) int { return s.groups[group].wanted }

// State describes a group.
func (s *Scaler) State(now time.Time, group int) State {
	g := &s.groups[group]
	st := State{Wanted: g.wanted, Min: g.Min, Max: g.Max, Pinned: g.pinned, Held: g.held}
	if load, ok := g.mean(now, s.rules.Window); ok {
		st.Busy = load / g.working()
	}
	if g.last != nil {
		last := *g.last
		st.Last = &last
	}
	return st
}

// Decide takes a sample of every group and says which one should have another number of replicas; ok is false where none
// should, or a change is under way.
func (s *Scaler) Decide(now time.Time, samples []Sample, room Room) (group int, d Decision, ok bool) {
	for i := range s.groups {
		s.groups[i].note(now, s.rules, samples[i])
	}
	if s.open != nil {
		return 0, d, false
	}
	if room.Processes < 0 || room.Memory < 0 {
		return s.relieve(now)
	}
	if i := s.neediest(now, samples); i >= 0 {
		g := &s.groups[i]
		if g.held = s.hinders(now, samples[i], room); g.held == "" {
			return i, s.change(now, i, g.wanted+1, g.need(now, s.rules.Window, samples[i])), true
		}
	}
	for i := range s.groups {
		if g := &s.groups[i]; s.idle(now, i, samples[i]) {
			load, _ := g.mean(now, lowWindows*s.rules.Window)
			why := fmt.Sprintf("the others would be busy for %.0f %% of the time", 100*load/float64(g.wanted-1))
			return i, s.change(now, i, g.wanted-1, why), true
		}
	}
	return 0, d, false
}

// note adds a sample to the history, and forgets what no window needs.
func (g *following) note(now time.Time, r Rules, m Sample) {
	g.out = m.Out
	if g.since.IsZero() { // nobody knows from when on it is
		g.since = now
		return
	}
	from := g.since
	if n := len(g.history); n > 0 {
		from = g.history[n-1].to
	}
	g.history = append(g.history, measured{from, now, m.Load, m.Queue})
	old := now.Add(-lowWindows * r.Window)
	g.history = slices.DeleteFunc(g.history, func(m measured) bool { return !m.to.After(old) })
	g.held = ""
}

// mean is the load over the last part of the history; false where that does not reach so far back.
func (g *following) mean(now time.Time, over time.Duration) (float64, bool) {
	begin := now.Add(-over)
	var sum, long float64
	for _, m := range g.history {
		if m.to.After(begin) {
			took := float64(m.to.Sub(m.from))
			sum, long = sum+took*m.load, long+took
		}
	}
	if long == 0 || g.since.After(begin) {
		return 0, false
	}
	return sum / long, true
}

// busy is the share of the time in which a replica had a call; 0 where that is not known.
func (g *following) busy(now time.Time, over time.Duration) float64 {
	load, _ := g.mean(now, over)
	return load / g.working()
}

// working is how many replicas share the load.
func (g *following) working() float64 { return float64(max(g.wanted-g.out, 1)) }

// may reports whether load may change the group now: a change before has settled, and all replicas are there. One that is
// missing is being restarted, and what was measured without it says nothing.
func (g *following) may(now time.Time, m Sample) bool {
	return !g.pinned && !now.Before(g.next) && m.Ready+m.Out == g.wanted
}

// need says why a group should grow.
func (g *following) need(now time.Time, window time.Duration, m Sample) string {
	switch {
	case g.wanted < g.Min:
		return fmt.Sprintf("it should have %d at least", g.Min)
	case m.Queue >= window:
		return fmt.Sprintf("calls have been waiting for %v without a break", m.Queue.Round(time.Millisecond))
	}
	return fmt.Sprintf("its replicas are busy for %.0f %% of the time", 100*g.busy(now, window))
}

// neediest is the group that should grow first, -1 if none should.
func (s *Scaler) neediest(now time.Time, samples []Sample) int {
	best := -1
	for i := range s.groups {
		g := &s.groups[i]
		load, known := g.mean(now, s.rules.Window)
		high := known && (load/g.working() >= s.rules.Busy || samples[i].Queue >= s.rules.Window) || g.wanted < g.Min
		if !high || g.wanted >= g.Max || !g.may(now, samples[i]) {
			continue
		}
		if best < 0 || cmp.Or(cmp.Compare(samples[i].Queue, samples[best].Queue), cmp.Compare(g.busy(now, s.rules.Window), s.groups[best].busy(now, s.rules.Window))) > 0 {
			best = i
		}
	}
	return best
}

// hinders is why there is no room for one more replica; empty if there is.
func (s *Scaler) hinders(now time.Time, m Sample, room Room) string {
	if room.Processes < 1 {
		return "as many processes run as may"
	}
	if m.Need > room.Memory {
		return fmt.Sprintf("one more takes %d MiB, and %d MiB of the memory budget are left", m.Need>>20, room.Memory>>20)
	}
	var load float64
	for i := range s.groups {
		l, _ := s.groups[i].mean(now, s.rules.Window)
		load += l
	}
	if s.rules.Cores > 0 && load >= float64(s.rules.Cores) {
		return fmt.Sprintf("the calls of all groups keep the %d cores busy", s.rules.Cores)
	}
	return ""
}

// idle reports whether a group should shrink.
func (s *Scaler) idle(now time.Time, i int, m Sample) bool {
	g := &s.groups[i]
	load, known := g.mean(now, lowWindows*s.rules.Window)
	if !known || g.wanted <= g.Min || !g.may(now, m) {
		return false
	}
	if slices.ContainsFunc(g.history, func(h measured) bool { return h.queue > 0 }) {
		return false
	}
	return load/float64(g.wanted-1) <= s.rules.Busy/2
}

// relieve takes a replica from the group that misses it least; budgets are above load and cool-downs, but not above the least
// number.
func (s *Scaler) relieve(now time.Time) (int, Decision, bool) {
	best := -1
	for i := range s.groups {
		g := &s.groups[i]
		if g.wanted > g.Min && (best < 0 || g.busy(now, s.rules.Window) < s.groups[best].busy(now, s.rules.Window)) {
			best = i
		}
	}
	if best < 0 {
		return 0, Decision{}, false
	}
	return best, s.change(now, best, s.groups[best].wanted-1, "the budget of all processes is exceeded"), true
}

// Set is an operator's word: the group shall have so many replicas, whatever its load, until Unpin. Budgets and the greatest
// number bind operators, too; the least one does not. ok is false where it has so many already.
func (s *Scaler) Set(now time.Time, group, replicas int, need int64, room Room) (d Decision, ok bool, err error) {
	g := &s.groups[group]
	more := replicas - g.wanted
	switch {
	case s.open != nil:
		return d, false, fmt.Errorf("group %s is being changed: %w", s.open.Group, sdk.ErrUnavailable)
	case replicas < 1 || replicas > g.Max:
		return d, false, fmt.Errorf("%d replicas: want 1 to %d: %w", replicas, g.Max, sdk.ErrInvalid)
	case more > room.Processes && more > 0:
		return d, false, fmt.Errorf("%d replicas: %d more processes may run: %w", replicas, max(room.Processes, 0), sdk.ErrInvalid)
	case more > 0 && int64(more)*need > room.Memory:
		return d, false, fmt.Errorf("%d replicas: they take %d MiB more, and %d MiB of the memory budget are left: %w",
			replicas, int64(more)*need>>20, max(room.Memory>>20, 0), sdk.ErrInvalid)
	}
	g.pinned = true
	if more == 0 {
		return d, false, nil
	}
	return s.change(now, group, replicas, "an operator has said so"), true, nil
}

// Unpin has the group follow its load again.
func (s *Scaler) Unpin(group int) { s.groups[group].pinned = false }

// change opens a change.
func (s *Scaler) change(now time.Time, group, to int, why string) Decision {
	g := &s.groups[group]
	g.last = &Decision{At: now, From: g.wanted, To: to, Why: why}
	g.wanted, s.open = to, g
	return *g.last
}

// Done says that a change has been carried out.
func (s *Scaler) Done(now time.Time) {
	g := s.closed()
	g.patient, g.next = 0, now.Add(s.rules.CoolDown)
}

// Failed says that a change could not be carried out and that the group has as many replicas as before. The next try is
// later each time.
func (s *Scaler) Failed(now time.Time, why string) {
	g := s.closed()
	g.wanted, g.last.Failed = g.last.From, why
	g.next = now.Add(s.rules.CoolDown << min(g.patient, mostPatience))
	g.patient++
}

// closed ends a change; what was measured before it says nothing about the new number.
func (s *Scaler) closed() *following {
	g := s.open
	s.open, g.since, g.history = nil, time.Time{}, nil
	return g
}
