package host

import (
	"context"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/moe"
)

// seated is a member that says what it computes and nothing else.
type seated struct{ member }

// named is one of that name.
type named struct {
	seated
	name string
}

func (n *named) numerics() string { return n.name }
func (n *named) program() string  { return n.name }

// rigged are two seats and their editions; draws decides who is in a trial.
func rigged(draw float64) (a, b *seat, e *editions, trial func(m member)) {
	a, b = newSeat(0, "a", &named{name: "a1"}), newSeat(1, "b", &named{name: "b1"})
	e = newEditions([]*seat{a, b}, nil, newPlaces(moe.Placement{}))
	return a, b, e, func(m member) { e.try(a, m, 0.5, func() float64 { return draw }) }
}

func drainsWithin(t *testing.T, e *editions, s *seat, old []uint64) error {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	return e.drained(ctx, s, old)
}

// TestTrialMeetsShift: while a group is tried another one is replaced. Whoever is in the trial from then on gets what is new in
// both seats under a text of its own, and who was replaced is free when those who were in it before have ended.
func TestTrialMeetsShift(t *testing.T) {
	a, b, e, try := rigged(0)
	candidate, fresh := &named{name: "a2"}, &named{name: "b2"}
	try(candidate)
	before, text := e.Enter()
	if a.of(before) != member(candidate) {
		t.Fatal("the trial's requests get another group than the candidate")
	}
	old := e.shift(one(b, fresh, false))
	if b.of(before).numerics() != "b1" || a.of(before) != member(candidate) {
		t.Error("a request that is under way has lost who computes it")
	}
	after, other := e.Enter()
	if a.of(after) != member(candidate) || b.of(after) != member(fresh) {
		t.Errorf("a new request in the trial gets %s and %s", a.of(after).numerics(), b.of(after).numerics())
	}
	if other == text || other == "" || other == e.now() {
		t.Errorf("texts: %q before, %q after, %q outside of the trial", text, other, e.now())
	}
	if err := drainsWithin(t, e, b, old); err == nil {
		t.Error("free while a request is under way")
	}
	e.Leave(before)
	if err := drainsWithin(t, e, b, old); err != nil {
		t.Errorf("new requests of the trial keep who was replaced: %v", err)
	}
	last := e.untry()
	if err := drainsWithin(t, e, a, last); err == nil {
		t.Error("the candidate is free while it computes")
	}
	e.Leave(after)
	if err := drainsWithin(t, e, a, last); err != nil {
		t.Error(err)
	}
	if n, _ := e.Enter(); a.of(n).numerics() != "a1" || b.of(n) != member(fresh) {
		t.Errorf("after the trial: %s and %s", a.of(n).numerics(), b.of(n).numerics())
	}
}

// TestTrialKeepsItsText: a replacement of the same bits leaves the trial's text, so that requests go on sharing what they have.
func TestTrialKeepsItsText(t *testing.T) {
	_, b, e, try := rigged(0)
	try(&named{name: "a2"})
	n, text := e.Enter()
	e.Leave(n)
	e.shift(one(b, &named{name: "b1 of another process"}, true))
	if n, same := e.Enter(); same != text || b.of(n).numerics() != "b1 of another process" {
		t.Errorf("text %q, want %q; the seat has %s", same, text, b.of(n).numerics())
	}
}

// TestEditionsForget: a host that changes its groups for years remembers of editions what somebody uses.
func TestEditionsForget(t *testing.T) {
	a, b, e, try := rigged(1)
	seen := map[uint64]bool{}
	for range 100 {
		e.shift(one(b, &named{name: "b"}, false))
		try(&named{name: "a2"})
		e.shift(one(b, &named{name: "b"}, false))
		if err := drainsWithin(t, e, a, e.untry()); err != nil {
			t.Fatal(err)
		}
		n, _ := e.Enter()
		e.Leave(n)
		if seen[n] {
			t.Fatalf("two states have the number %d", n)
		}
		seen[n] = true
	}
	if len(e.text) != 1 || len(e.users) != 0 || a.table.Load().others != nil {
		t.Errorf("%d texts, %d users, %d others are left", len(e.text), len(e.users), len(a.table.Load().others))
	}
}
