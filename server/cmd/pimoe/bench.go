package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/bench"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/shapes"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

// benchFlags are the flags of bench.
type benchFlags struct {
	shape     string
	isolation string
	options   bench.Options
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

--shape measures a random model of a chosen shape instead of --model.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			isolations, err := f.isolations(cfg)
			if err != nil {
				return err
			}
			if f.shape != "" {
				if cfg.Model != "" {
					return usageError{errors.New("bench: want either --model or --shape")}
				}
				dir, err := makeShape(f.shape)
				if err != nil {
					return err
				}
				defer os.RemoveAll(dir)
				cfg.Home, cfg.Model = dir, filepath.Join(dir, f.shape)
			}
			results, err := a.runBench(c.Context(), benchConfig(cfg, f.options), isolations, f.options)
			if err != nil {
				return err
			}
			return a.printBench(results)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.shape, "shape", "", fmt.Sprintf("random model of this shape: %v", shapes.Names()))
	fl.StringVar(&f.isolation, "isolation", "", "process, inproc or both; default: as configured")
	fl.IntVar(&f.options.Prompt, "prompt", 512, "prompt `tokens` of each request")
	fl.IntVar(&f.options.Gen, "gen", 128, "new `tokens` of each request")
	fl.IntSliceVar(&f.options.Parallel, "parallel", []int{1, 8, 32}, "requests at once, one measurement each")
	fl.IntVar(&f.options.Rounds, "rounds", 3, "measured rounds; rates are their medians")
	fl.Uint64Var(&f.options.Seed, "seed", 1, "seed of the prompts")
	modelFlags(c)
	return c
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

// benchConfig makes room for the measurement, so that no limit of a server cuts it.
func benchConfig(cfg config.Config, o bench.Options) config.Config {
	most := 1
	if len(o.Parallel) > 0 {
		most = slices.Max(o.Parallel)
	}
	cfg.Limits.MaxConcurrentRequests = max(most, 1)
	cfg.Limits.MaxBatchSize = max(most, cfg.Limits.MaxBatchSize)
	cfg.Limits.MaxBatchTokens = max(cfg.Limits.MaxBatchTokens, cfg.Limits.MaxBatchSize)
	cfg.Limits.MaxSequenceLength = max(o.Prompt+o.Gen, 1)
	cfg.Limits.RequestTimeout = 0
	return cfg
}

// makeShape writes a random model below a new folder, which is the measurement's store too and which the caller
// removes. Its path is short, because sockets live below it.
func makeShape(name string) (dir string, err error) {
	shape, err := shapes.ByName(name)
	if err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp("", "pimoe-bench-"); err != nil {
		return "", fmt.Errorf("make shape: %w", err)
	}
	err = os.Mkdir(filepath.Join(dir, name), 0o700)
	if err == nil {
		err = shapes.Write(filepath.Join(dir, name), shape, 1)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("make shape %s: %w", name, err), os.RemoveAll(dir))
	}
	return dir, nil
}

// runBench opens one instance for each isolation, all at the same time, and measures them.
func (a *app) runBench(ctx context.Context, cfg config.Config, isolations []string, o bench.Options) (results []bench.Result, err error) {
	var targets []bench.Target
	for _, isolation := range isolations {
		c := cfg
		c.Experts.Isolation = isolation
		inst, err := a.open(ctx, c, true)
		if err != nil {
			return nil, fmt.Errorf("isolation %s: %w", isolation, err)
		}
		defer closeInto(&err, inst.Close)
		if n := inst.Engine.Context(); o.Prompt+o.Gen > n {
			return nil, usageError{fmt.Errorf("bench: %d + %d tokens are beyond the model's context of %d; want a smaller --prompt or --gen", o.Prompt, o.Gen, n)}
		}
		o.Vocab = inst.Model.Vocab
		targets = append(targets, bench.Target{Isolation: isolation, Engine: inst.Engine})
	}
	bar := progress.New(a.err, a.errTTY, "bench")
	defer bar.Done()
	o.Progress = bar.Steps
	return bench.Run(ctx, targets, o)
}

func (a *app) printBench(results []bench.Result) error {
	if a.output == "json" {
		return table.JSON(a.out, results)
	}
	rows := make([][]string, len(results))
	for i, r := range results {
		tax, prefillTax := "-", "-"
		if r.Tax != nil {
			tax, prefillTax = percent(*r.Tax), percent(*r.PrefillTax)
		}
		rows[i] = []string{fmt.Sprint(r.Parallel), r.Isolation, fmt.Sprintf("%.1f", r.PrefillTPS), fmt.Sprintf("%.1f", r.DecodeTPS),
			fmt.Sprintf("%.1f", r.TTFT), fmt.Sprintf("%.2f", r.ITL.P50), fmt.Sprintf("%.2f", r.ITL.P95), fmt.Sprintf("%.2f", r.ITL.P99), tax, prefillTax}
	}
	return table.Write(a.out, []string{"PARALLEL", "ISOLATION", "PREFILL TOK/S", "DECODE TOK/S", "TTFT MS", "ITL P50", "P95", "P99", "TAX", "PREFILL TAX"}, rows)
}

func percent(x float64) string { return fmt.Sprintf("%.1f%%", 100*x) }
