package scaling_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/scaling"
	"github.com/pimoe/pimoe/sdk"
)

var rules = scaling.Rules{Busy: 0.75, Window: 10 * time.Second, CoolDown: 30 * time.Second}

var plenty = scaling.Room{Processes: 1000, Memory: math.MaxInt64}

// site is a Scaler with groups whose changes take effect at once, and a clock.
type site struct {
	*scaling.Scaler
	now     time.Time
	bounds  []scaling.Bounds
	changes []string
}

func newSite(r scaling.Rules, bounds ...scaling.Bounds) *site {
	var replicas []int
	for _, b := range bounds {
		replicas = append(replicas, b.Min)
	}
	return &site{Scaler: scaling.New(r, bounds, replicas), now: time.Unix(1_700_000_000, 0), bounds: bounds}
}

// run gives the groups so many calls at once, for so long, in samples of a second.
func (s *site) run(long time.Duration, room scaling.Room, calls ...float64) {
	for until := s.now.Add(long); s.now.Before(until); {
		s.now = s.now.Add(time.Second)
		var samples []scaling.Sample
		for i, c := range calls {
			samples = append(samples, scaling.Sample{Load: min(c, float64(s.Wanted(i))), Ready: s.Wanted(i), Need: 10 << 20})
		}
		if g, d, ok := s.Decide(s.now, samples, room); ok {
			s.changes = append(s.changes, s.bounds[g].Group+" "+string(rune('0'+d.From))+string(rune('0'+d.To)))
			s.Done(s.now)
		}
	}
}

func (s *site) took() string {
	out := strings.Join(s.changes, ", ")
	s.changes = nil
	return out
}

func TestScaler(t *testing.T) {
	e0 := scaling.Bounds{Group: "e0", Min: 1, Max: 3}
	for _, c := range []struct {
		name string
		run  func(s *site)
		want string
	}{
		{"idle", func(s *site) { s.run(time.Hour, plenty, 0) }, ""},
		{"busy, but not for a window", func(s *site) { s.run(7*time.Second, plenty, 1); s.run(time.Hour, plenty, 0.2) }, ""},
		{"busy for a window", func(s *site) { s.run(12*time.Second, plenty, 0.8) }, "e0 12"},
		{"not above the greatest number", func(s *site) { s.run(time.Hour, plenty, 9) }, "e0 12, e0 23"},
		{"a cool-down between two changes", func(s *site) { s.run(40*time.Second, plenty, 9) }, "e0 12"},
		{"back when load ends, one by one, not below the least number", func(s *site) { s.run(2*time.Minute, plenty, 9); s.run(time.Hour, plenty, 0) }, "e0 12, e0 23, e0 32, e0 21"},
		{"as many as the load needs", func(s *site) { s.run(time.Hour, plenty, 1.2) }, "e0 12"},
		{"no process is left", func(s *site) { s.run(time.Hour, scaling.Room{Memory: math.MaxInt64}, 9) }, ""},
		{"no memory is left", func(s *site) { s.run(time.Hour, scaling.Room{Processes: 9, Memory: 10<<20 - 1}, 9) }, ""},
		{"room for just one more", func(s *site) { s.run(12*time.Second, scaling.Room{Processes: 1, Memory: 10 << 20}, 0.8) }, "e0 12"},
		{"a budget that shrinks", func(s *site) {
			s.run(2*time.Minute, plenty, 9)
			s.run(time.Minute, scaling.Room{Processes: -1, Memory: 1}, 9)
		}, "e0 12, e0 23, e0 32, e0 21"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(rules, e0)
			c.run(s)
			if got := s.took(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// One group at a time grows, the neediest first, while the cores have something left to give.
func TestScalerManyGroups(t *testing.T) {
	r := rules
	r.Cores = 6
	s := newSite(r, scaling.Bounds{Group: "a", Min: 1, Max: 4}, scaling.Bounds{Group: "b", Min: 1, Max: 4}, scaling.Bounds{Group: "c", Min: 1, Max: 4})
	s.run(13*time.Second, plenty, 0.8, 0.9, 0.1)
	if got := s.took(); got != "b 12, a 12" {
		t.Errorf("%s", got)
	}
	s.run(time.Hour, plenty, 4, 4, 0.1)
	if got := s.took(); got != "b 23, a 23" { // 6 calls at once are computed after that
		t.Errorf("%s", got)
	}
	if st := s.State(s.now, 0); !strings.Contains(st.Held+s.State(s.now, 1).Held, "6 cores busy") || st.Last == nil || st.Last.Why == "" {
		t.Errorf("%+v", st)
	}
}

// A queue that never empties is load, whatever the busy share says.
func TestScalerQueue(t *testing.T) {
	s := newSite(rules, scaling.Bounds{Group: "e0", Min: 1, Max: 3})
	for n := range 60 {
		s.now = s.now.Add(time.Second)
		queue := time.Duration(n) * time.Second
		if _, d, ok := s.Decide(s.now, []scaling.Sample{{Load: 0.1, Queue: queue, Ready: s.Wanted(0)}}, plenty); ok {
			if queue != rules.Window || !strings.Contains(d.Why, "waiting") {
				t.Errorf("after %v: %+v", queue, d)
			}
			return
		}
	}
	t.Error("nothing was done about a queue")
}

// What can't be started is given up, and tried again later each time; a replica that is missing is waited for.
func TestScalerFailure(t *testing.T) {
	s := newSite(rules, scaling.Bounds{Group: "e0", Min: 1, Max: 3})
	busy := []scaling.Sample{{Load: 1, Ready: 1}}
	var tries []time.Time
	for range 3600 {
		s.now = s.now.Add(time.Second)
		if _, d, ok := s.Decide(s.now, busy, plenty); ok {
			if _, _, again := s.Decide(s.now, busy, plenty); again {
				t.Fatal("a second change while one is under way")
			}
			if _, _, err := s.Set(s.now, 0, 2, 0, plenty); !errors.Is(err, sdk.ErrUnavailable) {
				t.Fatalf("an operator's change while one is under way: %v", err)
			}
			tries = append(tries, d.At)
			s.Failed(s.now, "no such file")
		}
	}
	if len(tries) != 8 {
		t.Errorf("%d tries in an hour, want 8", len(tries))
	}
	for i := 1; i < len(tries); i++ {
		if got, want := tries[i].Sub(tries[i-1]), min(rules.CoolDown<<(i-1), rules.CoolDown<<5); got != want {
			t.Errorf("try %d is %v after the one before, want %v", i, got, want)
		}
	}
	if st := s.State(s.now, 0); st.Wanted != 1 || st.Last.Failed != "no such file" {
		t.Errorf("%+v", st)
	}
	s = newSite(rules, scaling.Bounds{Group: "e0", Min: 2, Max: 3})
	for range 3600 {
		s.now = s.now.Add(time.Second)
		if _, d, ok := s.Decide(s.now, []scaling.Sample{{Load: 1, Ready: 1}}, plenty); ok {
			t.Fatalf("%+v while a replica restarts", d)
		}
	}
	for range 3600 { // one in quarantine is nobody's to wait for
		s.now = s.now.Add(time.Second)
		if _, d, ok := s.Decide(s.now, []scaling.Sample{{Load: 1, Ready: 1, Out: 1}}, plenty); ok {
			if d.To != 3 {
				t.Errorf("%+v", d)
			}
			return
		}
	}
	t.Error("a group of one working replica does not grow")
}

func TestScalerSet(t *testing.T) {
	s := newSite(rules, scaling.Bounds{Group: "e0", Min: 2, Max: 4})
	for _, c := range []struct {
		replicas int
		room     scaling.Room
		want     string
	}{
		{5, plenty, "want 1 to 4"}, {0, plenty, "want 1 to 4"},
		{4, scaling.Room{Processes: 1, Memory: 1 << 40}, "1 more processes may run"},
		{4, scaling.Room{Processes: 9, Memory: 3 << 20}, "take 4 MiB more, and 3 MiB"},
		{4, scaling.Room{Processes: -1, Memory: 1 << 40}, "0 more processes may run"},
		{4, scaling.Room{Processes: 9, Memory: -5 << 20}, "take 4 MiB more, and 0 MiB"},
	} {
		if _, ok, err := s.Set(s.now, 0, c.replicas, 2<<20, c.room); ok || !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d replicas: %v, %v", c.replicas, ok, err)
		}
	}
	d, ok, err := s.Set(s.now, 0, 1, 0, plenty) // below the least number: an operator may
	if err != nil || !ok || d.From != 2 || d.To != 1 {
		t.Fatalf("%+v, %v, %v", d, ok, err)
	}
	s.Done(s.now)
	s.run(time.Hour, plenty, 9)
	if got := s.took(); got != "" || !s.State(s.now, 0).Pinned {
		t.Errorf("load has changed what an operator has set: %s", got)
	}
	for _, room := range []scaling.Room{plenty, {Processes: -1, Memory: 1}, {Processes: 1, Memory: -1}} {
		if _, ok, err := s.Set(s.now, 0, 1, 1, room); ok || err != nil {
			t.Errorf("the same number again, %+v: %v, %v", room, ok, err)
		}
	}
	s.Unpin(0)
	s.run(time.Hour, plenty, 0)
	if got := s.took(); got != "e0 12" {
		t.Errorf("%q: want the least number again", got)
	}
}

// One change at a time, whoever else needs one meanwhile: another group, or the budgets.
func TestScalerOneAtATime(t *testing.T) {
	s := newSite(rules, scaling.Bounds{Group: "a", Min: 1, Max: 3}, scaling.Bounds{Group: "b", Min: 1, Max: 3})
	busy := []scaling.Sample{{Load: 1, Ready: 1}, {Load: 1, Ready: 1}}
	decide := func(room scaling.Room) (int, scaling.Decision, bool) {
		s.now = s.now.Add(time.Second)
		return s.Decide(s.now, busy, room)
	}
	for range 10 {
		decide(plenty)
	}
	if g, d, ok := decide(plenty); !ok || g != 0 || d.To != 2 {
		t.Fatalf("two groups are equally busy: group %d, %+v, %v, want the first one", g, d, ok)
	}
	for _, room := range []scaling.Room{plenty, {Processes: -1}} {
		if g, d, ok := decide(room); ok || g != 0 || d != (scaling.Decision{}) {
			t.Errorf("%+v, while a change is under way: group %d, %+v, %v", room, g, d, ok)
		}
	}
	s.Failed(s.now, "no")
	if g, d, ok := decide(plenty); !ok || g != 1 || d.To != 2 {
		t.Errorf("after the change: group %d, %+v, %v, want the second one", g, d, ok)
	}
}

// No budget takes a group's least number from it.
func TestScalerKeepsTheLeast(t *testing.T) {
	s := newSite(rules, scaling.Bounds{Group: "a", Min: 1, Max: 3}, scaling.Bounds{Group: "b", Min: 2, Max: 3})
	samples := []scaling.Sample{{Ready: 1}, {Ready: 2}}
	if g, d, ok := s.Decide(s.now, samples, scaling.Room{Processes: -1}); ok || g != 0 || d != (scaling.Decision{}) {
		t.Errorf("group %d, %+v, %v, want nothing", g, d, ok)
	}
}

// A group shrinks when its load has been low for three windows, to the second.
func TestScalerShrinks(t *testing.T) {
	r := rules
	r.CoolDown = 0
	e0 := scaling.Bounds{Group: "e0", Min: 1, Max: 3}
	s := &site{Scaler: scaling.New(r, []scaling.Bounds{e0}, []int{3}), now: time.Unix(1_700_000_000, 0), bounds: []scaling.Bounds{e0}}
	s.run(3*r.Window, plenty, 0.7)
	if got := s.took(); got != "" {
		t.Errorf("%q before the load is known for three windows", got)
	}
	s.run(time.Second, plenty, 0.7)
	if got, why := s.took(), s.State(s.now, 0).Last.Why; got != "e0 32" || why != "the others would be busy for 35 % of the time" {
		t.Errorf("%q, %s", got, why)
	}
}

// What is said of a group is of its own replicas, and of the time that it is asked in.
func TestScalerSays(t *testing.T) {
	s := newSite(rules, scaling.Bounds{Group: "e0", Min: 1, Max: 3})
	s.run(2*time.Minute, plenty, 1.8)
	if got, why := s.took(), s.State(s.now, 0).Last.Why; got != "e0 12, e0 23" || why != "its replicas are busy for 90 % of the time" {
		t.Errorf("%q, %s", got, why)
	}
	if got := s.State(s.now, 0).Busy; math.Abs(got-0.6) > 1e-9 {
		t.Errorf("three replicas with 1.8 calls at once are busy for %g of the time", got)
	}
	for room, want := range map[scaling.Room]string{
		{Memory: 10 << 20}:                 "as many processes run as may",
		{Processes: 1, Memory: 10<<20 - 1}: "one more takes 10 MiB, and 9 MiB of the memory budget are left",
	} {
		s = newSite(rules, scaling.Bounds{Group: "e0", Min: 1, Max: 3})
		s.run(time.Minute, room, 1)
		if got := s.State(s.now, 0).Held; got != want {
			t.Errorf("held: %q, want %q", got, want)
		}
		s.run(rules.Window, room, 0.1)
		if got := s.State(s.now, 0).Held; got != "" {
			t.Errorf("held although nothing is wanted: %q", got)
		}
	}
}

// The first of two groups grows if it is the busier one, and a group that nothing is known of keeps no core busy.
func TestScalerNeediest(t *testing.T) {
	r := rules
	r.Cores = 2
	bounds := []scaling.Bounds{{Group: "a", Min: 1, Max: 3}, {Group: "b", Min: 1, Max: 3}}
	s := newSite(r, bounds...)
	s.run(11*time.Second, plenty, 0.95, 0.8)
	if got := s.took(); got != "a 12" {
		t.Errorf("%q, want the busier one", got)
	}
	s = newSite(r, bounds...)
	s.run(10*time.Second, plenty, 1, 1)
	if _, ok, err := s.Set(s.now, 1, 2, 0, plenty); !ok || err != nil {
		t.Fatal(ok, err)
	}
	s.Done(s.now)
	s.run(time.Second, plenty, 1, 0)
	if got := s.took(); got != "a 12" {
		t.Errorf("%q, want one more for the group that is known to be busy: %s", got, s.State(s.now, 0).Held)
	}
}

// TestScalerKeepsItsPromises: whatever is measured, numbers stay within bounds and budgets, a change at a time and a cool-down
// apart; and load that stays what it is ends all changes.
func TestScalerKeepsItsPromises(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := scaling.Rules{Busy: 0.2 + 0.7*rng.Float64(), Window: time.Duration(1+rng.IntN(20)) * time.Second, CoolDown: time.Duration(rng.IntN(60)) * time.Second}
		var bounds []scaling.Bounds
		least := 0
		for range 1 + rng.IntN(5) {
			b := scaling.Bounds{Group: "g", Min: 1 + rng.IntN(3)}
			b.Max = b.Min + rng.IntN(4)
			least += b.Min
			bounds = append(bounds, b)
		}
		budget := least + rng.IntN(6)
		s := newSite(r, bounds...)
		last := make([]time.Time, len(bounds))
		load := make([]float64, len(bounds))
		steady := 0
		for step := range 6000 {
			s.now = s.now.Add(time.Second)
			if step < 3000 && rng.IntN(40) == 0 { // then it stays as it is
				load[rng.IntN(len(load))] = 6 * rng.Float64()
			}
			var samples []scaling.Sample
			total := 0
			for i := range bounds {
				n := s.Wanted(i)
				total += n
				samples = append(samples, scaling.Sample{Load: min(load[i], float64(n)), Ready: n})
			}
			g, d, ok := s.Decide(s.now, samples, scaling.Room{Processes: budget - total, Memory: math.MaxInt64})
			if !ok {
				if g != 0 || d != (scaling.Decision{}) {
					t.Errorf("seed %d: nothing is decided, and it says group %d, %+v", seed, g, d)
				}
				continue
			}
			if step > 3000+10*int(r.Window/time.Second+r.CoolDown/time.Second)*budget {
				steady++
			}
			b := bounds[g]
			switch {
			case d.To < b.Min || d.To > b.Max:
				t.Errorf("seed %d: %d replicas of %d to %d", seed, d.To, b.Min, b.Max)
			case d.To-d.From != 1 && d.From-d.To != 1:
				t.Errorf("seed %d: from %d to %d", seed, d.From, d.To)
			case total+d.To-d.From > budget:
				t.Errorf("seed %d: %d processes of %d", seed, total+d.To-d.From, budget)
			case s.now.Sub(last[g]) < r.CoolDown:
				t.Errorf("seed %d: changes %v apart", seed, s.now.Sub(last[g]))
			}
			last[g] = s.now
			s.Done(s.now)
		}
		if steady > 0 {
			t.Errorf("seed %d: %d changes under a load that stays the same", seed, steady)
		}
	}
}

// TestScalerEdges: what is exactly at a threshold, and what the reasons say.
func TestScalerEdges(t *testing.T) {
	group := func(most int) scaling.Bounds { return scaling.Bounds{Group: "e0", Min: 1, Max: most} }
	why := func(s *site) string { return s.State(s.now, 0).Last.Why }
	s := newSite(rules, group(3))
	s.run(12*time.Second, plenty, 0.75)
	if got := s.took(); got != "e0 12" || why(s) != "its replicas are busy for 75 % of the time" {
		t.Errorf("%q, %s", got, why(s))
	}
	s.run(time.Minute, plenty, 0.375)
	if got := s.took(); got != "e0 21" || why(s) != "the others would be busy for 38 % of the time" {
		t.Errorf("%q, %s", got, why(s))
	}
	s.run(time.Minute, plenty, 0.5) // short bursts are no load
	for range 10 {
		s.run(5*time.Second, plenty, 0.95)
		s.run(10*time.Second, plenty, 0.5)
	}
	if got := s.took(); got != "" {
		t.Errorf("bursts: %q", got)
	}

	for cores, want := range map[int]string{1: "", 2: "e0 12", 3: "e0 12, e0 23"} {
		r := rules
		r.Cores = cores
		s := newSite(r, group(4))
		s.run(time.Hour, plenty, 9)
		if got := s.took(); got != want {
			t.Errorf("%d cores: %q", cores, got)
		}
	}

	s = newSite(rules, group(3))
	for room, ok := range map[scaling.Room]bool{{Processes: 1, Memory: 10}: true, {Processes: 0, Memory: 10}: false, {Processes: 1, Memory: 9}: false} {
		if _, got, err := s.Set(s.now, 0, s.Wanted(0)+1, 10, room); got != ok || (err == nil) != ok {
			t.Errorf("%+v: %v, %v", room, got, err)
		}
		if ok {
			s.Done(s.now)
		}
	}

	s = newSite(rules, group(2), group(2)) // nothing is left, and nothing is exceeded
	s.run(time.Minute, plenty, 1, 1)
	s.took()
	s.run(time.Hour, scaling.Room{}, 2, 2)
	if got := s.took(); got != "" {
		t.Errorf("budgets that are used up: %q", got)
	}
	if g, _, ok := s.Decide(s.now.Add(time.Second), []scaling.Sample{{Load: 2, Ready: 2}, {Load: 2, Ready: 2}}, scaling.Room{Memory: -1}); !ok || g != 0 {
		t.Errorf("of two that are equally busy the first one: %d, %v", g, ok)
	}
}

// A group that has had a queue within the windows keeps its replicas.
func TestScalerKeepsForQueue(t *testing.T) {
	s := newSite(rules, scaling.Bounds{Group: "e0", Min: 1, Max: 2})
	s.run(time.Minute, plenty, 1)
	changed := 0
	for n := range 120 {
		s.now = s.now.Add(time.Second)
		m := scaling.Sample{Load: 0.1, Ready: s.Wanted(0)}
		if n < 60 && n%20 == 0 {
			m.Queue = 1 // however short
		}
		if _, d, ok := s.Decide(s.now, []scaling.Sample{m}, plenty); ok {
			if changed++; d.To != 1 || n < 70 {
				t.Errorf("%+v after %d s", d, n)
			}
			s.Done(s.now)
		}
	}
	if changed != 1 {
		t.Errorf("%d changes", changed)
	}
}

// A start that works makes the next failure a first one.
func TestScalerForgives(t *testing.T) {
	s := newSite(rules, scaling.Bounds{Group: "e0", Min: 1, Max: 3})
	var tries []time.Time
	for range 7200 {
		s.now = s.now.Add(time.Second)
		if _, d, ok := s.Decide(s.now, []scaling.Sample{{Load: 9, Ready: s.Wanted(0)}}, plenty); ok {
			if tries = append(tries, d.At); len(tries) == 4 {
				s.Done(s.now)
				continue
			}
			s.Failed(s.now, "no")
		}
	}
	first, again := tries[1].Sub(tries[0]), tries[5].Sub(tries[4])
	if later := tries[3].Sub(tries[2]); again != first || later <= first {
		t.Errorf("%v after a failure, %v after three, %v after a success and a failure", first, later, again)
	}
}

// A sample counts by the time that it is of: they come late while a group is being changed.
func TestScalerUnevenSamples(t *testing.T) {
	s := newSite(rules, scaling.Bounds{Group: "e0", Min: 1, Max: 2})
	began := s.now
	for _, m := range []struct {
		at   time.Duration
		load float64
	}{{0, 1}, {8 * time.Second, 0.5}, {9 * time.Second, 0.9}, {10 * time.Second, 0.9}} {
		s.now = began.Add(m.at)
		s.Decide(s.now, []scaling.Sample{{Load: m.load, Ready: 1}}, plenty)
	}
	if got := s.State(s.now, 0).Busy; math.Abs(got-0.58) > 1e-9 {
		t.Errorf("busy for %g of the time, want 0.58", got)
	}
	if got := s.State(s.now.Add(time.Minute), 0).Busy; got != 0 {
		t.Errorf("busy for %g of a time that nothing is known of", got)
	}
}
