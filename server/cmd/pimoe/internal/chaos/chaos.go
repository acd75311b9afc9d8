// Package chaos proves what the product promises about faults by making them: it serves a model with a program of its own,
// loads it over HTTP, hurts its processes on a schedule that a seed decides, and counts what clients and operators saw. Run
// hurts the children of a server, Hosts the server itself, Soak looks for what grows.
//
// The command chaos uses it. It refuses to judge answers: a ledger goes to a process of its own, and another one compares it
// with what a server without any plugin process answered.
package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"gonum.org/v1/gonum/stat"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/ledger"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/load"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/program"
)

// Bench is what every experiment needs.
type Bench struct {
	Spec     program.Spec
	Dir      string // for ledger, oracle and events; it exists
	Seed     uint64
	Replicas int
	Clients  int
	Timeout  time.Duration // of one request: after it, the request is lost
	Say      func(format string, args ...any)
}

const (
	// startWithin bounds a start that is not measured; a first one also imports the model.
	startWithin = 10 * time.Minute
	// stopWithin is what a server may need for its orderly end: its drain, and as much again.
	stopWithin = 60 * time.Second
	// questions are enough that most prompts are new to the cache of prefixes most of the time.
	questions = 192
)

// Quantiles of times in milliseconds; all 0 without any.
type Quantiles struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func quantiles(ms []float64) Quantiles {
	if len(ms) == 0 {
		return Quantiles{}
	}
	slices.Sort(ms)
	q := func(p float64) float64 { return round(stat.Quantile(p, stat.Empirical, ms, nil)) }
	return Quantiles{len(ms), q(.5), q(.99), round(ms[len(ms)-1])}
}

// round leaves three digits behind the point: more say nothing.
func round(x float64) float64 { return math.Round(x*1000) / 1000 }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// serve starts a server and waits until it is ready.
func (b *Bench) serve(ctx context.Context, settings ...string) (*program.Server, error) {
	p, err := b.Spec.Start(settings...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if _, err := p.Ready(ctx); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

func (b *Bench) client(p *program.Server, model string) load.Server {
	return load.Server{URL: p.URL, Model: model, HTTP: load.Client(b.Clients)}
}

// oracle writes what a server without plugin processes answers, and returns its numeric class.
func (b *Bench) oracle(ctx context.Context, qs []load.Question) (class string, err error) {
	p, err := b.serve(ctx, "experts.isolation=inproc", "experts.replicas=1")
	if err != nil {
		return "", fmt.Errorf("the oracle: %w", err)
	}
	defer func() {
		if err != nil {
			p.Kill()
			return
		}
		err = p.Stop(stopWithin)
	}()
	s, err := p.Status(ctx)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(b.path("oracle"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("the oracle: %w", err)
	}
	c := b.client(p, s.Model)
	defer c.HTTP.CloseIdleConnections()
	return s.Class, errors.Join(load.Record(ctx, c, qs, b.Clients, ledger.NewPen(f)), f.Close())
}

func (b *Bench) path(name string) string { return filepath.Join(b.Dir, name+".jsonl") }

// book is the process that keeps the ledger.
type book struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	pen *ledger.Pen
}

// openBook starts it. It gets no part in this process's end: it ends when there is nothing more to read.
func (b *Bench) openBook() (*book, error) {
	cmd := exec.Command(b.Spec.Executable, "chaos", "ledger", b.path("ledger"))
	cmd.Stderr = b.Spec.Log
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return &book{cmd, in, ledger.NewPen(in)}, nil
}

func (k *book) close() error {
	if err := errors.Join(k.pen.Err(), k.in.Close(), k.cmd.Wait()); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// judge has a process of its own compare ledger and oracle.
func (b *Bench) judge(ctx context.Context) (v ledger.Verdict, err error) {
	cmd := exec.CommandContext(ctx, b.Spec.Executable, "chaos", "judge", b.path("ledger"), b.path("oracle"))
	cmd.Stderr = b.Spec.Log
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &v)
	}
	if err != nil {
		return v, fmt.Errorf("judge: %w", err)
	}
	return v, nil
}

// faultless says what must be true of every run.
func faultless(v ledger.Verdict, replicas int) error {
	switch {
	case v.Wrong > 0 || v.Lost > 0:
		return fmt.Errorf("%d of %d answers are wrong, %d are lost: %w", v.Wrong, v.Requests, v.Lost, sdk.ErrInvalidOutput)
	case v.Failed > 0 && replicas >= 2:
		return fmt.Errorf("%d of %d requests failed, although every expert has %d replicas: %w", v.Failed, v.Requests, replicas, sdk.ErrInvalidOutput)
	}
	return nil
}
