package cost

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is a system whose counters a test turns.
type machine struct {
	now     time.Time
	reading Reading
	units   []Work
}

func newMachine() *machine {
	return &machine{now: time.Unix(1700000000, 0), reading: Reading{
		Parts:  []Part{{Name: "host", PID: 1, CPU: 5 * time.Second}, {Name: "e0", PID: 2, CPU: time.Second, Bytes: 100}},
		Energy: map[string]int64{"package-0": 0},
	}}
}

func (m *machine) ledger() *Ledger {
	return New(Options{Read: func() Reading {
		r := m.reading
		r.Parts = append([]Part{}, r.Parts...)
		r.Energy = map[string]int64{}
		for d, e := range m.reading.Energy {
			r.Energy[d] = e
		}
		return r
	}, Work: func() []Work { return m.units }, Now: func() time.Time { return m.now }})
}

// use turns all counters on.
func (m *machine) use(host, expert time.Duration, bytes, energy int64) {
	m.now = m.now.Add(100 * time.Millisecond)
	m.reading.Parts[0].CPU += host
	m.reading.Parts[1].CPU += expert
	m.reading.Parts[1].Bytes += bytes
	m.reading.Busy += 2 * (host + expert) // half of what the machine does is ours
	m.reading.Energy["package-0"] += energy
}

func used(l *Ledger, tenant string) Used {
	t, _ := l.Totals()
	return t[tenant]
}

// What is used goes to those whose rows ended in between, by rows; to nobody while nothing is computed; and waits while a
// step is under way.
func TestTheRule(t *testing.T) {
	m := newMachine()
	l := m.ledger()
	m.use(10*time.Millisecond, 0, 0, 0)
	if l.Look() {
		t.Error("nothing was computed")
	}
	if got := used(l, Idle); got.CPU != int64(10*time.Millisecond) {
		t.Errorf("idle: %+v", got)
	}

	l.Begin()
	m.use(4*time.Millisecond, 8*time.Millisecond, 30, 600)
	if !l.Look() {
		t.Error("a step is under way")
	}
	if got := used(l, Idle); got.CPU != int64(10*time.Millisecond) {
		t.Errorf("a step under way was charged: %+v", got)
	}
	l.Rows("a", 3)
	l.Rows("b", 1)
	l.End()
	l.Look()
	if got, want := used(l, "a"), (Used{int64(9 * time.Millisecond), 23, 225}); got.CPU != want.CPU || got.Bytes < 22 || got.Bytes > 23 || got.Energy != want.Energy {
		t.Errorf("three of four rows: %+v, want %+v", got, want)
	}
	if got := used(l, "b"); got.CPU != int64(3*time.Millisecond) || got.Energy != 75 {
		t.Errorf("one of four rows: %+v", got)
	}
	r := l.Report("m")
	if r.Tokens != 4 || r.Elsewhere != 300e-6 || r.Domains["package-0"] != 600e-6 || *r.Total.Joules != 300e-6 {
		t.Errorf("%+v", r)
	}
	if len(r.Parts) != 2 || r.Parts[0].Name != "host" || r.Parts[1].ReadBytes != 30 {
		t.Errorf("parts: %+v", r.Parts)
	}
	if a := r.Tenants[1]; a.Name != "a" || a.Per1000 == nil || a.Per1000.CPUSeconds < 2.999 || a.Per1000.CPUSeconds > 3.001 {
		t.Errorf("for 1,000 tokens: %+v", a)
	}
	if idle := r.Tenants[0]; idle.Name != Idle || idle.Per1000 != nil {
		t.Errorf("idle: %+v", idle)
	}
}

// The sum over all tenants and parts is what was measured, to the nanosecond, byte and microjoule, also when processes are
// replaced.
func TestSumsAreWhatWasMeasured(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	m := newMachine()
	l := m.ledger()
	var cpu, bytes, energy int64
	for step := range 3000 {
		h, e, b, j := rng.Int64N(1e8), rng.Int64N(1e8), rng.Int64N(1e12), rng.Int64N(1e7)
		if step%500 == 250 { // a new process, whose counter begins at 0
			m.reading.Parts[1].PID++
			m.reading.Parts[1].CPU = 0
		}
		m.use(time.Duration(h), time.Duration(e), b, j)
		cpu, bytes, energy = cpu+h+e, bytes+b, energy+j
		l.Begin()
		for range rng.IntN(4) {
			l.Rows(fmt.Sprint("tenant", rng.IntN(7)), 1+rng.IntN(500))
		}
		l.End()
		l.Look()
	}
	var sum Used
	tenants, domains := l.Totals()
	for _, u := range tenants {
		sum.add(u)
	}
	if sum.CPU != cpu || sum.Bytes != bytes || sum.Energy+l.others != energy || domains["package-0"] != energy {
		t.Errorf("%+v and %d elsewhere; measured %d ns, %d bytes, %d uJ", sum, l.others, cpu, bytes, energy)
	}
	if len(tenants) != 8 {
		t.Errorf("%d tenants", len(tenants))
	}
}

func TestManyTenantsAreOne(t *testing.T) {
	m := newMachine()
	l := m.ledger()
	for n := range 10 * maxTenants {
		l.Rows(fmt.Sprint("t", n), 1)
	}
	l.Rows("", 1)
	m.use(time.Second, 0, 0, 0)
	l.Look()
	tenants, _ := l.Totals()
	if len(tenants) > maxTenants+2 || tenants[Other].CPU == 0 {
		t.Errorf("%d tenants are counted apart", len(tenants))
	}
}

// The ledger looks by itself, and ends with Close.
func TestLife(t *testing.T) {
	looks := make(chan struct{}, 100)
	l := New(Options{Every: time.Millisecond, Read: func() Reading { looks <- struct{}{}; return Reading{} }})
	l.Begin()
	l.Rows("a", 1)
	l.Start()
	for range 3 {
		select {
		case <-looks:
		case <-time.After(10 * time.Second):
			t.Fatal("it does not look")
		}
		l.Rows("a", 1)
	}
	l.Close()
	l.Close()
	(*Ledger)(nil).Close()
}

func TestShare(t *testing.T) {
	for _, c := range []struct {
		total         int64
		weights, want []int64
	}{
		{10, []int64{1, 1, 1}, []int64{3, 3, 4}},
		{1, []int64{1, 1}, []int64{0, 1}},
		{0, []int64{1, 2}, []int64{0, 0}},
		{7, []int64{0, 0}, []int64{0, 0}},
		{1 << 62, []int64{1 << 40, 1 << 40}, []int64{1 << 61, 1 << 61}},
	} {
		if got := share(c.total, c.weights); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%d by %v: %v, want %v", c.total, c.weights, got, c.want)
		}
	}
}

// fakeCounters is a tree of /sys/class/powercap.
type fakeCounters struct {
	*testing.T
	root string
}

func (f fakeCounters) set(zone, name string, energy, wrap int64) {
	f.Helper()
	dir := filepath.Join(f.root, "sys/class/powercap", zone)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.Fatal(err)
	}
	for file, text := range map[string]string{"name": name, "energy_uj": fmt.Sprint(energy), "max_energy_range_uj": fmt.Sprint(wrap)} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o644); err != nil {
			f.Fatal(err)
		}
	}
}

func TestEnergyCounters(t *testing.T) {
	f := fakeCounters{t, t.TempDir()}
	if got := openCounters(f.root).read(); got != nil {
		t.Errorf("without counters: %v", got)
	}
	f.set("intel-rapl:0", "package-0", 900, 1000)
	f.set("intel-rapl:1", "package-1", 5, 1000)
	f.set("intel-rapl:0:0", "core", 5, 1000)
	f.set("intel-rapl:1:1", "dram", 10, 1000)
	f.set("intel-rapl:2", "psys", 5, 1000)
	c := openCounters(f.root)
	f.set("intel-rapl:0", "package-0", 950, 1000)
	f.set("intel-rapl:0:0", "core", 800, 1000)
	f.set("intel-rapl:1:1", "dram", 40, 1000)
	if got := c.read(); fmt.Sprint(got) != "map[dram-1:30 package-0:50 package-1:0]" {
		t.Errorf("%v", got)
	}
	f.set("intel-rapl:0", "package-0", 20, 1000) // it has begun again
	if got := c.read(); got["package-0"] != 120 {
		t.Errorf("after its end: %v", got)
	}
	os.Remove(filepath.Join(f.root, "sys/class/powercap/intel-rapl:0/energy_uj"))
	if got := c.read(); got["package-0"] != 120 {
		t.Errorf("a counter that can't be read now: %v", got)
	}
}

// A process's clock counts what it has computed.
func TestSystem(t *testing.T) {
	s := OpenSystem()
	before := s.Read(7, []Part{{Name: "gone", PID: 1<<22 - 1}, {Name: "none"}, {Name: "impossible", PID: 1 << 30}})
	for began := time.Now(); time.Since(began) < 30*time.Millisecond; {
	}
	after := s.Read(7, nil)
	if len(before.Parts) != 1 || before.Parts[0].Bytes != 7 {
		t.Fatalf("%+v", before.Parts)
	}
	if d := after.Parts[0].CPU - before.Parts[0].CPU; d <= 0 || d > 10*time.Second {
		t.Errorf("%s of CPU time", d)
	}
	f := fakeCounters{t, t.TempDir()}
	os.MkdirAll(filepath.Join(f.root, "proc"), 0o755)
	if err := os.WriteFile(filepath.Join(f.root, "proc/stat"), []byte("cpu  100 10 50 9999 77 3 2 1 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := openSystem(f.root).busy(); got != 1660*time.Millisecond {
		t.Errorf("busy %s", got)
	}
}

func TestPeak(t *testing.T) {
	m := newMachine()
	l := m.ledger()
	minuteOf := func(cores float64) {
		for range 600 {
			m.use(time.Duration(cores*1e8)/2, time.Duration(cores*1e8)/2, 0, 0)
			l.Look()
		}
	}
	m.reading.Levels = Levels{Running: 3, Queued: 1, KVPages: 7}
	minuteOf(0.5)
	m.reading.Levels = Levels{}
	minuteOf(1.5)
	minuteOf(0.25)
	p := l.Peak()
	if p.Cores < 1.49 || p.Cores > 1.51 || p.Levels != (Levels{3, 1, 7}) || len(p.Groups) != 2 || p.Groups[0].Name != "e0" {
		t.Errorf("%+v", p)
	}
	l = m.ledger()
	m.use(0, 50*time.Millisecond, 0, 0)
	if p := l.Peak(); p.Cores < 0.49 || p.Cores > 0.51 {
		t.Errorf("before the first minute is over: %+v", p)
	}
}

// BenchmarkStep is what an account costs a step of 32 requests, and BenchmarkLook what ten looks a second cost: together they
// must stay far below a hundredth of a core.
func BenchmarkStep(b *testing.B) {
	l := newMachine().ledger()
	for b.Loop() {
		l.Begin()
		for range 32 {
			l.Rows("tenant", 1)
		}
		l.End()
	}
}

func BenchmarkLook(b *testing.B) {
	s := OpenSystem()
	parts := make([]Part, 64)
	for i := range parts {
		parts[i] = Part{Name: fmt.Sprint("e", i), PID: os.Getpid()}
	}
	var work []Work
	for i := range 6144 { // the units of 48 layers with 128 experts
		work = append(work, Work{Unit: Unit{fmt.Sprint("e", i/96), i % 96, i / 96}, Size: 1 << 20})
	}
	now := time.Now()
	l := New(Options{
		Read: func() Reading { return s.Read(0, parts) }, Work: func() []Work { return work },
		Now: func() time.Time { now = now.Add(lookEvery / 2); return now }, // it is asked twice a look
	})
	for b.Loop() {
		for t := range 8 {
			l.Rows(fmt.Sprint("t", t), 4)
		}
		for i := 0; i < len(work); i += 8 {
			work[i].Rows, work[i].Done, work[i].Bytes = work[i].Rows+4, work[i].Done+20, work[i].Bytes+1<<20
		}
		l.Look()
	}
}
