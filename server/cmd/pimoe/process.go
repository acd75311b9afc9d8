package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/bench"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/posts"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

func (a *app) benchProcess() *cobra.Command {
	var sides []string
	o := posts.Options{}
	c := &cobra.Command{
		Use:   "process --side NAME=URL [--side NAME=binary:URL...]",
		Short: "Measure servers that run experts on hidden states, side by side",
		Long: `Measure running servers that take hidden states by POST /api/v1/process, side by side: clients send
the same rows, one request after another, and read the whole answer. Sides take turns in each round;
rates and percentiles are medians over the rounds, ratios are to the first side within a round. A side
with binary: before its URL is sent little-endian float32 instead of JSON. scripts/bench-process.sh
compares with a FastAPI service.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for _, text := range sides {
				s, err := posts.ParseSide(text)
				if err != nil {
					return err
				}
				o.Sides = append(o.Sides, s)
			}
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			o.Key = cfg.APIKey
			results, err := posts.Run(c.Context(), o)
			if err != nil {
				return err
			}
			return a.printPosts(results)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&sides, "side", nil, "`NAME=URL` of a server, or NAME=binary:URL; repeatable, ratios are to the first")
	f.IntVar(&o.Rows, "rows", 32, "`rows` of a request")
	f.IntVar(&o.Hidden, "hidden", 512, "`numbers` in a row")
	f.IntSliceVar(&o.Clients, "clients", []int{1, 8, 32}, "clients at once, one measurement each")
	f.IntVar(&o.Rounds, "rounds", 3, "measured rounds")
	f.DurationVar(&o.For, "for", 2*time.Second, "`time` of each side in a round")
	f.DurationVar(&o.Warm, "warm", 500*time.Millisecond, "`time` before it that does not count")
	if err := c.MarkFlagRequired("side"); err != nil {
		panic("pimoe: the flag side does not exist")
	}
	return c
}

func (a *app) printPosts(results []posts.Result) error {
	if a.output == "json" {
		return table.JSON(a.out, results)
	}
	m := bench.ThisMachine(version)
	fmt.Fprintf(a.out, "%s, %d cores, %s %s, %s, pimoe %s, %s\n\n", m.CPU, m.Cores, m.OS, m.Kernel, m.Go, m.Version, m.Time.Format(time.DateOnly))
	rows := make([][]string, len(results))
	for i, r := range results {
		rows[i] = []string{fmt.Sprint(r.Clients), r.Side.Name, fmt.Sprintf("%.1f", r.RPS), fmt.Sprintf("%.2f", r.P50), fmt.Sprintf("%.2f", r.P95), fmt.Sprintf("%.1fx (%.1f to %.1f)", r.Ratio, r.Low, r.High)}
	}
	return table.Write(a.out, []string{"CLIENTS", "SIDE", "REQUESTS/S", "P50 MS", "P95 MS", "AGAINST THE FIRST"}, rows)
}
