package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/profile"
	"github.com/pimoe/pimoe/core/weights/embedded"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/evaluate"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
)

// draws is how often experts are chosen at random for one row of the curve, and curveSeed makes the choices the same each
// time.
const (
	draws     = 3
	curveSeed = 1
)

// profileFlags are the flags of experts profile.
type profileFlags struct {
	textsFile string
	curve     bool
	without   string
}

func (a *app) profile() *cobra.Command {
	var f profileFlags
	c := &cobra.Command{
		Use:   "profile [flags]",
		Short: "Measure what each expert contributes, and what its loss would cost",
		Long: `Measure what each expert contributes, and what its loss would cost.

The experts' gate mass, mass x norm of the output, and largest outputs over the texts go into a file
beside the model in the store. A server whose policy may drop or replace experts reads it at its
start and never does that to a critical one.

--curve then switches experts off in all layers, the others taking their weight (policy renormalise
without its limits), and prints the perplexity by number and kind of the lost ones; --without 3,5
does it for these. REFUSED is the share of tokens that the default limits of the policy refuse.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			lost, err := expertList(f.without)
			if err != nil {
				return err
			}
			texts, err := a.profileTexts(f.textsFile)
			if err != nil {
				return err
			}
			return a.runProfile(c, texts, f.curve, lost)
		},
	}
	c.Flags().StringVar(&f.textsFile, "texts-file", "", "JSON `file` with texts, as for eval; default: texts that the embedded model was not trained on")
	c.Flags().BoolVar(&f.curve, "curve", false, "measure the perplexity with experts switched off")
	c.Flags().StringVar(&f.without, "without", "", "measure the perplexity without these `experts`, such as 3,5")
	modelFlags(c)
	return c
}

// expertList reads numbers with commas between them.
func expertList(text string) ([]int, error) {
	var out []int
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 0 {
			return nil, usageError{fmt.Errorf("--without %q: want numbers of experts, such as 3,5", text)}
		}
		out = append(out, n)
	}
	return out, nil
}

func (a *app) profileTexts(path string) ([]string, error) {
	if path == "" {
		return readTexts(embedded.HeldOut)
	}
	b, err := a.readInput(path)
	if err != nil {
		return nil, err
	}
	texts, err := readTexts(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return texts, nil
}

// lossBench is a model whose experts can be switched off, each in all layers at once.
type lossBench struct {
	inst     *instance.Instance
	texts    [][]int32
	switches map[int]*moe.Switch // by expert
	seen     func(layer, e int, weight float32, y []float32)
}

// openLossBench opens the model in this process, with a group for each expert and a policy without limits.
func (a *app) openLossBench(c *cobra.Command, texts []string) (*lossBench, error) {
	cfg, err := a.load(c, quiet)
	if err != nil {
		return nil, err
	}
	cfg = evalConfig(cfg)
	cfg.Experts.Isolation, cfg.Experts.Group, cfg.Experts.Overrides, cfg.Experts.MaxProcesses = "inproc", "expert", nil, math.MaxInt
	cfg.Policy, cfg.Degraded = moe.Renormalise.String(), config.Degraded{MaxDroppedMass: 1}
	b := &lossBench{switches: map[int]*moe.Switch{}}
	b.inst, err = instance.Open(c.Context(), instance.Options{
		Config: cfg, Log: a.logger(cfg), Builtin: builtin(), NoPrefixReuse: true,
		Watch: func(layer, e int, weight float32, y []float32) {
			if b.seen != nil {
				b.seen(layer, e, weight, y)
			}
		},
		Wrap: func(p config.GroupPlan, g moe.Group) moe.Group {
			s := &moe.Switch{Group: g}
			b.switches[p.Units[0].Expert] = s
			return s
		},
	})
	if err != nil {
		return nil, err
	}
	for i, text := range texts {
		ids := b.inst.Tokenizer.Encode(text, true)
		if len(ids) < 2 || len(ids) > b.inst.Engine.Context() {
			return nil, cmp.Or(b.inst.Close(), fmt.Errorf("text %d has %d tokens: want 2 to %d: %w", i, len(ids), b.inst.Engine.Context(), sdk.ErrInvalid))
		}
		b.texts = append(b.texts, ids)
	}
	return b, nil
}

// Submit lets the requests of a measurement be answered without experts.
func (b *lossBench) Submit(ctx context.Context, r engine.Request) (engine.Stream, error) {
	r.Accept = moe.AcceptAny
	return b.inst.Engine.Submit(ctx, r)
}

// Context implements evaluate.Engine.
func (b *lossBench) Context() int { return b.inst.Engine.Context() }

// perplexity scores every token of every text but its first, without some experts.
func (b *lossBench) perplexity(ctx context.Context, lost []int) (evaluate.Text, error) {
	for _, e := range lost {
		if b.switches[e] == nil {
			return evaluate.Text{}, fmt.Errorf("expert %d: the model has %d experts: %w", e, len(b.switches), sdk.ErrInvalid)
		}
		b.switches[e].Off(true)
		defer b.switches[e].Off(false)
	}
	var sum evaluate.Text
	nll := 0.
	for i, ids := range b.texts {
		t, err := evaluate.Full(ctx, b, ids)
		if err != nil {
			return sum, fmt.Errorf("text %d: %w", i, err)
		}
		nll += t.NLLMean * float64(t.Tokens)
		sum.Tokens += t.Tokens
	}
	sum.NLLMean = nll / float64(sum.Tokens)
	sum.Perplexity = math.Exp(sum.NLLMean)
	return sum, nil
}

// routed are the routes of all tokens: by layer, k experts and weights a token.
type routed struct {
	k       int
	experts map[int][]int
	weights map[int][]float32
}

// refused is the share of tokens that policy renormalise refuses, with its default limits, while some experts are lost.
func (r *routed) refused(lost []int) float64 {
	bad, tokens := map[int]bool{}, 0
	for layer, ids := range r.experts {
		tokens = len(ids) / r.k
		for t := range tokens {
			var all, gone float64
			left := 0
			for i := t * r.k; i < (t+1)*r.k; i++ {
				w := float64(r.weights[layer][i])
				all += w
				if slices.Contains(lost, ids[i]) {
					gone += w
				} else {
					left++
				}
			}
			if gone > moe.DefaultMaxDroppedMass*all || left < moe.DefaultMinExperts {
				bad[t] = true
			}
		}
	}
	return float64(len(bad)) / float64(max(tokens, 1))
}

// curveRow is the outcome of losing some experts; of random ones the mean over several choices.
type curveRow struct {
	Kind       string  `json:"kind"`
	Lost       int     `json:"lost"`
	Experts    [][]int `json:"experts"`
	NLLMean    float64 `json:"nll_mean"`
	Perplexity float64 `json:"perplexity"`
	Difference float64 `json:"difference_percent"` // to the whole model
	Refused    float64 `json:"refused"`
}

// profiled is the JSON form of the command's output.
type profiled struct {
	Path    string           `json:"path"`
	Tokens  int              `json:"tokens"`
	Experts []profile.Judged `json:"experts"`
	Curve   []curveRow       `json:"curve,omitempty"`
}

func (a *app) runProfile(c *cobra.Command, texts []string, curve bool, lost []int) (err error) {
	ctx := c.Context()
	b, err := a.openLossBench(c, texts)
	if err != nil {
		return err
	}
	defer closeInto(&err, b.inst.Close)
	rec := profile.NewRecorder(b.inst.Model.SparseLayers(), b.inst.Model.Experts)
	routes := &routed{k: b.inst.Model.TopK, experts: map[int][]int{}, weights: map[int][]float32{}}
	b.seen = func(layer, e int, weight float32, y []float32) {
		rec.Add(layer, e, weight, y)
		routes.experts[layer], routes.weights[layer] = append(routes.experts[layer], e), append(routes.weights[layer], weight)
	}
	whole, err := b.perplexity(ctx, nil)
	if err != nil {
		return err
	}
	b.seen = nil // no step is under way
	stored, err := instance.OpenModel(ctx, b.inst.Config, nil)
	if err != nil {
		return err
	}
	p := rec.Profile(b.inst.Digest, whole.Tokens)
	if err := p.Write(stored.Profile()); err != nil {
		return err
	}
	out := profiled{Path: stored.Profile(), Tokens: whole.Tokens, Experts: p.Judge()}
	if curve || len(lost) > 0 {
		out.Curve = append(out.Curve, curveRow{Kind: "none", NLLMean: whole.NLLMean, Perplexity: whole.Perplexity})
	}
	var plan []curveRow
	if curve {
		plan = losses(out.Experts, b.inst.Model.Experts)
	}
	if len(lost) > 0 {
		plan = append(plan, curveRow{Kind: "given", Lost: len(lost), Experts: [][]int{lost}})
	}
	bar := progress.New(a.err, a.errTTY, "curve")
	defer bar.Done()
	for i, row := range plan {
		for _, set := range row.Experts {
			t, err := b.perplexity(ctx, set)
			if err != nil {
				return err
			}
			row.NLLMean += t.NLLMean / float64(len(row.Experts))
			row.Refused += routes.refused(set) / float64(len(row.Experts))
		}
		row.Perplexity = math.Exp(row.NLLMean)
		row.Difference = 100 * (row.Perplexity/whole.Perplexity - 1)
		out.Curve = append(out.Curve, row)
		bar.Steps(i+1, len(plan))
	}
	bar.Done()
	return a.printProfile(out)
}

// losses says which experts the curve switches off: of the most and the least used ones by what they contribute in all
// layers, of random ones, and those with a critical unit; up to half of all.
func losses(units []profile.Judged, experts int) []curveRow {
	share := make([]float64, experts)
	var order, critical []int
	for e := range experts {
		order = append(order, e)
	}
	for _, u := range units {
		share[u.Expert] += u.Share
		if u.Critical && !slices.Contains(critical, u.Expert) {
			critical = append(critical, u.Expert)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(share[a], share[b]) })
	rng := rand.New(rand.NewPCG(curveSeed, 0))
	var out []curveRow
	for n := 1; n <= experts/2; n *= 2 {
		random := curveRow{Kind: "random", Lost: n}
		for range draws {
			random.Experts = append(random.Experts, rng.Perm(experts)[:n])
		}
		out = append(out,
			curveRow{Kind: "least used", Lost: n, Experts: [][]int{order[:n]}}, random,
			curveRow{Kind: "most used", Lost: n, Experts: [][]int{order[experts-n:]}})
	}
	if len(critical) > 0 {
		out = append(out, curveRow{Kind: "critical", Lost: len(critical), Experts: [][]int{critical}})
	}
	return out
}

func (a *app) printProfile(p profiled) error {
	if a.output == "json" {
		return table.JSON(a.out, p)
	}
	var rows [][]string
	for _, u := range p.Experts {
		word := ""
		if u.Critical {
			word = "critical"
		}
		rows = append(rows, []string{strconv.Itoa(u.Layer), strconv.Itoa(u.Expert), strconv.Itoa(u.Rows), fmt.Sprintf("%.1f", u.Mass),
			fmt.Sprintf("%.1f%%", 100*u.Share), fmt.Sprintf("%.2f", u.Peak), fmt.Sprintf("%.1f", u.Outlier), word})
	}
	if err := table.Write(a.out, []string{"LAYER", "EXPERT", "TOKENS", "GATE MASS", "SHARE", "PEAK", "OUTLIER", ""}, rows); err != nil {
		return err
	}
	if len(p.Curve) > 0 {
		fmt.Fprintln(a.out)
		rows = nil
		for _, r := range p.Curve {
			rows = append(rows, []string{r.Kind, strconv.Itoa(r.Lost), strings.Trim(strings.ReplaceAll(fmt.Sprint(r.Experts), "] [", " | "), "[]"), fmt.Sprintf("%.4f", r.Perplexity),
				fmt.Sprintf("%+.1f%%", r.Difference), fmt.Sprintf("%.0f%%", 100*r.Refused)})
		}
		if err := table.Write(a.out, []string{"LOST", "EXPERTS", "WHICH", "PERPLEXITY", "DIFFERENCE", "REFUSED"}, rows); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(a.out, "\n%d tokens; written to %s\n", p.Tokens, p.Path)
	return err
}
