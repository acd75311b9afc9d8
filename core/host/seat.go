package host

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/resilience"
	"github.com/pimoe/pimoe/sdk/expert"
)

// seat is the place of an expert group: the group that computes its units now, and while it is being changed the other one
// that does so for requests of another edition.
type seat struct {
	name   string
	number int // of the seat
	table  atomic.Pointer[seating]
}

// seating says who computes for whom. It is never changed, only replaced.
type seating struct {
	current member
	others  map[uint64]member // by edition; nil while nothing is being changed
}

func newSeat(number int, name string, m member) *seat {
	s := &seat{name: name, number: number}
	s.table.Store(&seating{current: m})
	return s
}

// measure adds the gauges of as many replicas as a group may have. They tell of whoever has the seat when they are asked.
func (s *seat) measure(m *metrics.Registry, g *group) {
	for r := range g.replicas {
		m.Gauge("pimoe_expert_ready", func() float64 {
			if now := s.own(); now != nil && r < len(now.replicas) && now.state(r) == resilience.Ready {
				return 1
			}
			return 0
		}, "group", s.name, "replica", strconv.Itoa(r))
	}
}

// of is the group that computes for an edition.
func (s *seat) of(edition uint64) member {
	t := s.table.Load()
	if m, ok := t.others[edition]; ok {
		return m
	}
	return t.current
}

// Start implements moe.Group.
func (s *seat) Start(ctx context.Context, call *expert.Call) expert.Pending {
	return s.of(call.Edition).Start(ctx, call)
}

// Cores implements moe.Bound: a change of the group does not change where it runs.
func (s *seat) Cores() []int {
	if b, ok := s.table.Load().current.(moe.Bound); ok {
		return b.Cores()
	}
	return nil
}

// Here implements moe.Neighbour.
func (s *seat) Here() int {
	if n, ok := s.table.Load().current.(moe.Neighbour); ok {
		return n.Here()
	}
	return -1
}

// seatAside has m compute for one edition beside the current ones. The caller holds the editions' mu.
func (s *seat) seatAside(edition uint64, m member) {
	t := s.table.Load()
	others := map[uint64]member{edition: m}
	maps.Copy(others, t.others)
	s.table.Store(&seating{current: t.current, others: others})
}

func (s *seat) available() error { return s.table.Load().current.available() }

func (s *seat) numerics() string { return s.table.Load().current.numerics() }

func (s *seat) status() []Status {
	t := s.table.Load()
	out := t.current.status()
	seen := map[member]bool{t.current: true}
	for _, m := range t.others {
		if !seen[m] {
			seen[m] = true
			for _, st := range m.status() {
				st.Aside = true
				out = append(out, st)
			}
		}
	}
	return out
}

// editions counts the requests of each edition of the experts, so that what only an old edition needs can be ended when its
// last request has. Edition numbers ascend from 1.
type editions struct {
	seats   []*seat
	routers *routerSeat // nil in process
	places  *places
	mu      sync.Mutex // guards what follows, and who is seated
	current uint64
	last    uint64 // number that was given out
	users   map[uint64]int
	text    map[uint64]string // what the edition computes: of the current one, of the trial's, and of those in use
	trial   *trial            // nil = none
	changed *notifier
}

// trial is an edition that some of the new requests get: the current one, but for a candidate in one seat.
type trial struct {
	seat      *seat
	candidate member
	edition   uint64   // for new requests
	former    []uint64 // which it was before other seats were changed; requests may still be in them
	share     float64
	draw      func() float64
}

func newEditions(seats []*seat, routers *routerSeat, p *places) *editions {
	e := &editions{seats: seats, routers: routers, places: p, current: 1, last: 1, users: map[uint64]int{}, text: map[uint64]string{}, changed: newNotifier()}
	e.text[1] = e.describe(shift{})
	return e
}

// shift is who takes the place of whom, in one step.
type shift struct {
	groups map[*seat]member
	router *supervisedRouter // nil = stays
	place  moe.Placement     // nil = stays
	// text is what the new edition computes: empty = what its members say, sameText = what the one before did.
	text string
}

const sameText = "="

// one is the shift of one group. same says that m gives the same bits as who sat there.
func one(s *seat, m member, same bool) shift {
	sh := shift{groups: map[*seat]member{s: m}}
	if same {
		sh.text = sameText
	}
	return sh
}

// describe digests what all compute, after a shift.
func (e *editions) describe(sh shift) string {
	h := sha256.New()
	for _, s := range e.seats {
		who := s.numerics()
		if m := sh.groups[s]; m != nil {
			who = m.numerics()
		}
		fmt.Fprintf(h, "%d=%q;", s.number, who)
	}
	if r := cmp.Or(sh.router, e.routers.of(0)); r != nil {
		fmt.Fprintf(h, "router=%q %q;", r.spec.Path, r.spec.Spec.Params)
	}
	place := e.places.of(0)
	if sh.place != nil {
		place = placedAs(sh.place)
	}
	fmt.Fprintf(h, "place=%s;", place.digest)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Enter implements moe.Editions.
func (e *editions) Enter() (uint64, string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.current
	if e.trial != nil && e.trial.draw() < e.trial.share {
		n = e.trial.edition
	}
	e.users[n]++
	return n, e.text[n]
}

// Leave implements moe.Editions.
func (e *editions) Leave(n uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.users[n]--; e.users[n] <= 0 {
		delete(e.users, n)
		e.changed.broadcast()
	}
}

// shift seats others for all new requests. Those under way keep who sat there; the result is their editions.
func (e *editions) shift(sh shift) (old []uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old = slices.Collect(maps.Keys(e.users))
	before := e.current
	e.current = e.next()
	switch sh.text {
	case "":
		e.text[e.current] = e.describe(sh)
	case sameText:
		e.text[e.current] = e.text[before]
	default:
		e.text[e.current] = sh.text
	}
	e.unused(before)
	for s, m := range sh.groups {
		others := map[uint64]member{}
		for _, n := range old {
			others[n] = s.of(n)
		}
		s.table.Store(&seating{current: m, others: others})
	}
	if sh.router != nil {
		e.routers.shift(sh.router, old)
	}
	if sh.place != nil {
		e.places.shift(sh.place, old)
	}
	if e.trial != nil {
		e.moveTrial(sh.text == sameText)
	}
	return old
}

// moveTrial gives the trial a new edition once other seats have changed: what its requests get now is not what the text of the one
// before says, and who was replaced would never be free of them. same says that all give the bits that they gave. The caller
// holds mu.
func (e *editions) moveTrial(same bool) {
	t := e.trial
	before := t.edition
	t.edition, t.former = e.next(), append(t.former, before)
	t.seat.seatAside(t.edition, t.candidate)
	if e.text[t.edition] = e.text[before]; !same {
		e.text[t.edition] = e.describe(one(t.seat, t.candidate, false))
	}
	e.unused(before)
}

// unused forgets the text of an edition that no new request gets, if none has it. The caller holds mu.
func (e *editions) unused(n uint64) {
	if e.users[n] == 0 {
		delete(e.text, n)
	}
}

// now is what new requests get: their edition's text.
func (e *editions) now() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.text[e.current]
}

// Programs implements moe.Attributed.
func (e *editions) Programs(edition uint64) string {
	digests := map[string]bool{}
	for _, s := range e.seats {
		if d := s.of(edition).program(); d != "" {
			digests[brief(d)] = true
		}
	}
	text := "experts=" + strings.Join(slices.Sorted(maps.Keys(digests)), ",")
	if r := e.routers.of(edition); r != nil && r.digest() != "" {
		text += "; router=" + brief(r.digest())
	}
	if len(digests) == 0 {
		return ""
	}
	return text
}

// brief is enough of a digest to tell programs apart.
func brief(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	return digest[:min(len(digest), 12)]
}

// next is a number that no edition has had. The caller holds mu.
func (e *editions) next() uint64 {
	e.last++
	return e.last
}

// try seats m for a share of the new requests.
func (e *editions) try(s *seat, m member, share float64, draw func() float64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.next()
	e.text[n] = e.describe(one(s, m, false))
	s.seatAside(n, m)
	e.trial = &trial{seat: s, candidate: m, edition: n, share: share, draw: draw}
}

// untry ends a trial, if there is one: no new request gets its edition. The result is all editions that it has been.
func (e *editions) untry() []uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.trial
	if t == nil {
		return nil
	}
	e.trial = nil
	return append(t.former, t.edition)
}

// place is where members of editions sit: a group's or the router's.
type place interface {
	title() string
	forget(editions []uint64)
}

// drained waits until no request of the editions is under way, and forgets them.
func (e *editions) drained(ctx context.Context, s place, old []uint64) error {
	for {
		changed := e.changed.wait()
		e.mu.Lock()
		busy := 0
		for _, n := range old {
			busy += e.users[n]
		}
		if busy == 0 {
			e.forget(s, old)
		}
		e.mu.Unlock()
		if busy == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: %d requests still use what was replaced: %w", s.title(), busy, ctx.Err())
		}
	}
}

// forget takes editions out of a place's table. The caller holds mu.
func (e *editions) forget(s place, old []uint64) {
	for _, n := range old {
		if n != e.current {
			delete(e.text, n)
		}
	}
	s.forget(old)
}

func (s *seat) title() string { return "expert group " + s.name }

// forget implements place.
func (s *seat) forget(old []uint64) {
	t := s.table.Load()
	s.table.Store(&seating{current: t.current, others: without(t.others, old)})
}

// without is a copy of a table that lacks some editions; nil if nothing is left.
func without[M any](others map[uint64]M, old []uint64) map[uint64]M {
	left := maps.Clone(others)
	for _, n := range old {
		delete(left, n)
	}
	if len(left) == 0 {
		return nil
	}
	return left
}

var (
	_ moe.Editions   = (*editions)(nil)
	_ moe.Attributed = (*editions)(nil)
	_ moe.Bound      = (*seat)(nil)
	_ moe.Neighbour  = (*seat)(nil)
)
