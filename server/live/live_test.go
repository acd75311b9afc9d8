package live

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/scaling"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/alert"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is a source that a test changes.
type machine struct {
	mu        sync.Mutex
	asked     int
	rows      []int64
	stats     engine.Stats
	processes []host.Status
	times     []uint64
	trial     *host.Trial
	alerts    AlertList
}

func (m *machine) set(f func(*machine)) { m.mu.Lock(); defer m.mu.Unlock(); f(m) }

func (m *machine) looks() int { m.mu.Lock(); defer m.mu.Unlock(); return m.asked }

func (m *machine) source() Source {
	return Source{
		Model: "tiny",
		Layout: func() host.Layout {
			return host.Layout{Layers: []int{0}, Experts: 2, Groups: []string{"e0", "e1"}, Units: []int{0, 1}}
		},
		Rows: func(to []int64) []int64 {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.asked++
			return append(to[:0], m.rows...)
		},
		Engine: func() engine.Stats { m.mu.Lock(); defer m.mu.Unlock(); return m.stats },
		Processes: func() []host.Status {
			m.mu.Lock()
			defer m.mu.Unlock()
			return append([]host.Status(nil), m.processes...)
		},
		Groups: func() []host.GroupStatus {
			return []host.GroupStatus{{Group: "e0", Ready: 1, State: scaling.State{Wanted: 2, Max: 3, Busy: 0.5}}}
		},
		Trial:      func() *host.Trial { m.mu.Lock(); defer m.mu.Unlock(); return m.trial },
		FirstToken: func(to []uint64) []uint64 { m.mu.Lock(); defer m.mu.Unlock(); return append(to[:0], m.times...) },
		Bounds:     []float64{1},
		Alerts:     func() AlertList { m.mu.Lock(); defer m.mu.Unlock(); return m.alerts },
	}
}

func newMachine() *machine {
	return &machine{rows: []int64{5, 7}, times: []uint64{0, 0}, processes: []host.Status{
		{Group: "e0", PID: 10, State: "ready", Backend: "cpu", NumericClass: "f32"}, {Group: "e1", PID: 11, State: "ready", Backend: "cpu", NumericClass: "f32"},
	}}
}

// next reads messages until one of a kind comes that fits.
func next(t *testing.T, w *Watcher, kind string, fits func(map[string]any) bool) map[string]any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		m, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("no %s: %v", kind, err)
		}
		var v map[string]any
		if err := json.Unmarshal(m.Data, &v); err != nil {
			t.Fatal(err)
		}
		if m.Kind == kind && (fits == nil || fits(v)) {
			return v
		}
	}
}

func TestWatchersSeeWhatHappens(t *testing.T) {
	m := newMachine()
	h := New(m.source(), Options{Every: time.Millisecond})
	defer h.Close()
	operator, err := h.Subscribe(Audience{Processes: true})
	if err != nil {
		t.Fatal(err)
	}
	viewer, err := h.Subscribe(Audience{})
	if err != nil {
		t.Fatal(err)
	}
	if v := next(t, operator, KindHello, nil); v["model"] != "tiny" || v["processes"] != true || v["layout"].(map[string]any)["experts"] != 2.0 {
		t.Errorf("hello: %v", v)
	}
	if v := next(t, viewer, KindHello, nil); v["processes"] != false {
		t.Errorf("hello of a viewer: %v", v)
	}
	next(t, operator, KindState, nil)
	m.set(func(m *machine) { m.rows[1] += 3; m.stats.CompletionTokens, m.stats.Running, m.times[1] = 4, 1, 2 })
	for _, w := range []*Watcher{operator, viewer} {
		v := next(t, w, KindPulse, func(v map[string]any) bool { return len(v["units"].([]any)) > 0 })
		if !reflect.DeepEqual(v["units"], []any{1.0, 3.0}) || v["tokens"] != 4.0 || v["running"] != 1.0 {
			t.Errorf("pulse: %v", v)
		}
	}
	state := next(t, operator, KindState, func(v map[string]any) bool { return v["first_token"].([]any)[1] == 2.0 })
	if len(state["processes"].([]any)) != 2 || state["groups"].([]any)[0].(map[string]any)["wanted"] != 2.0 || state["groups"].([]any)[1].(map[string]any)["ready"] != 1.0 {
		t.Errorf("state: %v", state)
	}
	m.set(func(m *machine) {
		m.processes[0].PID, m.processes[0].Restarts = 12, 1
		m.processes[0].LastDeath = &host.Death{At: time.UnixMilli(5), PID: 10, Cause: "was killed by SIGKILL"}
		m.processes[1].Quarantine = "gave other numbers"
	})
	died := next(t, operator, KindEvent, nil)
	if died["what"] != Died || died["object"] != "e0/0" || died["why"] != "was killed by SIGKILL" || died["t"] != 5.0 {
		t.Errorf("event: %v", died)
	}
	if v := next(t, operator, KindEvent, nil); v["what"] != Ready || v["object"] != "e0/0" {
		t.Errorf("event: %v", v)
	}
	if v := next(t, operator, KindEvent, nil); v["what"] != Quarantined || v["object"] != "e1/0" {
		t.Errorf("event: %v", v)
	}
	h.Tell(Event{What: "experts.swap", Object: "e0", Who: "key:ab", Why: "secret"})
	if v := next(t, operator, KindEvent, nil); v["who"] != "key:ab" || v["t"] == 0.0 {
		t.Errorf("event: %v", v)
	}
	told := next(t, viewer, KindEvent, func(v map[string]any) bool { return v["what"] == "experts.swap" })
	if told["who"] != nil || told["why"] != nil {
		t.Errorf("a viewer hears who: %v", told)
	}
	if v := next(t, viewer, KindState, nil); v["processes"] != nil || v["groups"] == nil {
		t.Errorf("a viewer sees processes: %v", v)
	}
	late, err := h.Subscribe(Audience{})
	if err != nil {
		t.Fatal(err)
	}
	if v := next(t, late, KindHello, nil); len(v["events"].([]any)) != 4 || strings.Contains(string(encode(v)), "key:ab") {
		t.Errorf("a newcomer hears of %v", v["events"])
	}
}

// Those who may see alerts hear of them at once and after each evaluation of the rules, and not in between; others never do.
func TestAlerts(t *testing.T) {
	m := newMachine()
	m.alerts = AlertList{Looked: time.Unix(100, 0), Rules: 3, Alerts: []alert.Alert{}, Over: []alert.Alert{}}
	h := New(m.source(), Options{Every: time.Millisecond})
	defer h.Close()
	watch := func(a Audience) *Watcher {
		t.Helper()
		w, err := h.Subscribe(a)
		if err != nil {
			t.Fatal(err)
		}
		if v := next(t, w, KindHello, nil); v["alerts"] != a.Alerts {
			t.Errorf("hello to %+v: %v", a, v)
		}
		return w
	}
	other, early := watch(Audience{Processes: true}), watch(Audience{Alerts: true})
	if v := next(t, early, KindAlerts, nil); v["rules"] != 3.0 || len(v["alerts"].([]any)) != 0 {
		t.Errorf("at first: %v", v)
	}
	m.set(func(m *machine) {
		m.alerts.Looked = time.Unix(115, 0)
		m.alerts.Alerts = []alert.Alert{{Rule: "PimoeQueueOld", State: alert.Firing}}
	})
	late := watch(Audience{Processes: true, Alerts: true})
	for _, w := range []*Watcher{early, late} {
		v := next(t, w, KindAlerts, nil)
		if list := v["alerts"].([]any); len(list) != 1 || list[0].(map[string]any)["rule"] != "PimoeQueueOld" {
			t.Errorf("after another evaluation: %v", v)
		}
	}
	for w, kinds := range map[*Watcher]map[string]int{other: {}, early: {}, late: {}} {
		for kinds[KindState] < 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			msg, err := w.Next(ctx)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			if kinds[msg.Kind]++; msg.Kind == KindAlerts {
				t.Errorf("%+v is told of alerts: %s", w.audience, msg.Data)
			}
		}
	}
}

// Nothing is looked at while nobody watches, and again as soon as somebody does.
func TestNobodyWatches(t *testing.T) {
	m := newMachine()
	h := New(m.source(), Options{Every: time.Millisecond})
	defer h.Close()
	h.Tell(Event{What: "x"})
	for range 3 {
		w, err := h.Subscribe(Audience{})
		if err != nil {
			t.Fatal(err)
		}
		next(t, w, KindState, nil)
		w.Close()
		w.Close()
		if _, err := w.Next(t.Context()); !errors.Is(err, ErrClosed) { // what is buffered may come first
			for err == nil {
				_, err = w.Next(t.Context())
			}
		}
		h.loops.Wait()
		before := m.looks()
		time.Sleep(20 * time.Millisecond)
		if now := m.looks(); now != before || now == 0 {
			t.Fatalf("looked %d times, then %d", before, now)
		}
	}
}

// Who does not read is cut off, and nobody else notices; there are not more than may be, and all end with the hub.
func TestWatchersAreBounded(t *testing.T) {
	m := newMachine()
	h := New(m.source(), Options{Every: time.Millisecond, Watchers: 2})
	slow, err := h.Subscribe(Audience{})
	if err != nil {
		t.Fatal(err)
	}
	quick, err := h.Subscribe(Audience{Processes: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Subscribe(Audience{}); !errors.Is(err, sdk.ErrOverloaded) {
		t.Errorf("a third watcher: %v", err)
	}
	for range buffered + 10 {
		h.Tell(Event{What: "x"})
		next(t, quick, KindEvent, nil)
	}
	if n := h.Watching(); n != 1 {
		t.Errorf("%d watch", n)
	}
	for err = nil; err == nil; {
		_, err = slow.Next(t.Context())
	}
	if !errors.Is(err, ErrSlow) {
		t.Errorf("the slow one: %v", err)
	}
	h.Close()
	h.Close()
	for err = nil; err == nil; {
		_, err = quick.Next(t.Context())
	}
	if !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := h.Subscribe(Audience{}); !errors.Is(err, ErrClosed) {
		t.Errorf("a watcher after Close: %v", err)
	}
	h.Tell(Event{What: "x"})
}

// What happened between two states is told in words that do not depend on how fast it went.
func TestCompare(t *testing.T) {
	one := func(group string, pid int, change func(*Process)) Process {
		p := Process{Group: group, PID: pid, State: "ready", Backend: "cpu", Class: "f32"}
		if change != nil {
			change(&p)
		}
		return p
	}
	for name, c := range map[string]struct {
		before, after State
		want          string
	}{
		"nothing":             {State{Processes: []Process{one("a", 1, nil)}}, State{Processes: []Process{one("a", 1, nil)}}, ""},
		"swapped":             {State{Processes: []Process{one("a", 1, nil)}}, State{Processes: []Process{one("a", 2, func(p *Process) { p.Backend, p.Class = "int8", "int8g32" })}}, "process.changed a/0 int8 int8g32, before: cpu f32;"},
		"restarted":           {State{Processes: []Process{one("a", 1, nil)}}, State{Processes: []Process{one("a", 2, nil)}}, "process.ready a/0 ;"},
		"dead, none yet":      {State{Processes: []Process{one("a", 1, nil)}}, State{Processes: []Process{one("a", 0, func(p *Process) { p.State, p.Death = "starting", &Death{PID: 1, Cause: "x"} })}}, "process.died a/0 x;"},
		"came and went":       {State{Processes: []Process{one("a", 1, nil), one("c", 2, nil)}}, State{Processes: []Process{one("a", 1, nil), one("b", 3, nil)}}, "replica.added b/0 ;replica.removed c/0 ;"},
		"aside is not seen":   {State{Processes: []Process{one("a", 1, nil)}}, State{Processes: []Process{one("a", 1, nil), one("a", 9, func(p *Process) { p.Aside = true })}}, ""},
		"router":              {State{Processes: []Process{one("", 1, nil)}}, State{Processes: []Process{one("", 2, nil)}}, "process.ready router ;"},
		"released":            {State{Processes: []Process{one("a", 0, func(p *Process) { p.Quarantine = "x" })}}, State{Processes: []Process{one("a", 0, nil)}}, "replica.released a/0 ;"},
		"trial":               {State{}, State{Trial: &Trial{Group: "a", Kind: "canary", To: "int8", State: "running"}}, "trial.began a canary of int8;"},
		"trial rolled back":   {State{Trial: &Trial{Group: "a", State: "running"}}, State{Trial: &Trial{Group: "a", State: "rolled back", Why: "it died"}}, "trial.ended a rolled back: it died;"},
		"trial still running": {State{Trial: &Trial{Group: "a", State: "running"}}, State{Trial: &Trial{Group: "a", State: "running", Calls: 4}}, ""},
	} {
		var got strings.Builder
		for _, e := range compare(&c.before, &c.after) {
			got.WriteString(e.What + " " + e.Object + " " + e.Why + ";")
		}
		if got.String() != c.want {
			t.Errorf("%s: %q, want %q", name, got.String(), c.want)
		}
	}
}
