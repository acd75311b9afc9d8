package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/bench"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/clients"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

// overloadRun is a server under loads that it can't bear, and what they show.
type overloadRun struct {
	options clients.Options
	length  time.Duration // of each load
	settle  time.Duration // between two loads
	strict  bool          // the bounds below count
	keys    map[string]string
	places  int // requests that run at once
	stats   func() (tokens uint64)

	Capacity float64         `json:"capacity"` // requests a second
	Stages   []overloadStage `json:"stages"`
	Beyond   []string        `json:"beyond_bounds"`
}

// overloadStage is one load.
type overloadStage struct {
	Name     string            `json:"name"`
	All      []clients.Outcome `json:"outcomes"`
	Memory   int64             `json:"memory_bytes"`  // of this process, at the end
	Probed   int               `json:"probed_tokens"` // of requests that looked whether all is as before
	Recovery time.Duration     `json:"recovery_ns"`   // from the last arrival until a request is answered as quickly as twice one alone
	Computed uint64            `json:"computed_tokens"`
}

func (a *app) benchOverload() *cobra.Command {
	var shape string
	r := &overloadRun{options: clients.Options{Model: "bench", Timeout: loadTimeout}}
	c := &cobra.Command{
		Use:   "overload [flags]",
		Short: "Measure a server that is asked for more than it can do",
		Long: `Measure a server that is asked for more than it can do, by clients that don't wait for answers: at
1, 2, 5 and 10 times the rate that it has shown to be capable of; one tenant at 50 times its share
beside nine at half of theirs; and clients that come back all at once after an outage and try five
times each. With --strict the figures must keep their bounds.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			if err := a.useShape(c.Context(), &cfg, shape); err != nil {
				return err
			}
			stop, err := r.serve(c.Context(), a, cfg)
			if err != nil {
				return err
			}
			defer closeInto(&err, stop)
			if err := r.run(c.Context()); err != nil {
				return err
			}
			err = r.judge()
			return errors.Join(a.printOverload(r), err)
		},
	}
	f := c.Flags()
	shapeFlag(c, &shape)
	f.IntVar(&r.options.Words, "words", 30, "`words` of four letters in a prompt")
	f.IntVar(&r.options.Max, "gen", 32, "`tokens` to write")
	f.DurationVar(&r.length, "for", 15*time.Second, "length of each load")
	f.DurationVar(&r.settle, "settle", 3*time.Second, "rest between two loads")
	f.BoolVar(&r.strict, "strict", false, "fail where a figure is beyond its bound")
	modelFlags(c)
	return c
}

// tenantNames are those of the loads with tenants; the first one floods.
var tenantNames = []string{"flood", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9"}

// serve serves the model with a key for each tenant.
func (r *overloadRun) serve(ctx context.Context, a *app, cfg config.Config) (stop func() error, err error) {
	dir, err := os.MkdirTemp("", "pimoe-overload-")
	if err != nil {
		return nil, err
	}
	clean := func() error { return os.RemoveAll(dir) }
	cfg.Auth.KeysFile = dir + "/keys.json"
	file := access.NewKeyFile(cfg.Auth.KeysFile, time.Now)
	r.keys = map[string]string{}
	for _, name := range tenantNames {
		if _, r.keys[name], err = file.Create(access.Template{Role: access.User, Tenant: name}); err != nil {
			return nil, errors.Join(err, clean())
		}
	}
	cfg.Server.Addr, cfg.Server.AdminAddr, cfg.Server.Alias = "127.0.0.1:0", "off", r.options.Model
	cfg.Log.Level = "error" // a line for each request would be measured, too
	r.places = cfg.Limits.MaxConcurrentRequests
	cfg.Limits.ConnectionsPerClient = 0 // all clients are this process
	inst, err := a.open(ctx, cfg, false)
	if err != nil {
		return nil, errors.Join(err, clean())
	}
	srv, err := server.New(inst, cfg, inst.Log, server.Version(version))
	if err != nil {
		return nil, errors.Join(err, inst.Close(), clean())
	}
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- srv.Run(running) }()
	r.options.URL, r.options.Key = "http://"+srv.Addr()+"/v1/completions", r.keys["t1"]
	r.stats = func() uint64 {
		s := inst.Engine.Stats()
		return s.PromptTokens + s.CompletionTokens
	}
	return func() error {
		cancel()
		return errors.Join(<-done, srv.Close(), inst.Close(), clean())
	}, nil
}

// run measures the capacity and then puts all loads on the server.
func (r *overloadRun) run(ctx context.Context) error {
	alone, err := r.measure(ctx)
	if err != nil {
		return err
	}
	for i, times := range []float64{1, 2, 5, 10} {
		if err := r.stage(ctx, overloads[i], []clients.Arrivals{{Name: "all", Rate: times * r.Capacity}}, alone); err != nil {
			return err
		}
	}
	var quiet []clients.Arrivals
	share := r.Capacity / float64(len(tenantNames))
	for _, name := range tenantNames[1:] {
		quiet = append(quiet, clients.Arrivals{Name: name, Key: r.keys[name], Rate: share / 2})
	}
	if err := r.stage(ctx, "quiet", quiet, alone); err != nil {
		return err
	}
	flood := append(slices.Clone(quiet), clients.Arrivals{Name: "flood", Key: r.keys["flood"], Rate: 50 * share})
	if err := r.stage(ctx, "flood", flood, alone); err != nil {
		return err
	}
	missed := int(0.8 * r.Capacity * min(10, r.length.Seconds())) // while the server was away
	return r.stage(ctx, "retries", []clients.Arrivals{{Name: "all", Rate: 0.8 * r.Capacity, Burst: missed, Retries: 5}}, alone)
}

// measure finds how many requests a second the server answers to clients that wait, and how long one alone takes.
func (r *overloadRun) measure(ctx context.Context) (alone time.Duration, err error) {
	o := r.options
	o.Clients, o.Requests = 1, 5
	if _, err := clients.Run(ctx, o); err != nil { // warms up
		return 0, err
	}
	began := time.Now()
	if _, err := clients.Run(ctx, o); err != nil {
		return 0, err
	}
	alone = time.Since(began) / time.Duration(o.Requests)
	o.Clients = min(32, r.places) // none of them waits in the queue, which refuses
	o.Requests = max(int(r.length/alone)/8, 2)
	began = time.Now()
	got, err := clients.Run(ctx, o)
	if err == nil && got.Failed > 0 {
		err = fmt.Errorf("%d requests failed, the first with %s: %w", got.Failed, got.FirstError, sdk.ErrUnavailable)
	}
	r.Capacity = float64(got.Requests) / time.Since(began).Seconds()
	return alone, err
}

// stage runs one load, and then asks until the server is as it was.
func (r *overloadRun) stage(ctx context.Context, name string, list []clients.Arrivals, alone time.Duration) error {
	computed := r.stats()
	r.options.Seed++
	ended := time.Now().Add(r.length)
	s := overloadStage{Name: name}
	var looking sync.WaitGroup
	looking.Go(func() { s.Recovery, s.Probed = r.recovery(ctx, ended, alone) })
	all, err := clients.Open(ctx, r.options, list, r.length)
	looking.Wait()
	s.All, s.Computed = all, r.stats()-computed
	s.Memory, _ = bench.OwnBytes(os.Getpid()) // 0 where that can't be told
	r.Stages = append(r.Stages, s)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(r.settle):
	}
	return err
}

// recovery is how long after a load's end a request is answered nearly as quickly as one alone.
func (r *overloadRun) recovery(ctx context.Context, ended time.Time, alone time.Duration) (after time.Duration, tokens int) {
	select {
	case <-ctx.Done():
		return 0, 0
	case <-time.After(time.Until(ended)):
	}
	o := r.options
	for i := 0; ctx.Err() == nil && time.Since(ended) < 4*r.length; i++ {
		o.Seed = -int64(i) - 1
		began := time.Now()
		got, err := clients.Open(ctx, o, []clients.Arrivals{{Burst: 1, Key: r.keys["t9"]}}, time.Millisecond)
		if err != nil {
			break
		}
		tokens += got[0].Tokens
		if got[0].Done == 1 && time.Since(began) < 2*alone+50*time.Millisecond {
			return began.Sub(ended), tokens
		}
	}
	return time.Since(ended), tokens
}

// stageOf is a load's outcome, that of the flood apart.
func (r *overloadRun) stageOf(name string) (overloadStage, clients.Outcome) {
	i := slices.IndexFunc(r.Stages, func(s overloadStage) bool { return s.Name == name })
	s := r.Stages[i]
	others := slices.DeleteFunc(slices.Clone(s.All), func(o clients.Outcome) bool { return o.Name == tenantNames[0] })
	return s, clients.Join("all but the flood", others)
}

// judge compares the figures with their bounds.
func (r *overloadRun) judge() error {
	var bad []error
	bound := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Errorf(format, args...))
		}
	}
	peak := 0.0
	for _, name := range overloads {
		_, o := r.stageOf(name)
		peak = max(peak, o.Goodput)
	}
	for _, s := range r.Stages {
		o := clients.Join("", s.All)
		bound(o.Failed == 0 && o.Untold == 0, "%s: %d attempts failed (%s), %d refusals without a time to come again", s.Name, o.Failed, o.FirstError, o.Untold)
		bound(o.Late == 0, "%s: %d admitted requests missed their deadline", s.Name, o.Late)
		bound(s.Recovery <= 2*time.Second, "%s: back to normal after %s, want 2 s", s.Name, s.Recovery)
	}
	one, atOne := r.stageOf("1x")
	ten, atTen := r.stageOf("10x")
	bound(atTen.Goodput >= 0.9*peak, "goodput at 10x is %.1f/s, want 90 %% of %.1f", atTen.Goodput, peak)
	bound(atTen.Answer.P99 <= 2*atOne.Answer.P99, "p99 of what is admitted at 10x is %.0f ms, at 1x %.0f", atTen.Answer.P99, atOne.Answer.P99)
	bound(atTen.Refusal.P99 < 10, "p99 of refusals at 10x is %.1f ms, want below 10", atTen.Refusal.P99)
	bound(ten.Memory <= one.Memory+one.Memory/10+16<<20, "memory at 10x is %d MiB, at 1x %d", ten.Memory>>20, one.Memory>>20)
	_, quiet := r.stageOf("quiet")
	_, beside := r.stageOf("flood")
	bound(beside.Answer.P99 <= 1.2*quiet.Answer.P99, "p99 of the quiet tenants beside a flood is %.0f ms, %.0f without it", beside.Answer.P99, quiet.Answer.P99)
	bound(beside.Refused == 0, "%d requests of quiet tenants were refused", beside.Refused)
	storm, all := r.stageOf("retries")
	bound(float64(storm.Computed) <= 1.2*float64(all.Tokens+storm.Probed), "after an outage %d tokens were computed for %d that clients got", storm.Computed, all.Tokens+storm.Probed)
	if !r.strict && len(bad) > 0 {
		r.Beyond = make([]string, len(bad))
		for i, err := range bad {
			r.Beyond[i] = err.Error()
		}
		return nil
	}
	return errors.Join(bad...)
}

// overloads are the loads of all clients alike.
var overloads = []string{"1x", "2x", "5x", "10x"}

func (a *app) printOverload(r *overloadRun) error {
	if a.output == "json" {
		return table.JSON(a.out, r)
	}
	m := bench.ThisMachine(version)
	fmt.Fprintf(a.out, "%s, %d cores, %s %s, %s, pimoe %s, %s; capacity %.1f requests/s\n\n", m.CPU, m.Cores, m.OS, m.Kernel, m.Go, m.Version, m.Time.Format(time.DateOnly), r.Capacity)
	var rows [][]string
	for _, s := range r.Stages {
		for _, o := range s.All {
			rows = append(rows, []string{s.Name, o.Name, fmt.Sprint(o.Offered), fmt.Sprint(o.Done), fmt.Sprint(o.Refused), fmt.Sprint(o.Late), fmt.Sprint(o.Failed), fmt.Sprintf("%.1f", o.Goodput),
				quantiles(o.Answer), quantiles(o.Refusal), fmt.Sprintf("%.1f", s.Recovery.Seconds()), fmt.Sprint(s.Memory >> 20)})
		}
	}
	if err := table.Write(a.out, []string{"LOAD", "CLIENT", "OFFERED", "DONE", "REFUSED", "LATE", "FAILED", "DONE/S", "ANSWER MS P50/P95/P99/MAX", "REFUSAL MS P50/P95/P99/MAX", "NORMAL AFTER S", "MIB"}, rows); err != nil {
		return err
	}
	for _, text := range r.Beyond {
		fmt.Fprintln(a.out, "beyond its bound:", text)
	}
	return nil
}
