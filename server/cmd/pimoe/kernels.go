package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/bench"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/kernels"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
)

func (a *app) benchKernels() *cobra.Command {
	o := kernels.Options{In: 2048, Out: 1024, Many: 512}
	var memory int
	var names []string
	c := &cobra.Command{
		Use:   "kernels [flags]",
		Short: "Measure every kernel beside the machine's limits",
		Long: `Measure every kernel beside the limit that binds it, measured in the same run: the peak of the
machine's arithmetic, or the rate at which it reads a mapped file. 1, 8 and 512 rows meet weights
that are larger than the caches. linear is one matrix of an expert of OLMoE-1B-7B, [1024, 2048];
ffn is its whole block.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			for _, n := range names {
				b, err := backendNamed(n)
				if err != nil {
					return err
				}
				o.Backends = append(o.Backends, b)
			}
			o.Threads, o.Dir, o.Memory = instance.Threads(cfg), cfg.Home, memory<<20
			bar := progress.New(a.err, a.errTTY, "kernels")
			o.Progress = bar.Steps
			results, err := kernels.Run(c.Context(), o)
			bar.Done()
			if err != nil {
				return err
			}
			return a.printKernels(results)
		},
	}
	f := c.Flags()
	f.StringSliceVar(&names, "backend", []string{"cpu"}, "`backends` that this program links")
	f.DurationVar(&o.Time, "time", 200*time.Millisecond, "`time` of each measurement; the best of three counts")
	f.IntVar(&memory, "memory", 1024, "`MiB` of weights for few rows: more than the caches hold")
	f.IntVar(&o.Many, "rows", o.Many, "`rows` of the large products")
	f.IntVar(&o.In, "hidden", o.In, "`inputs` of gate and up")
	f.IntVar(&o.Out, "inner", o.Out, "`outputs` of gate and up")
	setting(f, "threads", "", "limits.threads", "`threads` besides one; 0 for all cores")
	return c
}

func (a *app) printKernels(results []kernels.Result) error {
	if a.output == "json" {
		return table.JSON(a.out, results)
	}
	m := bench.ThisMachine(version)
	fmt.Fprintf(a.out, "%s, %d cores, %s %s, %s, pimoe %s, %s\n\n", m.CPU, m.Cores, m.OS, m.Kernel, m.Go, m.Version, m.Time.Format(time.DateOnly))
	rows := make([][]string, len(results))
	for i, r := range results {
		unit, value := "GB/s", r.GBS
		if r.Limit != "read" {
			unit, value = "Gop/s", r.GFLOPS
		}
		rows[i] = []string{r.Kernel, r.Class, fmt.Sprint(r.Rows), fmt.Sprint(r.Threads), fmt.Sprintf("%.1f", r.GFLOPS), fmt.Sprintf("%.1f", r.GBS),
			fmt.Sprintf("%.1f %s of %.1f (%s)", value, unit, r.Best, r.Limit), fmt.Sprintf("%.0f%%", 100*r.Share)}
	}
	return table.Write(a.out, []string{"KERNEL", "CLASS", "ROWS", "THREADS", "GFLOP/S", "GB/S", "AGAINST", "SHARE"}, rows)
}
