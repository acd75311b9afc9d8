package live

import (
	"encoding/json"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/server/alert"
)

// Hello is the first message: what does not change.
type Hello struct {
	Model     string      `json:"model"`
	Layout    host.Layout `json:"layout"`
	Bounds    []float64   `json:"bounds"`    // of the distributions, in seconds
	Processes bool        `json:"processes"` // States list them
	Alerts    bool        `json:"alerts"`    // lists of them will come
	EveryMS   int64       `json:"every_ms"`  // between two pulses
	Events    []Event     `json:"events"`    // the last ones
}

func (h *Hub) hello(a Audience) Hello {
	out := Hello{Model: h.src.Model, Bounds: h.src.Bounds, Processes: a.Processes, Alerts: a.Alerts && h.src.Alerts != nil, EveryMS: h.o.Every.Milliseconds()}
	if h.src.Layout != nil {
		out.Layout = h.src.Layout()
	}
	return out
}

// Pulse is what has happened since the last one.
type Pulse struct {
	At     int64   `json:"t"`     // ms since 1970
	Units  []int64 `json:"units"` // pairs: the place of a unit in the layout, and the rows that it has computed
	Tokens uint64  `json:"tokens"`
	Prompt uint64  `json:"prompt_tokens"`
	Running
}

// Running is the queue.
type Running struct {
	Running int `json:"running"`
	Queued  int `json:"queued"`
}

// State is the whole picture but for the units.
type State struct {
	At int64 `json:"t"`
	Running
	Groups     []Group   `json:"groups"`
	Answers    Answers   `json:"answers"`
	FirstToken []uint64  `json:"first_token"` // by bucket, since the last State
	InterToken []uint64  `json:"inter_token"`
	Pages      int       `json:"pages"`
	FreePages  int       `json:"free_pages"`
	Processes  []Process `json:"processes,omitempty"`
	Trial      *Trial    `json:"trial,omitempty"`
}

// to is what an audience may see of it.
func (s *State) to(a Audience) *State {
	if a.Processes {
		return s
	}
	sums := *s
	sums.Processes, sums.Trial = nil, nil
	return &sums
}

// AlertList is what the alerting rules say.
type AlertList struct {
	Looked time.Time     `json:"looked"` // when they were evaluated last
	Rules  int           `json:"rules"`  // that are evaluated here
	Alerts []alert.Alert `json:"alerts"` // that fire or are pending
	Over   []alert.Alert `json:"over"`   // resolved lately, the last one first
}

// Group is an expert group.
type Group struct {
	Group    string  `json:"group"`
	Ready    int     `json:"ready"` // replicas that get calls
	Wanted   int     `json:"wanted"`
	Max      int     `json:"max"`
	Busy     float64 `json:"busy"`     // share of the time
	QueueMS  int64   `json:"queue_ms"` // since when calls have been waiting
	Restarts uint64  `json:"restarts"`
}

// Process is a process of an expert group, or the router's, whose group is empty.
type Process struct {
	Group      string `json:"group"`
	Replica    int    `json:"replica"`
	PID        int    `json:"pid"`
	State      string `json:"state"`
	Health     string `json:"health"`
	Quarantine string `json:"quarantine,omitempty"`
	Backend    string `json:"backend"`
	Class      string `json:"class"`
	Calls      uint64 `json:"calls"`
	Rows       uint64 `json:"rows"`
	Errors     uint64 `json:"errors"`
	Restarts   uint64 `json:"restarts"`
	Bytes      uint64 `json:"bytes"` // private memory
	Since      int64  `json:"since"` // ms since 1970; 0 while it is not ready
	Aside      bool   `json:"aside,omitempty"`
	Death      *Death `json:"death,omitempty"` // the last one
}

// Death is how a process ended.
type Death struct {
	At    int64  `json:"t"`
	PID   int    `json:"pid"`
	Cause string `json:"cause"`
}

// Trial is a canary or a shadow, or the last one.
type Trial struct {
	Group string  `json:"group"`
	Kind  string  `json:"kind"`
	To    string  `json:"to"`
	Share float64 `json:"share"`
	Calls uint64  `json:"calls"`
	State string  `json:"state"`
	Why   string  `json:"why,omitempty"`
}

// look holds what the source said the last time. One goroutine uses it.
type look struct {
	src Source

	rows, before           []int64
	engine                 engine.Stats
	first, inter           []uint64 // at the last State
	nextFirst, nextInter   []uint64
	stated                 time.Time
	known                  *State // the last State, for what has happened since
	news                   []Event
	runningThen, queueThen int
}

// newLook takes what there is as the begin: only what comes is told.
func newLook(src Source, now time.Time) *look {
	l := &look{src: src, stated: now.Add(-stateEvery), runningThen: -1}
	if src.Rows != nil {
		l.before = src.Rows(nil)
	}
	if src.Engine != nil {
		l.engine = src.Engine()
	}
	l.first, l.inter = read(src.FirstToken, nil), read(src.InterToken, nil)
	return l
}

func read(f func([]uint64) []uint64, to []uint64) []uint64 {
	if f == nil {
		return to[:0]
	}
	return f(to)
}

// pulse is what was done since the last pulse; changed is false where that is nothing.
func (l *look) pulse(now time.Time) (p Pulse, changed bool) {
	p.At, p.Units = now.UnixMilli(), []int64{}
	if l.src.Rows != nil {
		l.rows = l.src.Rows(l.rows)
		for i, n := range l.rows {
			if i < len(l.before) && n > l.before[i] {
				p.Units = append(p.Units, int64(i), n-l.before[i])
			}
		}
		l.rows, l.before = l.before, l.rows
	}
	if l.src.Engine != nil {
		now := l.src.Engine()
		p.Tokens, p.Prompt = now.CompletionTokens-l.engine.CompletionTokens, now.PromptTokens-l.engine.PromptTokens
		p.Running = Running{now.Running, now.Queued}
		l.engine = now
	}
	changed = len(p.Units) > 0 || p.Tokens > 0 || p.Prompt > 0 || p.Running.Running != l.runningThen || p.Queued != l.queueThen
	l.runningThen, l.queueThen = p.Running.Running, p.Queued
	return p, changed
}

// state is the whole picture, and what it shows to have happened since the last one is kept for events.
func (l *look) state(now time.Time) *State {
	s := &State{At: now.UnixMilli(), Running: Running{l.engine.Running, l.engine.Queued}, Pages: l.engine.Pages, FreePages: l.engine.FreePages}
	l.nextFirst, l.nextInter = read(l.src.FirstToken, l.nextFirst), read(l.src.InterToken, l.nextInter)
	s.FirstToken, s.InterToken = less(l.nextFirst, l.first), less(l.nextInter, l.inter)
	l.first, l.nextFirst = l.nextFirst, l.first
	l.inter, l.nextInter = l.nextInter, l.inter
	if l.src.Answers != nil {
		s.Answers = l.src.Answers()
	}
	if l.src.Processes != nil {
		for _, st := range l.src.Processes() {
			s.Processes = append(s.Processes, processOf(st))
		}
	}
	if l.src.Groups != nil {
		s.Groups = groupsOf(s.Processes, l.src.Groups())
	}
	if l.src.Router != nil {
		s.Processes = append(s.Processes, routerOf(l.src.Router()))
	}
	if l.src.Trial != nil {
		if t := l.src.Trial(); t != nil {
			s.Trial = &Trial{Group: t.Group, Kind: t.Kind, To: t.To, Share: t.Share, Calls: t.Calls, State: t.State, Why: t.Why}
		}
	}
	if l.known != nil {
		l.news = append(l.news, compare(l.known, s)...)
	}
	l.stated, l.known = now, s
	return s
}

// events are what the last States showed; they are told once.
func (l *look) events() []Event {
	out := l.news
	l.news = nil
	return out
}

// less is now - before by bucket.
func less(now, before []uint64) []uint64 {
	out := make([]uint64, len(now))
	for i, n := range now {
		out[i] = n
		if i < len(before) {
			out[i] -= before[i]
		}
	}
	return out
}

func processOf(s host.Status) Process {
	p := Process{
		Group: s.Group, Replica: s.Replica, PID: s.PID, State: s.State, Health: s.Health, Quarantine: s.Quarantine, Backend: s.Backend,
		Class: s.NumericClass, Calls: s.Calls, Rows: s.Rows, Errors: s.Errors, Restarts: s.Restarts, Bytes: s.PrivateBytes, Aside: s.Aside,
		Death: deathOf(s.LastDeath),
	}
	if s.ReadySince != nil {
		p.Since = s.ReadySince.UnixMilli()
	}
	return p
}

func routerOf(s host.RouterStatus) Process {
	return Process{PID: s.PID, State: s.State, Backend: s.Name, Calls: s.PluginCalls, Restarts: s.Restarts, Death: deathOf(s.LastDeath)}
}

// deathOf leaves out the last lines that the process has written: they are for the admin API.
func deathOf(d *host.Death) *Death {
	if d == nil {
		return nil
	}
	return &Death{At: d.At.UnixMilli(), PID: d.PID, Cause: d.Cause}
}

// groupsOf sums up the processes that serve new requests. Groups without processes of their own have no scaling.
func groupsOf(all []Process, scaling []host.GroupStatus) []Group {
	var out []Group
	place := map[string]int{}
	for _, p := range all {
		if p.Aside {
			continue
		}
		at, known := place[p.Group]
		if !known {
			at = len(out)
			place[p.Group] = at
			out = append(out, Group{Group: p.Group})
		}
		g := &out[at]
		g.Wanted++
		g.Restarts += p.Restarts
		if p.State == string(host.StateReady) && p.Quarantine == "" {
			g.Ready++
		}
	}
	for _, s := range scaling {
		if at, known := place[s.Group]; known {
			g := &out[at]
			g.Ready, g.Wanted, g.Max, g.Busy, g.QueueMS = s.Ready, s.Wanted, s.Max, s.Busy, s.Queue.Milliseconds()
		}
	}
	return out
}

// encode is JSON of values that always become JSON.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("live: a message does not become JSON")
	}
	return b
}
