// Package meter measures what nobody tells of by itself, at an interval: the machine, every process, and the experts of each
// layer. It keeps the result as text, so that a scrape of /metrics only copies it and never waits for the system.
//
// server/instance starts a Meter for what it has opened and closes it before the host. The package refuses to count requests, which
// is the work of whoever handles them, to say who pays for them, which is that of server/cost, and to keep history.
package meter

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/metrics"
)

// Host is the part of *host.Host that is measured.
type Host interface {
	Running() []host.Running
	Layout() host.Layout
	UnitCounts(to []host.UnitCounts) []host.UnitCounts
	Devices(ctx context.Context) ([]host.DeviceUse, error)
}

// Options say what is measured. Host is required.
type Options struct {
	Every    time.Duration     // between two measurements; 0 = nothing is measured
	Host     Host              // nil = no processes, no units
	Registry *metrics.Registry // that prints the measurements
	// Volumes are the folders whose file systems are watched, by the label of their series.
	Volumes map[string]string
	Units   int // with series of their own
	Log     *slog.Logger
	Now     func() time.Time // nil = time.Now
}

// Meter measures until it is closed. Its methods are safe for concurrent use.
type Meter struct {
	o         Options
	machine   *machine
	processes *processes
	units     *units
	devices   *devices

	text   atomic.Pointer[[]byte] // of the last measurement
	paused atomic.Bool
	warned map[string]bool // sources that have failed
	turned time.Time       // when the bounded sets were last chosen anew
	took   time.Duration
	counts []host.UnitCounts // memory for the present ones

	stop chan struct{}
	once sync.Once
	done sync.WaitGroup
}

// chooseEvery is the time between two choices of the units with series of their own: long enough that a series which
// comes is scraped several times, and short enough to follow the traffic of a day.
const chooseEvery = time.Minute

// Start takes a first measurement, from which later ones count, and goes on until Close.
func Start(o Options) *Meter {
	if o.Now == nil {
		o.Now = time.Now
	}
	m := &Meter{
		o: o, warned: map[string]bool{}, stop: make(chan struct{}), turned: o.Now(),
		machine: newMachine(o.Volumes), processes: newProcesses(), devices: newDevices(),
	}
	if o.Every == 0 {
		return m
	}
	m.units = newUnits(o.Host.Layout(), o.Units)
	m.Measure()
	o.Registry.Collect(m.write)
	m.done.Go(m.run)
	return m
}

// Close ends the measurements and waits for the one under way.
func (m *Meter) Close() {
	if m == nil {
		return
	}
	m.once.Do(func() { close(m.stop) })
	m.done.Wait()
}

func (m *Meter) run() {
	t := time.NewTicker(m.o.Every)
	defer t.Stop()
	for {
		select {
		case <-m.stop:
			return
		case <-t.C:
			if !m.paused.Load() {
				m.Measure()
			}
		}
	}
}

// Pause has the Meter measure nothing until it is told to go on, for those who compare what runs beside it with something else.
func (m *Meter) Pause(on bool) { m.paused.Store(on) }

// Measure measures everything now. The loop calls it, and nobody else while that runs.
func (m *Meter) Measure() {
	began, now := time.Now(), m.o.Now()
	p := &printer{}
	m.note("machine", m.machine.measure(p))
	m.processes.measure(p, m.o.Host.Running())
	used, err := m.o.Host.Devices(context.Background()) // which has a limit of its own
	m.note("devices", err)
	m.devices.measure(p, used, now)
	turn := now.Sub(m.turned) >= chooseEvery
	if turn {
		m.turned = now
	}
	m.counts = m.o.Host.UnitCounts(m.counts)
	m.units.measure(p, m.counts, now, turn)
	p.add("pimoe_metrics_collect_seconds", m.took.Seconds()) // of the one before: this one is not over
	text := p.Bytes()
	m.text.Store(&text)
	m.took = time.Since(began)
}

// note logs the first failure of a source. What a system does not tell has no series.
func (m *Meter) note(source string, err error) {
	if err == nil || m.warned[source] {
		return
	}
	m.warned[source] = true
	m.o.Log.Warn("not measured", "what", source, "error", err.Error())
}

func (m *Meter) write(w io.Writer) {
	if text := m.text.Load(); text != nil {
		_, _ = w.Write(*text) // into the memory of whoever prints
	}
}

// printer collects series.
type printer struct{ bytes.Buffer }

func (p *printer) add(name string, value float64, labels ...string) {
	p.Write(metrics.AppendSeries(p.AvailableBuffer(), name, labels...))
	p.WriteByte(' ')
	p.Write(strconv.AppendFloat(p.AvailableBuffer(), value, 'g', -1, 64))
	p.WriteByte('\n')
}
