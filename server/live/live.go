// Package live tells watchers what the host does at this moment: which experts compute, how long tokens take, which processes
// serve, what happens to them, and what the alerting rules say. A Hub looks at its Source a few times a second while somebody watches, and not at all while
// nobody does; it makes one message of it for all watchers of an audience.
//
// server has a stream of server-sent events over a Watcher, for the console; other transports subscribe in the same way. The
// package refuses to know about HTTP, to hold anything of a request (it sees sums over all of them), to keep history beyond the
// last events, and to wait for a watcher who reads too slowly.
package live

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk"
)

// Source is what a Hub looks at. A function that is nil tells nothing. All are called from one goroutine at a time and must not
// block.
type Source struct {
	Model     string
	Layout    func() host.Layout
	Rows      func(to []int64) []int64 // of each unit since the start, in the order of the layout
	Processes func() []host.Status
	Groups    func() []host.GroupStatus
	Router    func() host.RouterStatus
	Trial     func() *host.Trial
	Engine    func() engine.Stats
	// FirstToken and InterToken are how often a time fell into each bucket since the start; Bounds are the upper bounds of the
	// buckets in seconds.
	FirstToken, InterToken func(to []uint64) []uint64
	Bounds                 []float64
	Answers                func() Answers
	Alerts                 func() AlertList // nil = no rules are evaluated
}

// Answers counts them since the start by their status.
type Answers struct {
	Exact    uint64 `json:"exact"`
	Fallback uint64 `json:"fallback"`
	Degraded uint64 `json:"degraded"`
}

// Audience is what a watcher may see beyond sums over groups and requests, which the zero value is.
type Audience struct {
	Processes bool // each process, and who did what
	Alerts    bool
}

// Message is one thing that a watcher is told. Data is JSON on one line, shared by all watchers: nobody changes it.
type Message struct {
	Kind string // one of the constants
	Data []byte
}

// The kinds of messages. The first one is a Hello; then come Pulses, one State a second, and Events. An AlertList comes with the
// first State, and with the next one whenever the rules were evaluated.
const (
	KindHello  = "hello"
	KindPulse  = "pulse"
	KindState  = "state"
	KindEvent  = "event"
	KindAlerts = "alerts"
)

// Options are a Hub's; the zero value is fit for use.
type Options struct {
	Every    time.Duration    // between two pulses; 0 = 125 ms: faster the eye does not follow, and slower looks lame
	Watchers int              // most of them; 0 = 64: each costs a connection and a little work ten times a second
	Now      func() time.Time // nil = time.Now
}

const (
	// buffered messages are what a watcher may lag behind: some seconds.
	buffered = 64
	// stateEvery is the period of a State: to measure the memory of processes costs the kernel a walk over their pages.
	stateEvery = time.Second
	// hastyFor is how long after a change was told a State follows more often: who has pressed a button looks at what comes of it.
	hastyFor, hastyEvery = 3 * time.Second, 250 * time.Millisecond
	// kept is how many events a newcomer hears of.
	kept = 50
)

// The reasons why a Watcher ends.
var (
	ErrSlow   = fmt.Errorf("the watcher reads too slowly: %w", sdk.ErrUnavailable)
	ErrClosed = fmt.Errorf("watching has ended: %w", sdk.ErrUnavailable)
	errMany   = fmt.Errorf("as many watch as may: %w", sdk.ErrOverloaded)
)

// Hub serves any number of watchers, up to a limit. Life: New, Subscribe and Tell from any goroutines, Close.
type Hub struct {
	src Source
	o   Options

	loops sync.WaitGroup

	mu       sync.Mutex // guards what follows, and each Watcher's end
	watchers map[*Watcher]struct{}
	stop     chan struct{} // of the loop; nil = it does not run
	closed   bool
	events   []Event // the last ones
	hasty    time.Time
}

// New makes a Hub. It starts nothing before the first Subscribe.
func New(src Source, o Options) *Hub {
	if o.Every <= 0 {
		o.Every = 125 * time.Millisecond
	}
	if o.Watchers <= 0 {
		o.Watchers = 64
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Hub{src: src, o: o, watchers: map[*Watcher]struct{}{}}
}

// Subscribe makes a watcher, who must be closed.
func (h *Hub) Subscribe(a Audience) (*Watcher, error) {
	hello := h.hello(a) // asks the source: not under the lock
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, ErrClosed
	case len(h.watchers) >= h.o.Watchers:
		return nil, errMany
	}
	hello.Events = h.recent(a)
	w := &Watcher{hub: h, audience: a, messages: make(chan Message, buffered), over: make(chan struct{})}
	w.messages <- Message{KindHello, encode(hello)}
	h.watchers[w] = struct{}{}
	h.hasty = h.o.Now().Add(hastyFor) // the first State comes soon
	if h.stop == nil {
		stop := make(chan struct{})
		h.stop = stop
		h.loops.Go(func() { h.loop(stop) })
	}
	return w, nil
}

// Tell adds an event, and has the next State come soon.
func (h *Hub) Tell(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.hasty = h.o.Now().Add(hastyFor)
	h.tell(e)
}

// tell passes an event on. The caller holds mu.
func (h *Hub) tell(e Event) {
	if e.At == 0 {
		e.At = h.o.Now().UnixMilli()
	}
	h.events = append(h.events, e)
	if len(h.events) > kept {
		h.events = append([]Event(nil), h.events[len(h.events)-kept:]...)
	}
	h.send(KindEvent, encode(e.to(Audience{})), encode(e.to(Audience{Processes: true})))
}

// send gives each watcher a message: one for those who see sums, another for those who see processes. The caller holds mu.
func (h *Hub) send(kind string, sums, processes []byte) {
	for w := range h.watchers {
		data := sums
		if w.audience.Processes {
			data = processes
		}
		h.give(w, Message{kind, data})
	}
}

// sendAlerts gives the alerts to those who may see them and do not know them as they are since the last evaluation. The caller
// holds mu.
func (h *Hub) sendAlerts(list AlertList) {
	var m Message
	for w := range h.watchers {
		if !w.audience.Alerts || w.knows.Equal(list.Looked) {
			continue
		}
		if m.Data == nil {
			m = Message{KindAlerts, encode(list)}
		}
		w.knows = list.Looked
		h.give(w, m)
	}
}

// give puts a message into a watcher's hands, or ends one who holds too many. The caller holds mu.
func (h *Hub) give(w *Watcher, m Message) {
	select {
	case w.messages <- m:
	default:
		h.end(w, ErrSlow)
	}
}

// end ends a watcher, and the loop with the last one. The caller holds mu.
func (h *Hub) end(w *Watcher, why error) {
	if _, watches := h.watchers[w]; !watches {
		return
	}
	delete(h.watchers, w)
	w.err = why
	close(w.over)
	if len(h.watchers) == 0 {
		close(h.stop)
		h.stop = nil
	}
}

// Watching is how many watch.
func (h *Hub) Watching() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers)
}

// Close ends all watchers and waits for the loop. It may be called more than once.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	for w := range h.watchers {
		h.end(w, ErrClosed)
	}
	h.mu.Unlock()
	h.loops.Wait()
}

// loop looks at the source until stop is closed.
func (h *Hub) loop(stop <-chan struct{}) {
	tick := time.NewTicker(h.o.Every)
	defer tick.Stop()
	l := newLook(h.src, h.o.Now())
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			h.step(l)
		}
	}
}

// step makes one pulse, and a State where it is time for one.
func (h *Hub) step(l *look) {
	now := h.o.Now()
	h.mu.Lock()
	hasty := now.Before(h.hasty)
	h.mu.Unlock()
	pulse, changed := l.pulse(now)
	var state *State
	if since := now.Sub(l.stated); since >= stateEvery || hasty && since >= hastyEvery {
		state = l.state(now)
	}
	var alerts AlertList
	if state != nil && h.src.Alerts != nil {
		alerts = h.src.Alerts()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if changed {
		data := encode(pulse)
		h.send(KindPulse, data, data)
	}
	if state == nil {
		return
	}
	for _, e := range l.events() {
		h.tell(e)
	}
	h.send(KindState, encode(state.to(Audience{})), encode(state))
	h.sendAlerts(alerts)
}

// Watcher is one who watches.
type Watcher struct {
	hub      *Hub
	audience Audience
	messages chan Message
	knows    time.Time     // of which evaluation it knows the alerts; the hub's mu guards it
	over     chan struct{} // closed when err is set
	err      error
}

// Next is the next message. After the last one it returns ErrSlow, ErrClosed, or the context's error.
func (w *Watcher) Next(ctx context.Context) (Message, error) {
	select { // what is there comes before the end
	case m := <-w.messages:
		return m, nil
	default:
	}
	select {
	case m := <-w.messages:
		return m, nil
	case <-w.over:
		return Message{}, w.err
	case <-ctx.Done():
		return Message{}, errors.Join(ctx.Err(), context.Cause(ctx))
	}
}

// Close ends the watcher. It may be called more than once.
func (w *Watcher) Close() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	w.hub.end(w, ErrClosed)
}
