package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/discovery"
	"github.com/pimoe/pimoe/core/resilience"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
)

// A group has its replicas from the beginning; what load may call for is parked, and what stands by is not.
func TestGroupsReplicas(t *testing.T) {
	spec := pair(2)
	spec.MaxReplicas, spec.Standby = 4, 1
	staged(t, spec, func(s *stage) {
		g := s.g
		if len(g.replicas) != 5 || len(g.serving()) != 3 || g.size() != 2 {
			t.Fatalf("%d replicas, %d serve, size %d; want 5, 3, 2", len(g.replicas), len(g.serving()), g.size())
		}
		for r, parked := range []bool{false, false, true, true, false} {
			if g.replicas[r].parked.Load() != parked {
				t.Errorf("replica %d parked: %v", r, !parked)
			}
		}
		for range 3 { // the one that stands by gets a call only when no other is there
			if err := s.ask(context.Background(), rows(1)); err != nil {
				t.Error(err)
			}
		}
		s.leave(0, sdk.ErrUnavailable, false)
		s.leave(1, sdk.ErrUnavailable, false)
		if err := s.ask(context.Background(), rows(1)); err != nil || s.actors[4].calls() != 1 {
			t.Errorf("%v; the one that stands by has had %d calls", err, s.actors[4].calls())
		}
		s.enter(0)
		s.enter(1)
	})
	one := pair(0)
	staged(t, one, func(s *stage) {
		if _, err := newGroup(0, GroupSpec{Name: "e9", Packed: one.Packed}, s.l); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("a group without units: %v", err)
		}
		other, err := newGroup(0, GroupSpec{Name: "e9", Units: one.Units, Packed: one.Packed}, s.l)
		if err != nil {
			t.Fatal(err)
		}
		other.set.Violated("a rule")
		var stats strings.Builder
		s.l.options.Metrics.Write(&stats)
		if !strings.Contains(stats.String(), `pimoe_invariant_violations_total{group="e9"} 1`) {
			t.Error("a broken invariant is not counted")
		}
		if len(s.g.replicas) != 1 || s.g.replicas[0].lenient {
			t.Errorf("%d replicas, lenient %v", len(s.g.replicas), s.g.replicas[0].lenient)
		}
	})
	one.Guest = &visit{}
	staged(t, one, func(s *stage) {
		if !s.g.replicas[0].lenient {
			t.Error("a guest is held to its time")
		}
	})
}

// A replica has its group's cores; one that load has called for has the next ones.
func TestCoresOfReplicas(t *testing.T) {
	l := lanes{cores: []int{4, 5, 6, 7, 8}, most: 2}
	spec := GroupSpec{Replicas: 2, MaxReplicas: 4, Standby: 1}
	for r, want := range [][]int{{2, 3}, {2, 3}, {1, 2}, {3, 4}, {2, 3}} {
		if got := l.replica(1, r, spec); !slices.Equal(got, want) {
			t.Errorf("replica %d: cores %v, want %v", r, got, want)
		}
	}
}

// A group on other machines has a replica for each endpoint that may be found; those of another zone stand by.
func TestGroupElsewhere(t *testing.T) {
	spec := pair(3)
	spec.Standby, spec.Remote = 2, &Remote{Source: discovery.Source{List: []string{"a:1", "b:1", "c:1"}}, Zone: "north"}
	staged(t, spec, func(s *stage) {
		g := s.g
		if len(g.replicas) != 3 || len(g.serving()) != 0 {
			t.Fatalf("%d replicas, %d of them serve before they have an endpoint", len(g.replicas), len(g.serving()))
		}
		if _, err := g.replicas[0].launch(context.Background()); !errors.Is(err, errNoEndpoint) {
			t.Errorf("a replica without an endpoint is started: %v", err)
		}
		for r, zone := range []string{"south", "north", "north"} {
			g.replicas[r].parked.Store(false)
			a := newActor(r + 1)
			a.inc.zone = zone
			s.actors[r] = a
			g.now(r, a.inc)
		}
		for range 4 {
			if r, inc := g.begin(0); r != 1 && r != 2 {
				t.Errorf("a call goes to replica %d", r)
			} else {
				defer g.end(r, inc, resilience.Answered, time.Millisecond, 1)
			}
		}
		if r, inc := g.begin(0b110); r != 0 {
			t.Errorf("where no other is there, a call goes to replica %d", r)
		} else {
			g.end(r, inc, resilience.Answered, time.Millisecond, 1)
		}
	})
}

// What comes up is used, unless its replica is not wanted any more or has come into quarantine meanwhile.
func TestNewProcesses(t *testing.T) {
	staged(t, pair(2), func(s *stage) {
		g := s.g
		if g.program() != "sha256:2" {
			t.Errorf("program %q", g.program())
		}
		s.leave(0, sdk.ErrUnavailable, false)
		if g.program() != "sha256:2" || g.state(0) != resilience.Down {
			t.Errorf("program %q, state %s", g.program(), g.state(0))
		}
		g.replicas[0].parked.Store(true)
		s.enter(0)
		if g.state(0) != resilience.Down {
			t.Errorf("a process that nobody wants is %s", g.state(0))
		}
		g.replicas[0].parked.Store(false)
		s.enter(0)
		if g.state(0) != resilience.Ready || g.program() != "sha256:4" {
			t.Errorf("%s, program %q", g.state(0), g.program())
		}
		g.quarantine(0, "lied")
		s.enter(0) // the invariant would be violated
		if g.state(0) != resilience.Quarantined {
			t.Errorf("%s", g.state(0))
		}
	})
}

// A test's outcome counts for the process that was asked, and three wrong ones bar the replica.
func TestProbesOutcome(t *testing.T) {
	staged(t, pair(2), func(s *stage) {
		g := s.g
		old := s.actors[0].inc
		wrong := fmt.Errorf("other bits: %w", sdk.ErrInvalidOutput)
		s.enter(0)
		for range 5 {
			g.replicas[0].news.probed(old, wrong)
			g.replicas[0].news.probed(s.actors[0].inc, sdk.ErrUnavailable)
			g.replicas[0].news.probed(s.actors[0].inc, nil)
		}
		if g.state(0) != resilience.Ready || g.replicas[0].barred.Load() != nil {
			t.Error("blamed for its predecessor, or for an answer that did not come")
		}
		for n := range 3 {
			if g.replicas[0].barred.Load() != nil {
				t.Errorf("barred after %d", n)
			}
			g.replicas[0].news.probed(s.actors[0].inc, wrong)
		}
		if why := g.replicas[0].barred.Load(); why == nil || *why != "failed its known-answer test again and again" || g.state(0) != resilience.Quarantined {
			t.Errorf("barred %v, %s", why, g.state(0))
		}
	})
}

// What a call's end says of a replica is acted upon: doubts are looked into soon, invalid answers replace and at last bar it.
func TestVerdicts(t *testing.T) {
	staged(t, pair(2), func(s *stage) {
		g := s.g
		_, inc := g.begin(0)
		g.end(0, inc, resilience.Answered, time.Millisecond, 1)
		if len(g.replicas[0].doubted) != 0 {
			t.Error("a good answer raises doubts")
		}
		g.begin(0)
		g.end(0, inc, resilience.Overtaken, time.Millisecond, 1)
		if g.state(0) != resilience.Suspect || len(g.replicas[0].doubted) != 1 || !g.replicas[0].news.hurry() || g.replicas[1].news.hurry() {
			t.Errorf("%s, %d doubts", g.state(0), len(g.replicas[0].doubted))
		}
		for n, err := range []error{nil, nil, sdk.ErrUnavailable, nil, nil, nil} { // three good tests in a row clear it
			if g.state(0) != resilience.Suspect {
				t.Errorf("%s after %d tests", g.state(0), n)
			}
			g.probed(0, inc, err)
		}
		if g.state(0) != resilience.Ready {
			t.Errorf("%s after three good tests in a row", g.state(0))
		}
		for n := range 3 {
			a := s.enter(0)
			if r, _ := g.begin(0b10); r != 0 {
				t.Fatalf("replica %d", r)
			}
			g.end(0, a.inc, resilience.Invalid, time.Millisecond, 1)
			if want := []string{"gave an invalid answer", "gave an invalid answer", "gave invalid answers"}[n]; a.condemnedFor() != want {
				t.Errorf("after %d: %q, want %q", n+1, a.condemnedFor(), want)
			}
		}
		if g.replicas[0].barred.Load() == nil {
			t.Error("not barred after three invalid answers")
		}
	})
}

// Calls beyond what the processes of the moment can compute at once are a queue.
func TestQueueOfAGroup(t *testing.T) {
	staged(t, pair(2), func(s *stage) {
		g := s.g
		queued := func() bool { _, queue := g.asked(time.Now()); return queue > 0 }
		for n, want := range []bool{false, false, true} { // each process has one lane
			r, inc := g.begin(0)
			defer g.end(r, inc, resilience.Answered, time.Millisecond, 1)
			if time.Sleep(time.Millisecond); queued() != want {
				t.Errorf("%d calls on two processes are a queue: %v", n+1, !want)
			}
		}
		s.enter(0) // another one in the place of the first
		time.Sleep(time.Millisecond)
		if !queued() {
			t.Error("three calls on two processes are no queue")
		}
		s.actors[0].inc.inflight.Store(0)
	})
}

// Whoever is condemned gets no calls, and where all are, the group can't be used.
func TestCondemnedGetNoCalls(t *testing.T) {
	staged(t, pair(3), func(s *stage) {
		g := s.g
		s.actors[0].inc.condemned("once")
		s.actors[0].inc.condemned("twice")
		if s.actors[0].condemnedFor() != "once" {
			t.Error("the first cause does not stay")
		}
		for _, want := range []int{1, 2, 1} {
			r, inc := g.begin(0)
			if r != want {
				t.Errorf("a call goes to %d, want %d", r, want)
			}
			defer g.end(r, inc, resilience.Answered, time.Millisecond, 1)
		}
		s.actors[1].inc.condemned("too")
		if !g.usable() || g.available() != nil {
			t.Error("one is left, and the group can't be used")
		}
		s.actors[2].inc.condemned("too")
		if r, inc := g.begin(0); r != -1 || inc != nil {
			t.Errorf("a call goes to %d", r)
		}
		if g.usable() || g.available() == nil {
			t.Error("all are condemned, and the group can be used")
		}
	})
}

// Whoever is being taken down gets no calls, and a call that meets the beginning of the end is another one's at once.
func TestTheEndingGetNoCalls(t *testing.T) {
	staged(t, pair(2), func(s *stage) {
		before := s.tally()
		early := fmt.Errorf("on its way: %w", &client.DeadError{Early: true})
		first := s.actors[0]
		first.plays(line{err: early})
		time.AfterFunc(500*time.Microsecond, first.fades)
		began := time.Now()
		for range 3 {
			if err := s.ask(context.Background(), rows(1)); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 4*time.Millisecond {
			t.Errorf("took %v, want the failed try and three answers of a millisecond", took)
		}
		s.counted("one that ends", before, tally{calls: 3, rows: 3, errors: 1, retries: 1})
		if first.calls() != 1 || first.condemnedFor() != "" {
			t.Errorf("the first one got %d calls, condemned %q", first.calls(), first.condemnedFor())
		}
		if !s.g.usable() {
			t.Error("one is left, and the group can't be used")
		}
		s.actors[1].fades()
		if s.g.usable() {
			t.Error("both end, and the group can be used")
		}
	})
}

// A replica's place in a mask is its process's, as long as that is there.
func TestMask(t *testing.T) {
	staged(t, pair(3), func(s *stage) {
		old := s.actors[2].inc
		if got := s.g.mask(old); got != 0b100 {
			t.Errorf("mask %b", got)
		}
		s.leave(1, sdk.ErrUnavailable, false)
		s.enter(2)
		if a, b := s.g.mask(old), s.g.mask(nil); a != 0 || b != 0 {
			t.Errorf("masks of a process that has gone and of none: %b, %b", a, b)
		}
		s.enter(1)
	})
}

// Only what was held is set free.
func TestRelease(t *testing.T) {
	staged(t, pair(2), func(s *stage) {
		g := s.g
		if g.release(0) {
			t.Error("nothing was held")
		}
		g.replicas[0].bar("lied") // as its supervisor does for another group's sake
		if !g.release(0) || g.replicas[0].barred.Load() != nil {
			t.Error("barred, and not set free")
		}
		g.quarantine(1, "lied")
		g.replicas[1].barred.Store(nil)
		if !g.release(1) || g.state(1) != resilience.Down {
			t.Errorf("in quarantine, and not set free: %s", g.state(1))
		}
	})
}
