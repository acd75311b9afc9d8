package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/ledger"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/program"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/schedule"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

// chaosFlags are the flags of chaos and the commands below it.
type chaosFlags struct {
	seed     uint64
	replicas int
	clients  int
	timeout  time.Duration
	keep     string
}

func (a *app) chaos() *cobra.Command {
	var shared chaosFlags
	var f chaos.Faults
	rates := map[schedule.Kind]*float64{}
	c := &cobra.Command{
		Use:   "chaos [flags]",
		Short: "Hurt a server's processes under load and check every answer",
		Long: `Serve a model with a process of its own, load it, hurt its processes at random and compare every
answer byte for byte with what the same model answers without plugin processes. Rates are faults a
second. Everything is drawn from the seed.

  --kill     SIGKILL an expert process
  --stop     SIGSTOP an expert process for good
  --slow     stop an expert process for milliseconds, again and again
  --corrupt  write NaN or false headers over the answers of an expert process
  --oom      kill an expert process and refuse memory to its successor while it starts
  --router   SIGKILL the router process

--pairs N makes N pairs of faults at almost the same time instead, pair i from the seed + i.
The exit code is 1 if an answer was wrong or lost, and with two or more replicas if one failed.`,
		Example: `  pimoe chaos --kill 5 --stop 5 --router 0.5 --for 60s --load 8 --replicas 2 -o json
  pimoe chaos --pairs 100 --seed 7`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f.Rates = schedule.Rates{}
			sum := 0.0
			for kind, rate := range rates {
				f.Rates[kind] = *rate
				sum += *rate
			}
			switch {
			case (sum > 0) == (f.Pairs > 0):
				return usageError{errors.New("chaos: want rates of faults, such as --kill 5, or --pairs N")}
			case f.For <= 0 || f.Calm < 0 || f.Pairs < 0:
				return usageError{errors.New("chaos: want --for above 0, --calm and --pairs not below")}
			}
			return a.experiment(c, shared, func(b *chaos.Bench) error {
				r, err := b.Run(c.Context(), f)
				if err != nil {
					return err
				}
				if shared.keep != "" || r.Err() != nil {
					r.Dir = b.Dir
				}
				return errors.Join(a.printChaos(r), r.Err())
			})
		},
	}
	fl := c.Flags()
	for _, kind := range schedule.Kinds() {
		rates[kind] = fl.Float64(string(kind), 0, fmt.Sprintf("%s faults a second", kind))
	}
	fl.DurationVar(&f.For, "for", time.Minute, "`time` in which faults happen")
	fl.DurationVar(&f.Calm, "calm", 5*time.Second, "`time` of the same load before, without faults, to compare with")
	fl.IntVar(&f.Pairs, "pairs", 0, "pairs of faults instead of rates")
	shared.add(c)
	c.AddCommand(a.chaosHost(), a.chaosSoak(), a.chaosLedger(), a.chaosJudge())
	return c
}

func (f *chaosFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.Uint64Var(&f.seed, "seed", 1, "decides all that is random")
	fl.IntVar(&f.replicas, "replicas", 2, "processes of each expert group")
	fl.IntVar(&f.clients, "load", 8, "clients that ask at the same time")
	fl.DurationVar(&f.timeout, "request-timeout", time.Minute, "`time` after which a request without an outcome is lost")
	fl.StringVar(&f.keep, "keep", "", "new `folder` for ledger, oracle, events and logs; default: kept only if something went wrong")
	modelFlags(c)
}

func (f *chaosFlags) check() error {
	if f.replicas < 1 || f.clients < 1 || f.timeout <= 0 {
		return usageError{errors.New("chaos: want --replicas, --load and --request-timeout of at least 1")}
	}
	return program.Supported()
}

// experiment makes a bench for what the user has configured and runs something on it. Its folder stays if that fails.
func (a *app) experiment(c *cobra.Command, f chaosFlags, run func(*chaos.Bench) error) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	cfg, err := a.load(c, quiet)
	if err != nil {
		return err
	}
	cfg.Limits.ConnectionsPerClient = 0 // all clients are this process
	text, err := cfg.YAML()
	if err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	dir := f.keep
	if dir == "" {
		dir, err = os.MkdirTemp("", "pimoe-chaos-")
	} else {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("make a folder for the records: %w", err)
	}
	defer func() {
		if f.keep == "" && err == nil {
			err = os.RemoveAll(dir)
		} else if f.keep == "" {
			fmt.Fprintln(a.err, "pimoe: records are in "+dir)
		}
	}()
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(dir, "server.log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("make the server's log: %w", err)
	}
	defer closeInto(&err, log.Close)
	return run(&chaos.Bench{
		Spec: program.Spec{Executable: executable, Config: config, Log: log}, Dir: dir, Seed: f.seed, Replicas: f.replicas, Clients: f.clients,
		Timeout: f.timeout, Say: func(format string, args ...any) {
			if a.errTTY {
				fmt.Fprintf(a.err, "pimoe: "+format+"\n", args...)
			}
		},
	})
}

func (a *app) printChaos(r chaos.Report) error {
	if a.output == "json" {
		return table.JSON(a.out, r)
	}
	var rows [][]string
	for _, kind := range schedule.Kinds() {
		if r.Injected[kind]+r.Missed[kind] > 0 {
			rows = append(rows, []string{string(kind), fmt.Sprint(r.Injected[kind]), fmt.Sprint(r.Detected[kind]), fmt.Sprint(r.Missed[kind])})
		}
	}
	if err := table.Write(a.out, []string{"FAULT", "INJECTED", "REPLACED", "MISSED"}, rows); err != nil {
		return err
	}
	var causes []string
	for _, cause := range slices.Sorted(maps.Keys(r.Causes)) {
		causes = append(causes, fmt.Sprintf("%s (%d)", cause, r.Causes[cause]))
	}
	fmt.Fprintf(a.out, "\nseed %d, %d replicas, %d clients, class %s, %.0f s\n", r.Seed, r.Replicas, r.Clients, r.Class, r.Seconds)
	fmt.Fprintf(a.out, "%d requests: %d failed, %d wrong, %d lost\n", r.Requests, r.Failed, r.Wrong, r.Lost)
	fmt.Fprintf(a.out, "deaths in the server's words: %s; %d that no fault explains\n\n", strings.Join(causes, ", "), r.Unexplained)
	err := table.Write(a.out, []string{"MILLISECONDS", "COUNT", "P50", "P99", "MAX"}, [][]string{
		chaosRow("longest wait for a token at a fault", r.FailoverMS), chaosRow("the same at a calm moment", r.CalmMS),
		chaosRow("fault to notice", r.DetectedMS), chaosRow("fault to complete group", r.RecoveryMS),
	})
	for _, w := range r.Worst {
		fmt.Fprintf(a.out, "%.0f ms without a token at %s: %s\n", w.MS, w.Since.Format("15:04:05.000"), strings.Join(w.Faults, ", "))
	}
	for _, e := range r.Examples {
		fmt.Fprintln(a.out, e)
	}
	if len(r.BadSeeds) > 0 {
		fmt.Fprintf(a.out, "again with: --pairs 1 --seed N, N one of %v\n", r.BadSeeds)
	}
	return err
}

func chaosRow(name string, q chaos.Quantiles) []string {
	return []string{name, fmt.Sprint(q.Count), fmt.Sprintf("%.1f", q.P50), fmt.Sprintf("%.1f", q.P99), fmt.Sprintf("%.1f", q.Max)}
}

// chaosLedger is the process that keeps the ledger of a run.
func (a *app) chaosLedger() *cobra.Command {
	return &cobra.Command{
		Use: "ledger FILE", Short: "Append what comes on standard input to a new ledger", Args: cobra.ExactArgs(1), Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			_, err := ledger.Keep(args[0], a.in)
			return err
		},
	}
}

// chaosJudge is the process that compares a run's answers with the oracle's.
func (a *app) chaosJudge() *cobra.Command {
	return &cobra.Command{
		Use: "judge LEDGER ORACLE", Short: "Compare a ledger with an oracle's answers", Args: cobra.ExactArgs(2), Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			v, err := ledger.Judge(args[0], args[1])
			if err != nil {
				return err
			}
			return table.JSON(a.out, v)
		},
	}
}
