package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/evaluate"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
)

// evalFlags are the flags of eval.
type evalFlags struct {
	idsFile, textFile string
	logits            string
	routes            bool
	greedy            int
	ctx               int
	full              bool
	textsFile         string
	against           []string
}

func (a *app) eval() *cobra.Command {
	var f evalFlags
	c := &cobra.Command{
		Use:   "eval [flags]",
		Short: "Measure a model on token ids or on a text",
		Long: `Measure a model on token ids or on a text.

With --ids-file (a JSON list of lists of token ids) the output is a list with nll_mean (null for a
single id) and, with --greedy N, exactly N greedy ids of each sequence. --logits writes float32
logits.I [T,V], and with --routes also int32 routes.I.L.ids and float32 routes.I.L.weights [T,K],
I being the sequence and L the layer.

With --text-file the output is {"tokens","nll_mean","perplexity"} by llama-perplexity's rule: the
whole text is tokenised once and cut into windows of --ctx tokens, the second half of each is
scored. --full scores every token of one window instead. tokens counts the scored ones.

With --texts-file every token of every text is scored, each text by itself. --against KEY=VALUE
(repeatable) does it once more with these settings and adds that outcome and the difference of the
perplexities in percent: how a numeric class compares with another.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if err := f.check(c); err != nil {
				return err
			}
			if f.textsFile != "" {
				return a.evalTexts(c, f)
			}
			sequences, err := a.readSequences(f.idsFile)
			if err != nil {
				return err
			}
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			inst, err := a.open(c.Context(), evalConfig(cfg), true)
			if err != nil {
				return err
			}
			defer closeInto(&err, inst.Close)
			if f.idsFile != "" {
				return a.evalIDs(c.Context(), inst, sequences, f)
			}
			return a.evalText(c.Context(), inst, f)
		},
	}
	c.Flags().StringVar(&f.idsFile, "ids-file", "", "JSON `file` with a list of lists of token ids")
	c.Flags().StringVar(&f.logits, "logits", "", "write the logits to this safetensors `file`")
	c.Flags().BoolVar(&f.routes, "routes", false, "write the routes too (with --logits)")
	c.Flags().IntVar(&f.greedy, "greedy", 0, "continue every sequence greedily by `N` ids")
	c.Flags().StringVar(&f.textFile, "text-file", "", "text `file` for the perplexity")
	c.Flags().IntVar(&f.ctx, "ctx", 512, "window in `tokens` (with --text-file)")
	c.Flags().BoolVar(&f.full, "full", false, "score every token of one window (with --text-file)")
	c.Flags().StringVar(&f.textsFile, "texts-file", "", "JSON `file` with a list of texts, or with lists by name under documents")
	c.Flags().StringArrayVar(&f.against, "against", nil, "`setting` of a second run to compare with (with --texts-file); repeatable")
	modelFlags(c)
	return c
}

func (f evalFlags) check(c *cobra.Command) error {
	var wrong string
	given := 0
	for _, file := range []string{f.idsFile, f.textFile, f.textsFile} {
		if file != "" {
			given++
		}
	}
	switch set := c.Flags().Changed; {
	case given != 1:
		wrong = "want either --ids-file or --text-file or --texts-file"
	case f.textsFile != "" && (f.logits != "" || f.routes || set("greedy") || f.full || set("ctx")):
		wrong = "--texts-file goes with --against alone"
	case f.textsFile == "" && len(f.against) > 0:
		wrong = "--against goes with --texts-file"
	case f.textFile != "" && (f.logits != "" || f.routes || set("greedy")):
		wrong = "--logits, --routes and --greedy go with --ids-file"
	case f.idsFile != "" && (f.full || set("ctx")):
		wrong = "--ctx and --full go with --text-file"
	case f.routes && f.logits == "":
		wrong = "--routes needs --logits, the file that they go to"
	case f.full && set("ctx"):
		wrong = "--full has one window; --ctx has no effect with it"
	case f.greedy < 0:
		wrong = fmt.Sprintf("--greedy %d: want at least 0", f.greedy)
	default:
		return nil
	}
	return usageError{fmt.Errorf("eval: %s", wrong)}
}

// evalConfig lifts the limits that protect a server: one sequence at a time may fill the model's own context.
func evalConfig(cfg config.Config) config.Config {
	cfg.Limits.MaxSequenceLength = 16 << 20 // the model's limit is smaller and counts
	cfg.Limits.MaxConcurrentRequests = 1
	cfg.Limits.RequestTimeout = 0
	return cfg
}

func (a *app) readSequences(path string) ([][]int32, error) {
	if path == "" {
		return nil, nil
	}
	b, err := a.readInput(path)
	if err != nil {
		return nil, err
	}
	var out [][]int32
	if err := decodeJSON(b, &out); err != nil {
		return nil, fmt.Errorf("%s: want a JSON list of lists of token ids: %w", path, err)
	}
	return out, nil
}

// decodeJSON refuses unknown fields and trailing data.
func decodeJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", err, sdk.ErrInvalid)
	}
	if dec.More() {
		return fmt.Errorf("data after the JSON value: %w", sdk.ErrInvalid)
	}
	return nil
}

func (a *app) evalIDs(ctx context.Context, inst *instance.Instance, sequences [][]int32, f evalFlags) error {
	results := make([]evaluate.Sequence, 0, len(sequences))
	var tensors []weights.NamedView
	bar := progress.New(a.err, a.errTTY, "eval")
	defer bar.Done()
	for i, ids := range sequences {
		s, err := evaluate.Run(ctx, inst.Engine, i, ids, evaluate.Options{Greedy: f.greedy, Logits: f.logits != "", Routes: f.routes})
		if err != nil {
			return err
		}
		results = append(results, s)
		tensors = append(tensors, s.Tensors...)
		bar.Steps(i+1, len(sequences))
	}
	bar.Done()
	if f.logits != "" {
		if err := writeTensors(f.logits, tensors); err != nil {
			return err
		}
	}
	if a.output == "json" {
		return table.JSON(a.out, results)
	}
	rows := make([][]string, len(results))
	for i, s := range results {
		nll := "-"
		if s.NLLMean != nil {
			nll = strconv.FormatFloat(*s.NLLMean, 'f', 6, 64)
		}
		rows[i] = []string{strconv.Itoa(i), strconv.Itoa(len(sequences[i])), nll, fmt.Sprint(s.Greedy)}
	}
	return table.Write(a.out, []string{"SEQUENCE", "TOKENS", "NLL_MEAN", "GREEDY"}, rows)
}

func (a *app) evalText(ctx context.Context, inst *instance.Instance, f evalFlags) error {
	b, err := a.readInput(f.textFile)
	if err != nil {
		return err
	}
	ids := inst.Tokenizer.Encode(string(b), true)
	var t evaluate.Text
	if f.full {
		t, err = evaluate.Full(ctx, inst.Engine, ids)
	} else {
		bar := progress.New(a.err, a.errTTY, "eval")
		t, err = evaluate.Perplexity(ctx, inst.Engine, ids, f.ctx, addedBOS(inst.Tokenizer), bar.Steps)
		bar.Done()
	}
	if err != nil {
		return err
	}
	if a.output == "json" {
		return table.JSON(a.out, t)
	}
	return table.Write(a.out, []string{"TOKENS", "NLL_MEAN", "PERPLEXITY"},
		[][]string{{strconv.Itoa(t.Tokens), fmt.Sprintf("%.6f", t.NLLMean), fmt.Sprintf("%.4f", t.Perplexity)}})
}

// comparison is the JSON form of texts that two configurations have scored.
type comparison struct {
	evaluate.Text
	Against    *evaluate.Text `json:"against,omitempty"`
	Difference *float64       `json:"difference_percent,omitempty"` // of the perplexity, relative to the other's
}

// evalTexts scores texts with the configuration and, if one is given, with another.
func (a *app) evalTexts(c *cobra.Command, f evalFlags) error {
	b, err := a.readInput(f.textsFile)
	if err != nil {
		return err
	}
	texts, err := readTexts(b)
	if err != nil {
		return fmt.Errorf("%s: %w", f.textsFile, err)
	}
	var out comparison
	if out.Text, err = a.scoreTexts(c, texts); err != nil {
		return err
	}
	if len(f.against) > 0 {
		other := *a
		other.sets = slices.Concat(a.sets, f.against)
		t, err := other.scoreTexts(c, texts)
		if err != nil {
			return fmt.Errorf("against %v: %w", f.against, err)
		}
		d := 100 * (out.Perplexity/t.Perplexity - 1)
		out.Against, out.Difference = &t, &d
	}
	if a.output == "json" {
		return table.JSON(a.out, out)
	}
	rows := [][]string{{"this", strconv.Itoa(out.Tokens), fmt.Sprintf("%.6f", out.NLLMean), fmt.Sprintf("%.4f", out.Perplexity), "-"}}
	if out.Against != nil {
		rows[0][4] = fmt.Sprintf("%+.3f%%", *out.Difference)
		rows = append(rows, []string{strings.Join(f.against, " "), strconv.Itoa(out.Against.Tokens), fmt.Sprintf("%.6f", out.Against.NLLMean), fmt.Sprintf("%.4f", out.Against.Perplexity), "-"})
	}
	return table.Write(a.out, []string{"SETTINGS", "TOKENS", "NLL_MEAN", "PERPLEXITY", "DIFFERENCE"}, rows)
}

// readTexts takes a list of texts, or lists of them by name, whose order is that of the names.
func readTexts(b []byte) ([]string, error) {
	var texts []string
	if json.Unmarshal(b, &texts) == nil {
		return texts, nil
	}
	var file struct {
		Documents map[string][]string `json:"documents"`
	}
	if err := json.Unmarshal(b, &file); err != nil || len(file.Documents) == 0 {
		return nil, fmt.Errorf("want a JSON list of texts, or such lists by name under \"documents\": %w", sdk.ErrInvalid)
	}
	for _, name := range slices.Sorted(maps.Keys(file.Documents)) {
		texts = append(texts, file.Documents[name]...)
	}
	return texts, nil
}

// scoreTexts scores every token of every text but its first.
func (a *app) scoreTexts(c *cobra.Command, texts []string) (sum evaluate.Text, err error) {
	cfg, err := a.load(c, quiet)
	if err != nil {
		return sum, err
	}
	inst, err := a.open(c.Context(), evalConfig(cfg), true)
	if err != nil {
		return sum, err
	}
	defer closeInto(&err, inst.Close)
	bar := progress.New(a.err, a.errTTY, "eval")
	defer bar.Done()
	nll := 0.
	for i, text := range texts {
		t, err := evaluate.Full(c.Context(), inst.Engine, inst.Tokenizer.Encode(text, true))
		if err != nil {
			return sum, fmt.Errorf("text %d: %w", i, err)
		}
		nll += t.NLLMean * float64(t.Tokens)
		sum.Tokens += t.Tokens
		bar.Steps(i+1, len(texts))
	}
	if sum.Tokens == 0 {
		return sum, fmt.Errorf("no text: %w", sdk.ErrInvalid)
	}
	sum.NLLMean = nll / float64(sum.Tokens)
	sum.Perplexity = math.Exp(sum.NLLMean)
	return sum, nil
}

// addedBOS is the token that the tokenizer puts before every text, if it does.
func addedBOS(tok *tokenizer.Tokenizer) *int32 {
	bos, ok := tok.BOS()
	if !ok {
		return nil
	}
	if ids := tok.Encode("a", true); len(ids) > 0 && ids[0] == bos {
		return &bos
	}
	return nil
}

// writeTensors writes a safetensors file that is either whole or not there.
func writeTensors(path string, tensors []weights.NamedView) (err error) {
	partial := path + ".partial"
	f, err := os.Create(partial)
	if err != nil {
		return fmt.Errorf("write tensors: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(partial)
		}
	}()
	w := bufio.NewWriter(f)
	if err := weights.Write(w, tensors, nil); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write tensors: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write tensors: %w", err)
	}
	if err := os.Rename(partial, path); err != nil {
		return fmt.Errorf("write tensors: %w", err)
	}
	return nil
}
