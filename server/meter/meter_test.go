package meter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/metrics/catalogue"
	"github.com/pimoe/pimoe/sdk/expert"
)

func TestMain(m *testing.M) {
	if os.Getenv("PIMOE_TEST_SPIN") != "" {
		spin()
	}
	goleak.VerifyTestMain(m)
}

// spin uses CPU time until it is killed.
func spin() {
	for i := 0; ; i++ {
		_ = math.Sqrt(float64(i))
	}
}

// fakeHost has counts that a test sets.
type fakeHost struct {
	mu      sync.Mutex
	layout  host.Layout
	counts  []host.UnitCounts
	running []host.Running
	devices []host.DeviceUse
}

func newFakeHost(layers, experts int) *fakeHost {
	f := &fakeHost{layout: host.Layout{Experts: experts}, counts: make([]host.UnitCounts, layers*experts)}
	for l := range layers {
		f.layout.Layers = append(f.layout.Layers, l)
	}
	return f
}

func (f *fakeHost) Layout() host.Layout { return f.layout }

func (f *fakeHost) Running() []host.Running {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]host.Running{}, f.running...)
}

func (f *fakeHost) UnitCounts(to []host.UnitCounts) []host.UnitCounts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append(to[:0], f.counts...)
}

func (f *fakeHost) Devices(context.Context) ([]host.DeviceUse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]host.DeviceUse{}, f.devices...), nil
}

func (f *fakeHost) compute(list ...host.DeviceUse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.devices = list
}

func (f *fakeHost) run(list ...host.Running) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = list
}

func (f *fakeHost) add(unit, rows int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[unit].Rows += int64(rows)
	f.counts[unit].Calls++
	f.counts[unit].Busy += time.Millisecond
}

// clock is one that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// start makes a Meter that measures only when the test says so.
func start(t *testing.T, h *fakeHost, change func(*Options)) (*Meter, *metrics.Registry, *clock) {
	t.Helper()
	c, r := &clock{now: time.Unix(1e9, 0)}, metrics.New()
	o := Options{
		Every: time.Hour, Host: h, Registry: r, Volumes: map[string]string{"home": t.TempDir()},
		Units: 100, Log: slog.New(slog.DiscardHandler), Now: c.Now,
	}
	if change != nil {
		change(&o)
	}
	m := Start(o)
	t.Cleanup(m.Close)
	return m, r, c
}

// series reads Prometheus text.
func series(t *testing.T, write func(io.Writer)) map[string]float64 {
	t.Helper()
	var b bytes.Buffer
	write(&b)
	out := map[string]float64{}
	for line := range strings.Lines(b.String()) {
		at := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(strings.TrimSpace(line[at+1:]), 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if _, twice := out[line[:at]]; twice {
			t.Fatalf("%s twice", line[:at])
		}
		name, _, _ := strings.Cut(line[:at], "{")
		if _, known := catalogue.Of(name); !known {
			t.Errorf("%s is not in the catalogue", name)
		}
		out[line[:at]] = v
	}
	return out
}

// TestMachine: what is said of the machine is possible, and disks and networks only grow.
func TestMachine(t *testing.T) {
	m, r, _ := start(t, newFakeHost(1, 2), nil)
	before := series(t, r.Write)
	m.Measure()
	now := series(t, r.Write)
	for _, name := range []string{"pimoe_system_cpu_ratio", "pimoe_system_memory_used_ratio"} {
		if v, there := before[name]; !there || v < 0 || v > 1 {
			t.Errorf("%s is %v, %v", name, v, there)
		}
	}
	if used, total := now["pimoe_system_memory_used_bytes"], now["pimoe_system_memory_total_bytes"]; used <= 0 || used > total {
		t.Errorf("%v of %v bytes are used", used, total)
	}
	if free, total := now[`pimoe_system_disk_free_bytes{volume="home"}`], now[`pimoe_system_disk_total_bytes{volume="home"}`]; free <= 0 || free > total {
		t.Errorf("%v of %v bytes are free", free, total)
	}
	for _, name := range []string{"disk_read_bytes", "disk_written_bytes", "network_received_bytes", "network_sent_bytes"} {
		name = "pimoe_system_" + name + "_total"
		if v, there := now[name]; !there || v < before[name] {
			t.Errorf("%s went from %v to %v", name, before[name], v)
		}
	}
}

// TestWholeDisks: no byte counts twice.
func TestWholeDisks(t *testing.T) {
	all := map[string]bool{
		"sda": true, "sda1": false, "nvme0n1": true, "nvme0n1p2": false, "mmcblk0": true, "mmcblk0p1": false, "vda": true, "vda15": false,
		"loop0": false, "dm-1": false, "md127": false, "ram3": false, "disk0": true,
	}
	for name, want := range all {
		if wholeDisk(name, all) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

// TestDevices: the sums of a place go on when its process is another one, what it has is the present one's, and the share is that of
// the interval.
func TestDevices(t *testing.T) {
	h := newFakeHost(1, 2)
	m, r, c := start(t, h, nil)
	for name := range series(t, r.Write) {
		if strings.HasPrefix(name, "pimoe_device_") {
			t.Errorf("%s without a device", name)
		}
	}
	use := func(group string, pid int, id string, seconds float64, used int64) host.DeviceUse {
		return host.DeviceUse{Group: group, PID: pid, Device: expert.Device{
			ID: id, MemoryBytes: 1000, UsedBytes: used, WeightBytes: used / 2, KernelSeconds: seconds, UploadSeconds: seconds / 2, DownloadSeconds: seconds / 2,
			UploadBytes: int64(seconds * 10), DownloadBytes: int64(seconds * 20),
		}}
	}
	measure := func(list ...host.DeviceUse) map[string]float64 {
		c.pass(10 * time.Second)
		h.compute(list...)
		m.Measure()
		return series(t, r.Write)
	}
	measure(use("e0", 1, "0", 1, 300), use("e1", 2, "0", 1, 310), use("e2", 3, "1", 0, 100))
	now := measure(use("e0", 1, "0", 2, 300), use("e1", 2, "0", 1.5, 320), use("e2", 3, "1", 9, 100)) // 2 + 1 of 10 s, and 18
	again := measure(use("e0", 7, "0", 0.5, 400), use("e2", 3, "1", 1, 100))                          // e1 has no process, and e2 counts backwards
	for name, want := range map[string][2]float64{
		`pimoe_device_memory_total_bytes{device="0"}`: {1000, 1000}, `pimoe_device_memory_used_bytes{device="0"}`: {320, 400},
		`pimoe_device_busy_ratio{device="0"}`: {0.3, 0.1}, `pimoe_device_busy_ratio{device="1"}`: {1, 0.2},
		`pimoe_device_kernel_seconds_total{group="e0",replica="0",device="0"}`:              {2, 2.5},
		`pimoe_device_kernel_seconds_total{group="e1",replica="0",device="0"}`:              {1.5, 1.5},
		`pimoe_device_kernel_seconds_total{group="e2",replica="0",device="1"}`:              {9, 10},
		`pimoe_device_copy_seconds_total{group="e0",replica="0",device="0",direction="up"}`: {1, 1.25},
		`pimoe_device_copy_bytes_total{group="e0",replica="0",device="0",direction="down"}`: {40, 50},
		`pimoe_device_weight_bytes{group="e0",replica="0",device="0"}`:                      {150, 200},
	} {
		if math.Abs(now[name]-want[0]) > 1e-9 || math.Abs(again[name]-want[1]) > 1e-9 {
			t.Errorf("%s is %v, then %v; want %v", name, now[name], again[name], want)
		}
	}
}

// TestProcesses: a place's counters go on over the processes that it has, and say what these have used.
func TestProcesses(t *testing.T) {
	h := newFakeHost(1, 2)
	m, r, _ := start(t, h, nil)
	const cpu, faults = `pimoe_process_cpu_seconds_total{process="e0",replica="1"}`, `pimoe_process_page_faults_total{process="e0",replica="1",kind="minor"}`
	last, lastFaults := 0.0, 0.0
	for range 2 {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "PIMOE_TEST_SPIN=1")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		end := sync.OnceFunc(func() { c.Process.Kill(); c.Wait() })
		defer end()
		h.run(host.Running{Name: "e0", Replica: 1, PID: c.Process.Pid})
		deadline := time.Now().Add(20 * time.Second)
		for {
			m.Measure()
			now := series(t, r.Write)
			if now[cpu] < last || now[faults] < lastFaults {
				t.Fatalf("went back from %v, %v to %v, %v", last, lastFaults, now[cpu], now[faults])
			}
			if now[cpu] > last+0.05 && now[faults] > lastFaults {
				if now[`pimoe_process_resident_bytes{process="e0",replica="1"}`] < 1<<20 || now[`pimoe_process_private_bytes{process="e0",replica="1"}`] < 1<<18 {
					t.Errorf("a Go program in too little memory: %v", now)
				}
				if n := now[`pimoe_process_open_descriptors{process="e0",replica="1"}`]; n < 3 {
					t.Errorf("%v descriptors", n)
				}
				last, lastFaults = now[cpu], now[faults]
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("no CPU time after 20 s: %v", now)
			}
			time.Sleep(10 * time.Millisecond)
		}
		end()
		h.run() // it restarts
		m.Measure()
		now := series(t, r.Write)
		if now[cpu] < last || now[faults] < lastFaults {
			t.Fatalf("went back without a process: %v", now)
		}
		if _, there := now[`pimoe_process_resident_bytes{process="e0",replica="1"}`]; there {
			t.Error("a place without a process has memory")
		}
		last = now[cpu]
	}
	if now := series(t, r.Write); now[`pimoe_process_cpu_seconds_total{process="host",replica="0"}`] <= 0 {
		t.Error("the host is not measured")
	}
}

// TestUnits: sums, shares, entropy, balance and drift of layers whose rows are known.
func TestUnits(t *testing.T) {
	h := newFakeHost(2, 4)
	m, r, c := start(t, h, nil)
	check := func(name string, want, within float64) {
		t.Helper()
		if got, there := series(t, r.Write)[name]; !there || math.Abs(got-want) > within {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if _, there := series(t, r.Write)[`pimoe_layer_drift_ratio{layer="0"}`]; there {
		t.Error("a drift of nothing")
	}
	for range 30 * 60 { // an even half hour in layer 1, and one expert alone in layer 0
		c.pass(time.Second)
		for e := range 4 {
			h.add(4+e, 1)
		}
		h.add(2, 4)
		m.Measure()
	}
	check(`pimoe_unit_rows_total{layer="0",expert="2"}`, 7200, 0)
	check(`pimoe_unit_rows_total{layer="1",expert="3"}`, 1800, 0)
	check(`pimoe_unit_calls_total{layer="0",expert="2"}`, 1800, 0)
	check(`pimoe_unit_busy_seconds_total{layer="0",expert="2"}`, 1.8, 1e-6)
	check(`pimoe_unit_share_ratio{layer="0",expert="2"}`, 1, 1e-9)
	check(`pimoe_unit_share_ratio{layer="1",expert="0"}`, 0.25, 1e-9)
	check(`pimoe_layer_entropy_ratio{layer="0"}`, 0, 1e-9)
	check(`pimoe_layer_entropy_ratio{layer="1"}`, 1, 1e-9)
	check(`pimoe_layer_balance_ratio{layer="0"}`, 4, 1e-9)
	check(`pimoe_layer_balance_ratio{layer="1"}`, 1, 1e-9)
	check(`pimoe_layer_drift_ratio{layer="1"}`, 0, 1e-9)
	for range 5 * 60 { // then the rows of layer 1 go to one expert
		c.pass(time.Second)
		h.add(4, 4)
		m.Measure()
	}
	check(`pimoe_unit_share_ratio{layer="1",expert="0"}`, 1, 0.01)
	// Of the last half hour 5 minutes are new: what was even has faded to (1 - e^-1) e^-1/6 against 1 - e^-1/6.
	old, fresh := (1-math.Exp(-1))*math.Exp(-1./6), 1-math.Exp(-1./6)
	check(`pimoe_layer_drift_ratio{layer="1"}`, 0.75*old/(old+fresh), 0.02)
	check(`pimoe_layer_drift_ratio{layer="0"}`, 0, 1e-9)
}

// TestUnitsAreBounded: with more units than may have series, the busiest have them, the others are together, all rows are printed
// once, and nothing goes back.
func TestUnitsAreBounded(t *testing.T) {
	const most = 5
	h := newFakeHost(3, 8)
	m, r, c := start(t, h, func(o *Options) { o.Units = most })
	rng := rand.New(rand.NewPCG(3, 4))
	had, all := map[string]float64{}, 0.0
	changes, before := 0, ""
	for round := range 400 {
		hot := round / 100 * 7 % 24
		for range 20 {
			unit := rng.IntN(24)
			if rng.IntN(3) > 0 {
				unit = hot
			}
			h.add(unit, 1)
			all++
		}
		c.pass(5 * time.Second)
		m.Measure()
		sum, apart, names := 0.0, 0, ""
		for name, v := range series(t, r.Write) {
			if !strings.HasPrefix(name, "pimoe_unit_rows_total") {
				continue
			}
			if v < had[name] {
				t.Fatalf("round %d: %s went from %v to %v", round, name, had[name], v)
			}
			had[name] = v
			sum += v
			if !strings.Contains(name, "other") {
				apart++
			}
		}
		for unit, named := range m.units.named {
			if named {
				names += fmt.Sprint(unit, " ")
			}
		}
		if names != before {
			changes++
		}
		before = names
		if apart > most {
			t.Fatalf("%d units have series", apart)
		}
		if round == 0 && sum != all {
			t.Errorf("%v rows, %v printed", all, sum)
		}
	}
	if changes < 2 {
		t.Error("the busy units never got series of their own")
	}
	if last := 3 * 7 % 24; !m.units.named[last] {
		t.Errorf("unit %d is the busiest and has no series: %s", last, before)
	}
}

// TestOff: with an interval of 0 there is nothing.
func TestOff(t *testing.T) {
	_, r, _ := start(t, newFakeHost(1, 1), func(o *Options) { o.Every = 0 })
	if got := series(t, r.Write); len(got) != 1 { // that of dropped series
		t.Errorf("%v", got)
	}
}

// TestRuns: it goes on by itself, and ends when it is closed, twice too.
func TestRuns(t *testing.T) {
	m, r, _ := start(t, newFakeHost(1, 1), func(o *Options) { o.Every = time.Millisecond })
	deadline := time.Now().Add(20 * time.Second)
	for series(t, r.Write)["pimoe_metrics_collect_seconds"] == 0 {
		if time.Now().After(deadline) {
			t.Fatal("nothing was measured for 20 s")
		}
		time.Sleep(time.Millisecond)
	}
	m.Close()
	m.Close()
	var none *Meter
	none.Close()
}

// BenchmarkMeasure is what a measurement of many units and some processes costs; see make bench-metrics for what it takes from
// requests.
func BenchmarkMeasure(b *testing.B) {
	h := newFakeHost(16, 64)
	for i := range 9 {
		h.running = append(h.running, host.Running{Name: "e", Replica: i, PID: os.Getpid()})
	}
	m := Start(Options{
		Every: time.Hour, Host: h, Registry: metrics.New(), Volumes: map[string]string{"root": "/"}, Units: 1024,
		Log: slog.New(slog.DiscardHandler),
	})
	defer m.Close()
	for b.Loop() {
		for u := range h.counts {
			h.add(u, 1)
		}
		m.Measure()
	}
}
