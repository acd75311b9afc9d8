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

// Hosts kills servers with SIGKILL so many times, at moments drawn from the seed: half of them during their start, the
// others while they answer. After each it waits for the server's processes to end; after the next start it looks for what
// is left.
func (b *Bench) Hosts(ctx context.Context, kills int, home string) (HostReport, error) {
	rng := rand.New(rand.NewPCG(b.Seed, hostStream))
	settings := []string{fmt.Sprintf("experts.replicas=%d", b.Replicas), "home=" + home}
	r := HostReport{Kills: kills, Seed: b.Seed, Replicas: b.Replicas}
	first, err := b.serve(ctx, settings...) // imports the model, which is no part of a start
	if err != nil {
		return r, err
	}
	if err := first.Stop(stopWithin); err != nil {
		return r, err
	}
	usual, old := time.Second, remains{}
	var gone, starts []float64
	for range kills {
		p, err := b.Spec.Start(settings...)
		if err != nil {
			return r, err
		}
		share := rng.Float64()
		if rng.IntN(2) == 0 {
			r.InStart++
			pause(ctx, time.Duration(share*float64(usual)))
		} else {
			took, err := readyOf(ctx, p)
			if err != nil {
				p.Kill()
				return r, err
			}
			usual = took
			starts = append(starts, ms(took))
			if took > readyWithin {
				r.SlowStarts++
			}
			r.look(old, home)
			old = remains{}
			r.UnderLoad++
			b.busy(ctx, p, time.Duration(share*float64(serveFor)))
		}
		if ctx.Err() != nil {
			p.Kill()
			return r, ctx.Err()
		}
		took, left := killHost(p, &old)
		gone = append(gone, ms(took))
		r.Processes += left
		if took > goneWithin {
			r.Late++
		}
	}
	last, err := b.serve(ctx, settings...)
	if err != nil {
		return r, err
	}
	r.look(old, home)
	r.GoneMS, r.StartMS = quantiles(gone), quantiles(starts)
	return r, last.Stop(stopWithin)
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
func (r *HostReport) look(old remains, home string) {
	for _, pid := range old.servers {
		dirs, _ := filepath.Glob(filepath.Join(home, "run", fmt.Sprintf("h%d-*", pid)))
		r.Folders += len(dirs)
		for _, dir := range dirs {
			r.Sockets += program.Sockets(dir)
		}
	}
	if len(old.memfds) > 0 {
		r.Memfds += program.Holders(old.memfds)
	}
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
