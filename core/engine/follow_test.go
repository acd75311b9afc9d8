package engine

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/spans"
)

// follower keeps the parts of one request. Steps end in the loop, as they begin.
type follower struct {
	refuse  bool
	parts   []spans.Part
	leaders []spans.Step
	errs    []error
}

type followedStep struct{ f *follower }

func (f *follower) Step(p spans.Part, leader spans.Step) spans.Step {
	f.parts, f.leaders = append(f.parts, p), append(f.leaders, leader)
	if f.refuse {
		return nil
	}
	return &followedStep{f}
}

func (s *followedStep) Layer(int, int) spans.Layer { return nil }
func (s *followedStep) End(err error)              { s.f.errs = append(s.f.errs, err) }

// Each step of a request that is followed is told of with its part, and ends once.
func TestFollow(t *testing.T) {
	e := start(testSetup(newFake(64, 16)))
	defer e.Close()
	f := &follower{}
	r := plain("a", prompt("a", 5), 4)
	r.Trace = f
	st, err := e.Submit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = st.Next(t.Context())
	}
	if err := e.Close(); err != nil { // the loop is gone: what it told can be read
		t.Fatal(err)
	}
	tokens := 0
	for i, p := range f.parts {
		if p.Position != tokens || p.Prompt != (tokens+p.Tokens <= 5) || p.Sequences != 1 || p.Rows != p.Tokens || f.leaders[i] != nil {
			t.Errorf("part %d: %+v", i, p)
		}
		tokens += p.Tokens
	}
	if tokens != 5+3 || len(f.errs) != len(f.parts) || slices.ContainsFunc(f.errs, func(err error) bool { return err != nil }) {
		t.Errorf("%d tokens in %d parts, ends %v", tokens, len(f.parts), f.errs)
	}
}

// Of several in a step the first that wants its layers has them, and the others are told so; an error reaches all of them.
func TestFollowShared(t *testing.T) {
	all := []*follower{{refuse: true}, {}, {}}
	f := flight{}
	for i, follow := range all {
		s := newSequence(plain("x", prompt("x", 3), 4), 4, time.Now())
		s.computed, s.request.Trace = 3+i, follow
		f.entries = append(f.entries, entry{s: s, n: 1, ready: true})
	}
	f.entries = append(f.entries, entry{s: newSequence(plain("y", prompt("y", 3), 4), 4, time.Now()), n: 1})
	ctx := f.follow(t.Context(), 4)
	if lead, ok := spans.StepOf(ctx).(*followedStep); !ok || lead.f != all[1] {
		t.Errorf("the layers go to %+v", lead)
	}
	if all[0].leaders[0] != nil || all[1].leaders[0] != nil || all[2].leaders[0] != spans.StepOf(ctx) {
		t.Error("the wrong ones are told of a leader")
	}
	why := errors.New("why")
	f.unfollow(why)
	if len(all[0].errs) != 0 || len(all[1].errs) != 1 || len(all[2].errs) != 1 || all[2].errs[0] != why || all[1].parts[0].Sequences != 4 || all[1].parts[0].Prompt {
		t.Errorf("%+v %+v %+v", all[0], all[1], all[2])
	}
	if n := testing.AllocsPerRun(100, func() {
		f := flight{entries: f.entries[3:]}
		if f.follow(t.Context(), 1) != t.Context() {
			t.Error("nobody follows, and the context is another one")
		}
		f.unfollow(nil)
	}); n != 0 {
		t.Errorf("%v allocations where nobody follows", n)
	}
}
