package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/bench"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/doctor"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/routers"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
)

// routersFlags are the flags of bench routers.
type routersFlags struct {
	names     []string
	textsFile string
	texts     int
	passes    int
	rounds    int
	workload  string
	markdown  bool
}

// routerResult is what was found of one strategy.
type routerResult struct {
	Router        string `json:"router"`
	LoadDependent bool   `json:"load_dependent"`
	routers.Quality
	PrefillTPS   float64 `json:"prefill_tps"`
	DecodeTPS    float64 `json:"decode_tps"`
	Hop1         float64 `json:"hop_1_us"` // a call of one row, in microseconds
	Hop256       float64 `json:"hop_256_us"`
	Observations uint64  `json:"observations"`
}

func (a *app) benchRouters() *cobra.Command {
	var f routersFlags
	c := &cobra.Command{
		Use:   "routers [flags]",
		Short: "Compare routing strategies: quality, balance, speed",
		Long: `Compare routing strategies, each as the process that serves it, on one model:

  perplexity      of every token of every text, given one after the other, eight texts at once and
                  the others waiting, so that strategies that follow load have some
  variation, peak standard deviation and maximum of the experts' rows, divided by their mean, in the
                  mean over the layers; an even load has 0 and 1
  prefill, decode tokens per second of --workload, the strategies taking turns in each round
  hop             median time of one call of the router with 1 and with 256 rows

--routers names the strategies; default: every router in the plugin folder. router.params of the
configuration go to the one that router.plugin names.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.textsFile == "" || f.texts < 0 || f.passes < 1 || f.rounds < 1 {
				return usageError{errors.New("bench routers: want --texts-file, --texts of at least 0, --passes and --rounds of at least 1")}
			}
			w, err := bench.ParseWorkload(f.workload)
			if err != nil {
				return err
			}
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			results, err := a.compareRouters(c.Context(), cfg, w, f)
			if err != nil {
				return err
			}
			return a.printRouters(results, f.markdown)
		},
	}
	fl := c.Flags()
	fl.StringSliceVar(&f.names, "routers", nil, "`names` of the strategies; the first is what the others are compared with")
	fl.StringVar(&f.textsFile, "texts-file", "", "JSON `file` with a list of texts, or with lists by name under documents")
	fl.IntVar(&f.texts, "texts", 0, "score only the first `N` texts; 0 = all")
	fl.IntVar(&f.passes, "passes", 3, "times that the texts are scored, one after the other")
	fl.IntVar(&f.rounds, "rounds", 5, "measured rounds of the workload; rates are their medians")
	fl.StringVar(&f.workload, "workload", "batch8", "`name` of what the rates are measured with, as in bench")
	fl.BoolVar(&f.markdown, "markdown", false, "print a Markdown table")
	modelFlags(c)
	return c
}

// scoreParallel is how many texts are scored at once: as many as a small server has streams. The others wait.
const scoreParallel = 8

// compareRouters opens one instance for each strategy, all at the same time, and measures them.
func (a *app) compareRouters(ctx context.Context, cfg config.Config, w bench.Workload, f routersFlags) (results []routerResult, err error) {
	texts, err := a.someTexts(f)
	if err != nil {
		return nil, err
	}
	if f.names, err = routerNames(cfg, f.names); err != nil {
		return nil, err
	}
	cfg = benchConfig(cfg, bench.Options{Workloads: []bench.Workload{w}})
	cfg.Limits.MaxSequenceLength = 16 << 20 // the model's limit is smaller and counts
	cfg.Limits.MaxConcurrentRequests, cfg.Limits.MaxQueuedRequests = max(scoreParallel, w.Parallel), max(len(texts), 1)
	var targets []bench.Target
	var instances []*instance.Instance
	for _, name := range f.names {
		own := cfg
		own.Router.Plugin = name
		if name != cfg.Router.Plugin {
			own.Router.Params = nil // they are another router's
		}
		inst, err := a.open(ctx, own, true)
		if err != nil {
			return nil, fmt.Errorf("router %s: %w", name, err)
		}
		defer closeInto(&err, inst.Close)
		instances = append(instances, inst)
		targets = append(targets, bench.Target{Isolation: name, Engine: inst.Engine})
	}
	bar := progress.New(a.err, a.errTTY, "routers")
	defer bar.Done()
	total := 2 * len(instances)
	rates, err := bench.Run(ctx, targets, bench.Options{
		Workloads: []bench.Workload{w}, Vocab: instances[0].Model.Vocab, Rounds: f.rounds, Seed: 1,
		Progress: func(done, of int, _ string) { bar.Steps(done*len(instances)/of, total) },
	})
	if err != nil {
		return nil, err
	}
	for i, inst := range instances {
		bar.Steps(len(instances)+i, total)
		r, err := measureRouter(ctx, inst, texts, f.passes)
		if err != nil {
			return nil, fmt.Errorf("router %s: %w", f.names[i], err)
		}
		r.Router, r.PrefillTPS, r.DecodeTPS = f.names[i], rates[i].PrefillTPS, rates[i].DecodeTPS
		results = append(results, r)
	}
	return results, nil
}

// someTexts reads the texts.
func (a *app) someTexts(f routersFlags) ([]string, error) {
	b, err := a.readInput(f.textsFile)
	if err != nil {
		return nil, err
	}
	texts, err := readTexts(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.textsFile, err)
	}
	if f.texts > 0 {
		texts = texts[:min(f.texts, len(texts))]
	}
	return texts, nil
}

// routerNames are the routers asked for, or all that the plugin folder has, the checkpoint's own first.
func routerNames(cfg config.Config, asked []string) ([]string, error) {
	if len(asked) > 0 {
		return asked, nil
	}
	found, err := doctor.Plugins(cfg.Plugins.Dir)
	if err != nil {
		return nil, err
	}
	names := []string{"model"}
	for _, p := range found {
		if p.Kind == string(sdk.KindRouter) && p.Executable && p.Name != "model" {
			names = append(names, p.Name)
		}
	}
	return names, nil
}

// measureRouter is all but the rates, which are measured with the strategies in turn.
func measureRouter(ctx context.Context, inst *instance.Instance, texts []string, passes int) (r routerResult, err error) {
	s := routers.Subject{
		Engine: inst.Engine, Router: inst.Host.Router(), Hidden: inst.Model.Hidden,
		Spec: router.Spec{Layers: inst.Model.SparseLayers(), Experts: inst.Model.Experts, TopK: inst.Model.TopK},
	}
	ids := make([][]int32, len(texts))
	for i, text := range texts {
		ids[i] = inst.Tokenizer.Encode(text, true)
	}
	if r.Quality, err = routers.Score(ctx, s, ids, passes); err != nil {
		return r, err
	}
	r.Observations = inst.Host.RouterStatus().Observations
	r.LoadDependent = slices.Contains(inst.Host.RouterStatus().Capabilities, sdk.CapLoadDependent)
	for _, h := range []struct {
		rows int
		to   *float64
	}{{1, &r.Hop1}, {256, &r.Hop256}} {
		took, err := routers.Hop(ctx, s, h.rows)
		if err != nil {
			return r, err
		}
		*h.to = float64(took) / float64(time.Microsecond)
	}
	return r, nil
}

// printRouters prints what was found, the quality beside that of the first strategy.
func (a *app) printRouters(results []routerResult, markdown bool) error {
	if a.output == "json" {
		return table.JSON(a.out, results)
	}
	header := []string{"ROUTER", "LOAD-DEPENDENT", "PERPLEXITY", "AGAINST " + strings.ToUpper(results[0].Router), "VARIATION", "PEAK", "PREFILL TOK/S", "DECODE TOK/S", "HOP 1 ROW", "HOP 256 ROWS"}
	rows := make([][]string, len(results))
	for i, r := range results {
		depends := "no"
		if r.LoadDependent {
			depends = "yes"
		}
		against := "-"
		if i > 0 {
			against = fmt.Sprintf("%+.1f%%", 100*(r.Perplexity/results[0].Perplexity-1))
		}
		rows[i] = []string{
			r.Router, depends, fmt.Sprintf("%.3f", r.Perplexity), against, fmt.Sprintf("%.2f", r.Variation), fmt.Sprintf("%.2f", r.Peak),
			fmt.Sprintf("%.0f", r.PrefillTPS), fmt.Sprintf("%.0f", r.DecodeTPS), fmt.Sprintf("%.0f us", r.Hop1), fmt.Sprintf("%.0f us", r.Hop256),
		}
	}
	m := bench.ThisMachine(version)
	machine := fmt.Sprintf("%s, %d cores, %s %s, %s, %s; %d tokens scored for each", m.CPU, m.Cores, m.OS, m.Kernel, m.Go, m.Time.Format(time.DateOnly), results[0].Tokens)
	if markdown {
		return a.markdownRouters(header, rows, machine)
	}
	if err := table.Write(a.out, header, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.out, "\n%s\n", machine)
	return err
}

func (a *app) markdownRouters(header []string, rows [][]string, machine string) error {
	for i, h := range header {
		header[i] = strings.ToLower(h)
	}
	lines := []string{strings.Join(header, " | "), strings.TrimSuffix(strings.Repeat("--- | ", len(header)), " | ")}
	for _, r := range rows {
		lines = append(lines, "`"+r[0]+"` | "+strings.Join(r[1:], " | "))
	}
	for _, l := range lines {
		if _, err := fmt.Fprintf(a.out, "| %s |\n", l); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(a.out, "\nMeasured on %s.\n", machine)
	return err
}
