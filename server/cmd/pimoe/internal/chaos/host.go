package chaos

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/ledger"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/load"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/program"
)

// HostReport is the outcome of Hosts.
type HostReport struct {
	Kills      int       `json:"kills"`
	InStart    int       `json:"in_start"`   // of them before the server was ready
	UnderLoad  int       `json:"under_load"` // and while it answered
	InReload   int       `json:"in_reload"`  // and while it answered and took over another configuration
	GoneMS     Quantiles `json:"gone_ms"`    // from the kill to the last of its processes
	StartMS    Quantiles `json:"start_ms"`   // from the next start to ready, of those that were let live so long
	Processes  int       `json:"left_processes"`
	Sockets    int       `json:"left_sockets"`
	Folders    int       `json:"left_folders"`
	Memfds     int       `json:"left_memfds"`
	Late       int       `json:"late"`        // kills after which a process lived longer than 100 ms
	SlowStarts int       `json:"slow_starts"` // starts of more than 2 s
	Seed       uint64    `json:"seed"`
	Replicas   int       `json:"replicas"`
	Dir        string    `json:"dir,omitempty"`
}

const (
	goneWithin  = 100 * time.Millisecond
	leftAfter   = 5 * time.Second // then a process counts as left
	readyWithin = 2 * time.Second
	// serveFor is within which time a server that serves is killed.
	serveFor = 300 * time.Millisecond
)

// Err is nil if nothing was left. Times are the machine's, so they are reported and judged by whoever knows it.
func (r HostReport) Err() error {
	if n := r.Processes + r.Sockets + r.Folders + r.Memfds; n > 0 {
		return fmt.Errorf("%d kills left %d processes, %d sockets, %d folders and %d memfds: %w", r.Kills, r.Processes, r.Sockets, r.Folders, r.Memfds, sdk.ErrInvalidOutput)
	}
	return nil
}

// Hosts kills servers with SIGKILL so many times, at moments drawn from the seed: a third of them during their start, a third
// while they answer, and a third in a reload that gives all groups new processes. After each it waits for the server's processes to
// end; after the next start it looks for what is left.
func (b *Bench) Hosts(ctx context.Context, kills int, home string) (HostReport, error) {
	h := hosts{
		Bench: b, home: home, settings: []string{fmt.Sprintf("experts.replicas=%d", b.Replicas), "home=" + home},
		rng: rand.New(rand.NewPCG(b.Seed, hostStream)), usual: time.Second, report: HostReport{Kills: kills, Seed: b.Seed, Replicas: b.Replicas},
	}
	if err := h.rehearse(ctx); err != nil {
		return h.report, err
	}
	for range kills {
		if err := h.kill(ctx); err != nil {
			return h.report, err
		}
	}
	last, err := b.serve(ctx, h.settings...)
	if err != nil {
		return h.report, err
	}
	h.look()
	h.report.GoneMS, h.report.StartMS = quantiles(h.gone), quantiles(h.starts)
	return h.report, last.Stop(stopWithin)
}

// hosts is one run of Hosts.
type hosts struct {
	*Bench
	home     string
	settings []string
	rng      *rand.Rand
	usual    time.Duration // of a start
	reload   time.Duration // that one takes
	old      remains       // of those killed since the last look

	report       HostReport
	gone, starts []float64 // ms
}

// rehearse starts a server, which imports the model, which is no part of a start, and measures what a reload takes.
func (h *hosts) rehearse(ctx context.Context) error {
	p, err := h.serve(ctx, h.settings...)
	if err != nil {
		return err
	}
	began := time.Now()
	if err = h.Spec.Alter(); err == nil {
		err = p.Reload(ctx)
	}
	h.reload = time.Since(began)
	if err != nil {
		p.Kill()
		return err
	}
	return p.Stop(stopWithin)
}

// kill starts a server and kills it.
func (h *hosts) kill(ctx context.Context) error {
	p, err := h.Spec.Start(h.settings...)
	if err != nil {
		return err
	}
	share, when := h.rng.Float64(), h.rng.IntN(3)
	if when == 0 {
		h.report.InStart++
		pause(ctx, time.Duration(share*float64(h.usual)))
	} else if err = h.ready(ctx, p); err != nil {
		p.Kill()
		return err
	}
	var reloaded chan error
	switch when {
	case 1:
		h.report.UnderLoad++
		h.busy(ctx, p, time.Duration(share*float64(serveFor)))
	case 2:
		if err := h.Spec.Alter(); err != nil {
			p.Kill()
			return err
		}
		var took time.Duration
		reloaded = make(chan error, 1)
		go func() {
			began := time.Now()
			err := p.Reload(ctx)
			took = time.Since(began)
			reloaded <- err
		}()
		h.busy(ctx, p, time.Duration(share*float64(h.reload)))
		select {
		case err := <-reloaded: // sooner than the first one
			if err != nil {
				p.Kill()
				return err
			}
			h.reload, reloaded = took, nil
			h.report.UnderLoad++
		default:
			h.report.InReload++
		}
	}
	if ctx.Err() != nil {
		p.Kill()
		return ctx.Err()
	}
	took, left := killHost(p, &h.old)
	if reloaded != nil {
		<-reloaded // nobody answers it any more
	}
	h.gone = append(h.gone, ms(took))
	h.report.Processes += left
	if took > goneWithin {
		h.report.Late++
	}
	return nil
}

// ready waits until a server is, and looks for what those before it have left.
func (h *hosts) ready(ctx context.Context, p *program.Server) error {
	took, err := readyOf(ctx, p)
	if err != nil {
		return err
	}
	h.usual = took
	h.starts = append(h.starts, ms(took))
	if took > readyWithin {
		h.report.SlowStarts++
	}
	h.look()
	return nil
}

// hostStream keeps its draws apart from those of faults and questions.
const hostStream = 1 << 35

func readyOf(ctx context.Context, p *program.Server) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	return p.Ready(ctx)
}

// remains are what killed servers had, and what the next one should have cleaned up.
type remains struct {
	servers []int
	memfds  map[string]bool
}

// killHost kills a server and returns how long its processes outlived it, and how many still do.
func killHost(p *program.Server, old *remains) (took time.Duration, left int) {
	if old.memfds == nil {
		old.memfds = map[string]bool{}
	}
	for id := range program.Memfds(p.PID) {
		old.memfds[id] = true
	}
	old.servers = append(old.servers, p.PID)
	began := time.Now()
	p.Kill()
	for {
		n := len(p.Members())
		if took = time.Since(began); n == 0 || took > leftAfter {
			return took, n
		}
		time.Sleep(time.Millisecond)
	}
}

// look counts what is left of killed servers after a start.
func (h *hosts) look() {
	for _, pid := range h.old.servers {
		dirs, _ := filepath.Glob(filepath.Join(h.home, "run", fmt.Sprintf("h%d-*", pid)))
		h.report.Folders += len(dirs)
		for _, dir := range dirs {
			h.report.Sockets += program.Sockets(dir)
		}
	}
	if len(h.old.memfds) > 0 {
		h.report.Memfds += program.Holders(h.old.memfds)
	}
	h.old = remains{}
}

// busy has a server answer for some time. What it answers is cut off and of no interest.
func (b *Bench) busy(ctx context.Context, p *program.Server, d time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := p.Status(ctx)
	if err != nil {
		return // it is killed in a moment anyway
	}
	c := b.client(p, s.Model)
	defer c.HTTP.CloseIdleConnections()
	l := load.Begin(ctx, c, load.Questions(b.Seed, 8), b.Clients, b.Seed, b.Timeout, ledger.NewPen(io.Discard))
	pause(ctx, d)
	cancel()
	l.End()
}
