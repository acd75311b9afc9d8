package cost

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// do has a unit's counters go on, as a call with rows would.
func (m *machine) do(unit, rows int) {
	w := &m.units[unit]
	w.Rows += int64(rows)
	w.Done += int64(rows + 16)
	w.Bytes += w.Size
	m.reading.Parts[partOf(w.Group)].Bytes += w.Size
}

func partOf(group string) int {
	if group == "e0" {
		return 1
	}
	return 2
}

// withUnits has two groups: e0 with two units of one size, e1 with a small and a large one.
func withUnits() *machine {
	m := newMachine()
	m.reading.Parts = append(m.reading.Parts, Part{Name: "e1", PID: 3})
	m.units = []Work{
		{Unit: Unit{"e0", 0, 0}, Size: 100, Rows: 7, Done: 23, Bytes: 100}, {Unit: Unit{"e0", 1, 0}, Size: 100},
		{Unit: Unit{"e1", 0, 1}, Size: 50}, {Unit: Unit{"e1", 1, 1}, Size: 250},
	}
	return m
}

func (l *Ledger) unit(group string, layer, expert int) Used {
	return l.units.accounts[Unit{group, layer, expert}].used
}

// What a group has used goes to its units by the size of their weights and what they have done; waits while no call has ended;
// and is nobody's while nothing is computed.
func TestTheRuleOfUnits(t *testing.T) {
	m := withUnits()
	l := m.ledger()
	step := func(tokens int, cpu time.Duration, do func()) {
		m.use(0, cpu, 0, 0)
		m.now = m.now.Add(unitsEvery)
		m.reading.Parts[2].CPU += cpu
		do()
		l.Begin()
		l.Rows("a", tokens)
		l.End()
		l.Look()
	}
	step(1, 80*time.Millisecond, func() { m.do(0, 4); m.do(1, 44); m.do(2, 4); m.do(3, 4) })
	for _, c := range []struct {
		group         string
		layer, expert int
		want          Used
	}{
		{"e0", 0, 0, Used{CPU: 20e6, Bytes: 100}}, {"e0", 1, 0, Used{CPU: 60e6, Bytes: 100}}, // 20 rows' worth, and 60
		{"e1", 0, 1, Used{CPU: 13_333_333, Bytes: 50}}, {"e1", 1, 1, Used{CPU: 66_666_667, Bytes: 250}}, // five times as large
	} {
		if got := l.unit(c.group, c.layer, c.expert); got != c.want {
			t.Errorf("%s %d %d: %+v, want %+v", c.group, c.layer, c.expert, got, c.want)
		}
	}
	step(1, 10*time.Millisecond, func() { m.do(2, 1) }) // e0 has computed something, but no call of it has ended
	if got := l.unit("e0", 0, 0); got.CPU != 20e6 || l.units.groups["e0"].waiting.CPU != 10e6 {
		t.Errorf("%+v, waiting %+v", got, l.units.groups["e0"].waiting)
	}
	step(1, 10*time.Millisecond, func() { m.do(0, 1) })
	if got := l.unit("e0", 0, 0); got.CPU != 40e6 || l.units.groups["e0"].waiting.CPU != 0 {
		t.Errorf("%+v, waiting %+v", got, l.units.groups["e0"].waiting)
	}
	m.use(0, time.Second, 0, 0)
	l.Look()
	if got := l.units.groups["e0"].idle; got.CPU != 1e9 {
		t.Errorf("idle: %+v", got)
	}
	experts := l.Report("m").Experts
	if first := experts[0]; first.Group != "e1" || *first.Layer != 1 || *first.Expert != 1 || first.Rows != 4 || first.Per1000 == nil {
		t.Errorf("%+v", first)
	}
	if last := experts[len(experts)-2]; last.Group != "e0" || last.Rest != Idle || last.Layer != nil || last.CPUSeconds != 1 {
		t.Errorf("%+v", last)
	}
}

// The sum over the units of a group is what the group has used, to the nanosecond, byte and microjoule, also when processes are
// replaced or away, and when units move to another group.
func TestUnitsSumUpToTheirGroup(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	m := withUnits()
	l := m.ledger()
	parts := m.reading.Parts
	for step := range 3000 {
		m.reading.Parts = parts
		m.use(time.Duration(rng.Int64N(1e7)), time.Duration(rng.Int64N(1e8)), 0, rng.Int64N(1e7))
		parts[2].CPU += time.Duration(rng.Int64N(1e8))
		switch step % 500 {
		case 100: // a new process, whose counter begins at 0
			parts[1].PID, parts[1].CPU = parts[1].PID+1, 0
		case 300: // a unit is served by the other group
			m.units[1].Group = map[string]string{"e0": "e1", "e1": "e0"}[m.units[1].Group]
		}
		l.Begin()
		for range rng.IntN(3) {
			m.do(rng.IntN(4), 1+rng.IntN(50))
			l.Rows("a", 1)
		}
		l.End()
		if rng.IntN(10) == 0 { // a process can't be read at this look
			m.reading.Parts = parts[:2]
		}
		l.Look()
	}
	want := map[string]Used{}
	for _, a := range l.accounts {
		for part, u := range a.parts {
			sum := want[part]
			sum.add(*u)
			want[part] = sum
		}
	}
	got := map[string]Used{"host": want["host"]}
	take := func(group string, u Used) {
		sum := got[group]
		sum.add(u)
		got[group] = sum
	}
	for unit, a := range l.units.accounts {
		if a.used.CPU == 0 {
			t.Errorf("%v has used nothing", unit)
		}
		take(unit.Group, a.used)
	}
	for group, g := range l.units.groups {
		take(group, g.idle)
		take(group, g.waiting)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || want["e0"].CPU == 0 || want["e1"].Bytes == 0 || want["e1"].Energy == 0 {
		t.Errorf("units %v, groups %v", got, want)
	}
}

// A report has so many units, and of each group the rest in one line.
func TestManyUnitsAreOne(t *testing.T) {
	m := withUnits()
	l := m.ledger()
	l.o.Units = 1
	for unit := range 4 {
		m.do(unit, 1)
	}
	m.use(0, time.Second, 0, 0)
	l.Rows("a", 1)
	l.Look()
	experts := l.Report("m").Experts
	if len(experts) != 5 || experts[0].Layer == nil || experts[1].Rest != Other || experts[2].Rest != Other || experts[1].Rows != 1 || experts[2].Rows != 2 {
		t.Errorf("%+v", experts)
	}
}
