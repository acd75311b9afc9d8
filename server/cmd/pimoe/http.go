package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/bench"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/clients"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

// loadTimeout bounds one request of a load: on a slow machine the last of many waits for all others.
const loadTimeout = 10 * time.Minute

func (a *app) benchHTTP() *cobra.Command {
	var shape, url string
	var parallel []int
	var rounds int
	o := clients.Options{Model: "bench", Requests: 1, Timeout: loadTimeout}
	c := &cobra.Command{
		Use:   "http [flags]",
		Short: "Measure streaming clients over HTTP",
		Long: `Measure streaming clients over HTTP: all start together, each sends a prompt of its own and reads
the tokens as they come. Without --url the model is served for the time of the measurement, on a
port of its own; with it, any server with OpenAI's completions API is measured.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			o.URL, o.Key = url, cfg.APIKey
			if url == "" {
				if err := a.useShape(c.Context(), &cfg, shape); err != nil {
					return err
				}
				stop, err := a.serveBench(c.Context(), cfg, &o)
				if err != nil {
					return err
				}
				defer closeInto(&err, stop)
			}
			var results []clients.Result
			for _, o.Clients = range parallel {
				for round := range rounds + 1 {
					o.Seed = int64(round)
					r, err := clients.Run(c.Context(), o)
					if err != nil {
						return err
					}
					if round > 0 { // the first one warms up
						results = append(results, r)
					}
				}
			}
			return a.printClients(results)
		},
	}
	f := c.Flags()
	shapeFlag(c, &shape)
	f.StringVar(&url, "url", "", "completions endpoint of a running server, such as http://127.0.0.1:8080/v1/completions")
	f.StringVar(&o.Model, "name", o.Model, "`name` of the model in requests")
	f.IntSliceVar(&parallel, "parallel", []int{32}, "clients at once, one measurement each")
	f.IntVar(&o.Requests, "requests", o.Requests, "requests of each client, one after the other")
	f.IntVar(&o.Words, "words", 62, "`words` of four letters in a prompt")
	f.IntVar(&o.Max, "gen", 64, "`tokens` to write")
	f.IntVar(&rounds, "rounds", 3, "measured rounds")
	modelFlags(c)
	return c
}

// serveBench serves cfg's model on a free port and says where in o. The function it returns ends it.
func (a *app) serveBench(ctx context.Context, cfg config.Config, o *clients.Options) (stop func() error, err error) {
	cfg.Server.Addr, cfg.Server.AdminAddr, cfg.Server.Alias = "127.0.0.1:0", "off", o.Model
	cfg.Server.TLS = config.TLS{} // what is measured is on loopback
	cfg.Limits.RequestTimeout = loadTimeout
	cfg.Cache.Answers = "off" // what is measured is computed
	cfg.APIKey = rand.Text()  // the store's folder may have a file of keys, of which none is known here
	o.Key = cfg.APIKey
	inst, err := a.open(ctx, cfg, false)
	if err != nil {
		return nil, err
	}
	srv, err := server.New(inst, cfg, inst.Log, server.Version(version))
	if err != nil {
		return nil, errors.Join(err, inst.Close())
	}
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- srv.Run(running) }()
	o.URL = "http://" + srv.Addr() + "/v1/completions"
	return func() error {
		cancel()
		return errors.Join(<-done, srv.Close(), inst.Close())
	}, nil
}

func (a *app) printClients(results []clients.Result) error {
	if a.output == "json" {
		return table.JSON(a.out, results)
	}
	m := bench.ThisMachine(version)
	fmt.Fprintf(a.out, "%s, %d cores, %s %s, %s, pimoe %s, %s\n\n", m.CPU, m.Cores, m.OS, m.Kernel, m.Go, m.Version, m.Time.Format(time.DateOnly))
	rows := make([][]string, len(results))
	for i, r := range results {
		rows[i] = []string{fmt.Sprint(r.Clients), fmt.Sprint(r.Requests), fmt.Sprint(r.Failed), fmt.Sprintf("%.1f", float64(r.PromptTokens)/float64(max(r.Requests, 1))),
			fmt.Sprintf("%.1f", r.WrittenTPS), quantiles(r.TTFT), quantiles(r.Gap)}
	}
	if err := table.Write(a.out, []string{"CLIENTS", "REQUESTS", "FAILED", "PROMPT TOKENS", "WRITTEN TOK/S", "TTFT MS P50/P95/P99/MAX", "GAP MS P50/P95/P99/MAX"}, rows); err != nil {
		return err
	}
	for _, r := range results {
		if r.Failed > 0 {
			return fmt.Errorf("%d of %d requests failed, the first with: %s", r.Failed, r.Failed+r.Requests, r.FirstError)
		}
	}
	return nil
}

func quantiles(p clients.Percentiles) string {
	return fmt.Sprintf("%.1f / %.1f / %.1f / %.1f", p.P50, p.P95, p.P99, p.Max)
}
