package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/bench"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/shapes"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
)

// benchFlags are the flags of bench.
type benchFlags struct {
	shape       string
	isolation   string
	prompt, gen int
	parallel    []int
	workloads   []string
	peers       []string
	with        []string
	limits      bool
	starts      int
	idle        time.Duration
	report      string
	options     bench.Options
}

func (a *app) bench() *cobra.Command {
	var f benchFlags
	c := &cobra.Command{
		Use:   "bench [flags]",
		Short: "Measure throughput, latency and the isolation tax",
		Long: `Measure throughput, latency and the isolation tax. Prompts are random and all different, prefix
reuse is off, a warm-up is left out. With --isolation both, processes and direct calls take turns
within one run and the tax is 1 - process/inproc of the tokens per second while all requests
decode (prefill_tax: of the prompt tokens per second).

--shape measures a random model of a chosen shape instead of --model. --workload replaces --prompt,
--gen and --parallel by named measurements: prefill (512 tokens), decode (128 written by one
request), batch8 and batch32 (32 + 32 tokens each), layerROWS (one layer's router and experts) or
REQUESTSxPROMPT+WRITTEN. --peer names a command that measures another program; it runs in every
round and prints a JSON line such as {"name":"llama.cpp","prefill_tps":280,"decode_tps":45,
"decode_tps_8":71,"decode_tps_32":116,"bytes_per_weight":1.0625}; fields may be missing.
--with adds a side with other settings, such as "experts.replicas=2 experts.recheck_one_in=100", and
compares it, round by round, with the first side.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			isolations, err := f.isolations(cfg)
			if err != nil {
				return err
			}
			if f.options.Workloads, err = f.list(c); err != nil {
				return err
			}
			for _, p := range f.peers {
				f.options.Peers = append(f.options.Peers, bench.Peer{Command: p})
			}
			if err := a.useShape(c.Context(), &cfg, f.shape); err != nil {
				return err
			}
			sides := make([]benchSide, len(isolations))
			for i, isolation := range isolations {
				sides[i] = benchSide{isolation: isolation, cfg: cfg}
			}
			for _, settings := range f.with {
				other, err := a.loadWith(c, append(slices.Clone(a.sets), strings.Fields(settings)...), quiet)
				if err != nil {
					return err
				}
				other.Model = cfg.Model // of --shape
				sides = append(sides, benchSide{isolations[0], settings, other})
			}
			report, err := a.runBench(c.Context(), sides, f)
			if err != nil {
				return err
			}
			return a.printBench(report, f.report)
		},
	}
	fl := c.Flags()
	shapeFlag(c, &f.shape)
	fl.StringVar(&f.isolation, "isolation", "", "process, inproc or both; default: as configured")
	fl.IntVar(&f.prompt, "prompt", 512, "prompt `tokens` of each request")
	fl.IntVar(&f.gen, "gen", 128, "new `tokens` of each request")
	fl.IntSliceVar(&f.parallel, "parallel", []int{1, 8, 32}, "requests at once, one measurement each")
	fl.StringSliceVar(&f.workloads, "workload", nil, "`names` of what is measured, in this order")
	fl.IntVar(&f.options.Rounds, "rounds", 3, "measured rounds; rates are their medians")
	fl.Uint64Var(&f.options.Seed, "seed", 1, "seed of the prompts")
	fl.StringArrayVar(&f.peers, "peer", nil, "`command` that measures another program once and prints a JSON line; repeatable")
	fl.StringArrayVar(&f.with, "with", nil, "a side with other `settings`, key=value separated by spaces; repeatable")
	fl.BoolVar(&f.limits, "limits", false, "measure what the machine can do at best, before and after")
	fl.IntVar(&f.starts, "starts", 0, "measure `N` starts of each side, too")
	fl.DurationVar(&f.idle, "idle", 0, "watch the idle processes for this `time` at the end")
	fl.StringVar(&f.report, "report", "", "write everything that was found to this JSON `file`")
	modelFlags(c)
	c.AddCommand(a.benchKernels(), a.benchHTTP(), a.benchConnections(), a.benchOverload(), a.benchRouters(), a.benchTable(), a.benchProcess())
	return c
}

func (a *app) benchTable() *cobra.Command {
	return &cobra.Command{
		Use: "table REPORT...", Short: "Print reports of bench --report as a Markdown table", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			reports := make([]bench.Report, len(args))
			for i, path := range args {
				b, err := a.readInput(path)
				if err != nil {
					return err
				}
				if err := decodeJSON(b, &reports[i]); err != nil {
					return fmt.Errorf("%s: want a report of bench --report: %w", path, err)
				}
			}
			return bench.Markdown(a.out, reports)
		},
	}
}

// shapeFlag adds --shape.
func shapeFlag(c *cobra.Command, shape *string) {
	c.Flags().StringVar(shape, "shape", "", fmt.Sprintf("random model of this `shape`: %s or a YAML file with its sizes", strings.Join(shapes.Names(), ", ")))
}

func (f benchFlags) isolations(cfg config.Config) ([]string, error) {
	switch f.isolation {
	case "":
		return []string{cfg.Experts.Isolation}, nil
	case bench.Process, bench.InProc:
		return []string{f.isolation}, nil
	case "both":
		return []string{bench.Process, bench.InProc}, nil
	}
	return nil, usageError{fmt.Errorf("--isolation %q: want process, inproc or both", f.isolation)}
}

// list is what the flags ask to measure.
func (f benchFlags) list(c *cobra.Command) (out []bench.Workload, err error) {
	texts := f.workloads
	for _, p := range f.parallel {
		if f.workloads == nil {
			texts = append(texts, fmt.Sprintf("%dx%d+%d", p, f.prompt, f.gen))
		}
	}
	if set := c.Flags().Changed; f.workloads != nil && (set("prompt") || set("gen") || set("parallel")) {
		return nil, usageError{errors.New("bench: want either --workload or --prompt, --gen and --parallel")}
	}
	for _, t := range texts {
		w, err := bench.ParseWorkload(t)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

// mostPrompts bounds the prompt tokens that a measurement computes in one step: llama-batched-bench's -b.
const mostPrompts = 2048

// benchConfig makes room for the measurement, so that no limit of a server cuts it. The prompts of a workload go in one
// step where they fit (behind the first one, which comes alone), so that all requests decode together.
func benchConfig(cfg config.Config, o bench.Options) config.Config {
	requests, tokens, prompts := 1, 1, 1
	for _, w := range o.Workloads {
		requests, tokens, prompts = max(requests, w.Parallel), max(tokens, w.Tokens()), max(prompts, w.Parallel*w.Prompt)
	}
	if cfg.Limits.MaxBatchTokens == config.Default().Limits.MaxBatchTokens { // nobody chose another
		cfg.Limits.MaxBatchTokens = max(cfg.Limits.MaxBatchTokens, min(prompts, mostPrompts))
	}
	cfg.Limits.MaxConcurrentRequests = requests
	cfg.Limits.MaxBatchSize = max(requests, cfg.Limits.MaxBatchSize)
	cfg.Limits.MaxBatchTokens = max(cfg.Limits.MaxBatchTokens, cfg.Limits.MaxBatchSize)
	cfg.Limits.MaxSequenceLength = tokens
	cfg.Limits.RequestTimeout = 0
	return cfg
}

// benchSide is one instance to measure.
type benchSide struct {
	isolation, settings string
	cfg                 config.Config
}

// runBench opens one instance for each side, all at the same time, and measures them.
func (a *app) runBench(ctx context.Context, sides []benchSide, f benchFlags) (report bench.Report, err error) {
	report = bench.Report{Machine: bench.ThisMachine(version), Command: strings.Join(os.Args, " ")}
	o, cfg := f.options, sides[0].cfg
	var before bench.Limits
	if f.limits {
		if before, err = limitsOf(cfg); err != nil {
			return report, err
		}
	}
	var instances []*instance.Instance
	var targets []bench.Target
	for _, s := range sides {
		c := benchConfig(s.cfg, f.options)
		c.Experts.Isolation = s.isolation
		side := bench.Side{Isolation: s.isolation, Settings: s.settings}
		for range f.starts {
			start := time.Now()
			inst, err := a.open(ctx, c, true)
			if err != nil {
				return report, fmt.Errorf("side %s %s: %w", s.isolation, s.settings, err)
			}
			side.Starts = append(side.Starts, float64(time.Since(start))/1e6)
			if err := inst.Close(); err != nil {
				return report, err
			}
		}
		inst, err := a.open(ctx, c, true)
		if err != nil {
			return report, fmt.Errorf("side %s %s: %w", s.isolation, s.settings, err)
		}
		defer closeInto(&err, inst.Close)
		for _, w := range o.Workloads {
			if n := inst.Engine.Context(); w.Tokens() > n {
				return report, usageError{fmt.Errorf("bench: %d + %d tokens are beyond the model's context of %d; want less", w.Prompt, w.Gen, n)}
			}
		}
		instances = append(instances, inst)
		targets = append(targets, bench.Target{Isolation: s.isolation, Settings: s.settings, Engine: inst.Engine, Turn: func(begins bool) { inst.Meter.Pause(!begins) }})
		report.Sides = append(report.Sides, side)
	}
	first := instances[0]
	o.Vocab, o.Hidden = first.Model.Vocab, first.Model.Hidden
	if err := describeRun(ctx, &report, first, &o); err != nil {
		return report, err
	}
	bar := progress.New(a.err, a.errTTY, "bench")
	o.Progress = func(done, total int, _ string) { bar.Steps(done, total) }
	report.Results, err = bench.Run(ctx, targets, o)
	bar.Done()
	if err != nil {
		return report, err
	}
	for i, inst := range instances {
		if err := watchSide(ctx, &report.Sides[i], inst, f.idle); err != nil {
			return report, err
		}
	}
	if f.limits {
		after, err := limitsOf(cfg)
		if err != nil {
			return report, err
		}
		report.SetLimits(before, after)
	}
	return report, nil
}

func limitsOf(cfg config.Config) (bench.Limits, error) {
	return bench.MeasureLimits(cfg.Home, instance.Threads(cfg))
}

// describeRun says what runs, and what its steps read.
func describeRun(ctx context.Context, r *bench.Report, inst *instance.Instance, o *bench.Options) error {
	stored, err := instance.OpenModel(ctx, inst.Config, nil)
	if err != nil {
		return err
	}
	experts := "-"
	if status := inst.Host.Status(); len(status) > 0 {
		experts = status[0].NumericClass
	}
	backend, err := backendNamed(inst.Config.Trunk.Backend)
	if err != nil {
		return err
	}
	trunk, err := bench.TrunkClass(stored, backend, inst.Config.Trunk.Precision)
	if err != nil {
		return err
	}
	r.Model, r.Digest, r.Classes = inst.ID, inst.Digest, []string{experts, trunk}
	o.Weights, err = bench.WeightsOf(stored, inst.Model, trunk, experts)
	return err
}

// watchSide looks at the processes of an instance that has done its work.
func watchSide(ctx context.Context, side *bench.Side, inst *instance.Instance, idle time.Duration) error {
	var experts, router []int
	for _, s := range inst.Host.Status() {
		if s.PID != 0 && s.PID != os.Getpid() { // direct calls run in this process
			experts = append(experts, s.PID)
		}
	}
	if pid := inst.Host.RouterStatus().PID; pid != 0 && pid != os.Getpid() {
		router = append(router, pid)
	}
	side.Processes = len(experts)
	slices.Sort(experts)
	return side.Watch(ctx, slices.Compact(experts), router, idle)
}

// printBench prints the results; JSON is the list of them, as scripts read it. file gets the whole report.
func (a *app) printBench(r bench.Report, file string) error {
	if file != "" {
		if err := writeJSON(file, r); err != nil {
			return err
		}
	}
	if a.output == "json" {
		return table.JSON(a.out, r.Results)
	}
	return r.Write(a.out)
}

// writeJSON writes v to a file.
func writeJSON(path string, v any) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	defer func() { err = cmp.Or(err, f.Close()) }()
	return table.JSON(f, v)
}
