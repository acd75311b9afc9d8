// Package bench measures how fast engines answer: prompt and decode throughput, time to the first token, time between
// tokens, one layer of experts, and what isolation costs, which compares two engines in alternating rounds of one run.
// Other programs can take part in the rounds as peers.
//
// The bench command uses it. Prompts are random and all different, continuations greedy, nothing is reused, and a warm-up
// is left out: the first round, and in every round the first of two prompts where only a prompt is measured, as llama-bench
// does too; all else has its own prompts before what is measured. It refuses to compare figures of different runs.
package bench

import (
	"context"
	"fmt"
	"slices"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Engine is what the package needs of *engine.Engine.
type Engine interface {
	Submit(ctx context.Context, r engine.Request) (engine.Stream, error)
	Hidden(ctx context.Context, layer int, x tensor.Matrix, all bool, accept moe.Accept) (tensor.Matrix, []engine.RouteInfo, engine.Quality, error)
}

// The sides that a run compares.
const (
	Process = "process"
	InProc  = "inproc"
	Other   = "peer"
)

// Target is one engine to measure.
type Target struct {
	Isolation string
	Settings  string // what is configured otherwise than in the first target of its isolation; empty = nothing
	Engine    Engine
	// Turn, if not nil, is told when the target's turn begins and ends: what runs beside it by the clock must not weigh on the
	// others.
	Turn func(begins bool)
}

// turn begins a target's turn; the function that it returns ends it.
func (t Target) turn() (end func()) {
	if t.Turn == nil {
		return func() {}
	}
	t.Turn(true)
	return func() { t.Turn(false) }
}

// Options say what to measure.
type Options struct {
	Workloads []Workload // one Result each and target
	Vocab     int        // ids are drawn from 0..Vocab-1
	Hidden    int        // width of a layer's rows; only layer workloads need it
	Rounds    int        // measured ones; each target and peer runs once in each
	Seed      uint64
	Peers     []Peer
	Weights   Weights                            // what a step reads; zero = not known
	Progress  func(done, total int, what string) // may be nil
}

// Run measures all targets and peers, in turn within each round, so that a change of the machine's speed meets all of
// them. The targets' order turns round from one round to the next.
func Run(ctx context.Context, targets []Target, o Options) ([]Result, error) {
	if err := o.check(targets); err != nil {
		return nil, err
	}
	r := &record{options: o, targets: targets, experts: make([]float64, len(o.Workloads))}
	r.total = (o.Rounds+1)*len(o.Workloads)*len(targets) + o.Rounds*len(o.Peers)
	r.samples = make([][][]sample, len(o.Workloads))
	for i := range r.samples {
		r.samples[i] = make([][]sample, len(targets))
	}
	for round := -1; round < o.Rounds; round++ { // round -1 is the warm-up
		for i, w := range o.Workloads {
			if err := r.measure(ctx, i, w, round); err != nil {
				return nil, err
			}
		}
		if round < 0 {
			continue
		}
		row := make([]Figures, len(o.Peers))
		for i, p := range o.Peers {
			r.step(p.Command)
			var err error
			if row[i], err = p.run(ctx, o.Workloads); err != nil {
				return nil, err
			}
		}
		r.peers = append(r.peers, row)
	}
	return r.results(), nil
}

func (o Options) check(targets []Target) error {
	switch {
	case o.Rounds < 1 || o.Vocab < 1 || len(targets) == 0:
		return fmt.Errorf("bench: %d rounds of %d targets with %d ids: want at least one of each: %w", o.Rounds, len(targets), o.Vocab, sdk.ErrInvalid)
	case len(o.Workloads) == 0:
		return fmt.Errorf("bench: nothing to measure: %w", sdk.ErrInvalid)
	}
	for _, w := range o.Workloads {
		if w.Parallel < 1 || !w.Layer && (w.Prompt < 1 || w.Gen < 1) || w.Layer && o.Hidden < 1 {
			return fmt.Errorf("bench: workload %q of %d x %d+%d: want at least 1 of each: %w", w.Name, w.Parallel, w.Prompt, w.Gen, sdk.ErrInvalid)
		}
	}
	return nil
}

// record is a run under way.
type record struct {
	options     Options
	targets     []Target
	done, total int

	samples [][][]sample // by workload, target, round
	peers   [][]Figures  // by round, peer
	experts []float64    // by workload: distinct experts of a layer in one step
}

func (r *record) step(what string) {
	if r.options.Progress != nil {
		r.options.Progress(r.done, r.total, what)
	}
	r.done++
}

// measure runs one workload on every target.
func (r *record) measure(ctx context.Context, i int, w Workload, round int) error {
	order := make([]int, len(r.targets))
	for t := range order {
		order[t] = t
	}
	if round%2 != 0 {
		slices.Reverse(order)
	}
	for _, t := range order {
		r.step(w.Name + " " + r.targets[t].Isolation)
		var routes *census
		if round < 0 && t == 0 && w.Gen > 1 {
			routes = &census{seen: map[[2]int]map[int32]bool{}}
		}
		s, err := sample{}, error(nil)
		end := r.targets[t].turn()
		if w.promptOnly() && round >= 0 {
			_, err = measure(ctx, r.targets[t].Engine, w, -2-round, r.options, nil)
		}
		if err == nil {
			s, err = measure(ctx, r.targets[t].Engine, w, round, r.options, routes)
		}
		end()
		if err != nil {
			return fmt.Errorf("workload %s, %s: %w", w.Name, sideName(r.targets[t].Isolation, r.targets[t].Settings), err)
		}
		if round >= 0 {
			r.samples[i][t] = append(r.samples[i][t], s)
		}
		if routes != nil {
			r.experts[i] = routes.mean()
		}
	}
	return nil
}
