package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/instance"
	"github.com/pimoe/pimoe/server/logging"
)

// app is one command line with its surroundings; tests make their own.
type app struct {
	in      io.Reader
	out     io.Writer
	err     io.Writer
	environ []string
	errTTY  bool // err is a terminal: progress bars and colours

	file   string        // --config
	sets   []string      // --set key=value
	output string        // --output
	recent *logging.Ring // what the log has last said; nil = nobody asks
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "pimoe",
		Short: "Run Mixture-of-Experts models with every expert in its own process",
		Long: `pimoe serves Mixture-of-Experts language models with every expert in its own process.

Settings come from flags, then PIMOE_* variables, then the YAML file named by --config or
PIMOE_CONFIG, then the defaults; "pimoe config print" shows the outcome.

Exit codes: 0 success, 1 failure, 2 wrong usage, input or configuration, 3 something named does
not exist, 4 something is not ready or not reachable, 130 interrupted.`,
		SilenceErrors: true, SilenceUsage: true, Version: version,
		Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetVersionTemplate("pimoe {{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&a.file, "config", "", "configuration `file` (YAML); default $PIMOE_CONFIG")
	f.StringArrayVar(&a.sets, "set", nil, "set any configuration key, as `key=value`; repeatable")
	f.StringVarP(&a.output, "output", "o", "table", "output `format`: table or json")
	setting(f, "home", "", "home", "store `folder` with imported models")
	setting(f, "mode", "", "mode", "preset: "+strings.Join(config.Modes(), ", "))
	setting(f, "log-level", "", "log.level", "least `level` that is logged: trace, debug, info, warn, error")
	setting(f, "log-format", "", "log.format", "log `format`: auto, console, json")
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		if a.output != "table" && a.output != "json" && (a.output != "csv" || c.Annotations[csvOutput] == "") {
			return usageError{fmt.Errorf("--output %q: want table or json", a.output)}
		}
		if err := isa.Err(); err != nil {
			return usageError{err}
		}
		return nil
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(a.serve(), a.generate(), a.chat(), a.eval(), a.tokenize(), a.bench(), a.chaos(), a.importCommand(), a.models(),
		a.plugins(), a.experts(), a.keys(), a.encryption(), a.audit(), a.alerts(), a.reload(), a.replay(), a.config(), a.deploy(), a.doctor(), a.debug(), a.report(), a.backup(), a.health(), a.version())
	wrapArgs(root)
	return root
}

// wrapArgs makes a wrong number of arguments a usage error, for a command and those below it.
func wrapArgs(c *cobra.Command) {
	check := c.Args
	if check == nil {
		check = cobra.ArbitraryArgs
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError{fmt.Errorf("%w (see: %s --help)", err, c.CommandPath())}
		}
		return nil
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// group is a command that only holds others; without one of them it is wrong usage.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		var names []string
		for _, s := range c.Commands() {
			names = append(names, s.Name())
		}
		return usageError{fmt.Errorf("%s: want one of %s", use, strings.Join(names, ", "))}
	}}
	c.AddCommand(subs...)
	return c
}

// configKey is the annotation of a flag that sets a configuration key.
const configKey = "pimoe_config_key"

// setting adds a flag whose value goes to a configuration key, where it wins over environment and file.
func setting(f *pflag.FlagSet, name, short, key, usage string) {
	f.StringP(name, short, "", usage)
	if err := f.SetAnnotation(name, configKey, []string{key}); err != nil {
		panic("pimoe: a flag that was just made does not exist")
	}
}

// modelFlags adds the flags of every command that runs a model.
func modelFlags(c *cobra.Command) {
	f := c.Flags()
	if c.Name() != "serve" { // serve takes the model as its argument
		setting(f, "model", "m", "model", "`model`: a folder or a name in the store; empty for the embedded one")
	}
	if !slices.Contains([]string{"bench", "chaos", "host", "soak"}, c.Name()) { // bench can also have both, chaos needs processes
		setting(f, "isolation", "", "experts.isolation", "process, or inproc for direct calls in this process")
	}
	setting(f, "backend", "", "experts.backend", "`backend` of the experts: cpu, ref or a plugin's name")
	setting(f, "precision", "", "experts.precision", "numeric `class` of the experts; auto follows the weights")
	setting(f, "trunk-backend", "", "trunk.backend", "`backend` of all that is no routed expert: cpu, int8, ref")
	setting(f, "trunk-precision", "", "trunk.precision", "numeric `class` of the trunk; auto follows the weights")
	if c.Name() != "chaos" { // there --router is how often it is killed; --set router.plugin chooses it
		setting(f, "router", "", "router.plugin", "router `plugin`: model, hierarchical, load-aware, adaptive, learned, attention, hash, random, round-robin or another")
	}
	setting(f, "group", "", "experts.group", "units that share a process: expert, layer or a YAML `map`")
	setting(f, "max-processes", "", "experts.max_processes", "most expert processes")
	setting(f, "transport", "", "experts.transport", "how tensors travel: auto, shm, grpc")
	setting(f, "kv-dtype", "", "kv_cache.dtype", "storage `type` of keys and values: f32, f16, bf16")
	setting(f, "threads", "", "limits.threads", "`threads` for arithmetic; 0 for all cores")
	setting(f, "max-batch-tokens", "", "limits.max_batch_tokens", "`tokens` in one step; longer prompts are chunked")
	setting(f, "plugins", "", "plugins.dir", "`folder` of the plugin executables")
	devFlag(f)
}

// devFlag adds --dev, which needs no value.
func devFlag(f *pflag.FlagSet) {
	setting(f, "dev", "", "plugins.dev", "also start plugins that are in no catalogue or that others can write")
	f.Lookup("dev").NoOptDefVal = "true"
}

// load reads the configuration; base are the command's own defaults, below everything that the user sets.
func (a *app) load(c *cobra.Command, base ...config.Setting) (config.Config, error) {
	return a.loadWith(c, a.sets, base...)
}

// loadWith is load with other values of --set.
func (a *app) loadWith(c *cobra.Command, sets []string, base ...config.Setting) (config.Config, error) {
	var flags []config.Setting
	c.Flags().Visit(func(f *pflag.Flag) {
		if key := f.Annotations[configKey]; key != nil {
			flags = append(flags, config.Setting{Key: key[0], Value: f.Value.String(), Flag: "--" + f.Name})
		}
	})
	for _, s := range sets {
		key, val, ok := strings.Cut(s, "=")
		if !ok {
			return config.Config{}, usageError{fmt.Errorf("--set %q: want key=value", s)}
		}
		flags = append(flags, config.Setting{Key: strings.TrimSpace(key), Value: val, Flag: "--set"})
	}
	cfg, warnings, err := config.Load(config.LoadOptions{File: a.file, Environ: a.environ, Base: base, Flags: flags})
	for _, w := range warnings {
		fmt.Fprintln(a.err, "pimoe: warning: "+oneLine(w))
	}
	return cfg, err
}

// quiet is the log level of commands whose output is something else than a running server.
var quiet = config.Setting{Key: "log.level", Value: "warn"}

func (a *app) logger(cfg config.Config) *slog.Logger {
	w := a.err
	if a.recent != nil {
		w = io.MultiWriter(w, a.recent)
	}
	return logging.New(w, cfg.Log, a.errTTY, a.color(), cfg.Secrets()...)
}

// color follows https://no-color.org.
func (a *app) color() bool {
	return a.errTTY && !slices.ContainsFunc(a.environ, func(e string) bool {
		v, ok := strings.CutPrefix(e, "NO_COLOR=")
		return ok && v != ""
	})
}

// open starts an instance with a progress bar for a first import. One for a measurement computes every prompt whole and,
// as nobody reads along, as fast as it can.
func (a *app) open(ctx context.Context, cfg config.Config, measured bool) (*instance.Instance, error) {
	return a.openTelling(ctx, cfg, measured, nil)
}

// openTelling is open with somebody who is told of what the host does by itself.
func (a *app) openTelling(ctx context.Context, cfg config.Config, measured bool, tell func(host.Event)) (*instance.Instance, error) {
	bar := progress.New(a.err, a.errTTY, "import "+cmp.Or(cfg.Model, "embedded model"))
	o := instance.Options{Config: cfg, Log: a.logger(cfg), Builtin: builtin(), Progress: bar.Bytes, Event: tell}
	if measured {
		o.NoPrefixReuse, o.Chunk = true, cfg.Limits.MaxBatchTokens
	}
	inst, err := instance.Open(ctx, o)
	bar.Done()
	if err != nil {
		return nil, err
	}
	for _, n := range inst.Notes {
		fmt.Fprintln(a.err, "pimoe: note: "+oneLine(n))
	}
	return inst, nil
}

// readInput reads a file, or standard input for "-".
func (a *app) readInput(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(a.in)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read input: %w", err)
	}
	return b, nil
}

// closeInto closes c and joins its error to *err.
func closeInto(err *error, c func() error) {
	if e := c(); e != nil {
		*err = errors.Join(*err, fmt.Errorf("close: %w", e))
	}
}
