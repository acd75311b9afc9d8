package evaluate

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk"
)

// Text is the outcome of a text.
type Text struct {
	Tokens     int     `json:"tokens"` // tokens that were scored
	NLLMean    float64 `json:"nll_mean"`
	Perplexity float64 `json:"perplexity"`
}

// window is a piece of a text: ids, of which those behind position from are scored.
type window struct {
	ids  []int32
	from int
}

// windows cuts the ids of a whole text by llama-perplexity's rule: windows of size that do not overlap, the rest left
// out, each scored from its second half on: the token at size/2+1 is the first. Where the tokenizer adds a BOS, it
// replaces the first token of every window. As there, a text needs at least two windows.
func windows(ids []int32, size int, bos *int32) ([]window, error) {
	switch {
	case size < 4:
		return nil, fmt.Errorf("windows of %d tokens: want at least 4: %w", size, sdk.ErrInvalid)
	case len(ids) < 2*size:
		return nil, fmt.Errorf("the text has %d tokens; windows of %d need at least %d (a smaller --ctx, or --full): %w",
			len(ids), size, 2*size, sdk.ErrInvalid)
	}
	var out []window
	for i := 0; i+size <= len(ids); i += size {
		w := window{ids: append([]int32(nil), ids[i:i+size]...), from: size / 2}
		if bos != nil {
			w.ids[0] = *bos
		}
		out = append(out, w)
	}
	return out, nil
}

// Perplexity scores windows of size tokens; bos is the token that the tokenizer adds in front, nil for none. progress
// may be nil.
func Perplexity(ctx context.Context, eng Engine, ids []int32, size int, bos *int32, progress func(done, total int)) (Text, error) {
	ws, err := windows(ids, size, bos)
	if err != nil {
		return Text{}, err
	}
	return score(ctx, eng, ws, progress)
}

// Full scores every token but the first in one window.
func Full(ctx context.Context, eng Engine, ids []int32) (Text, error) {
	if len(ids) < 2 {
		return Text{}, fmt.Errorf("the text has %d tokens; at least 2 are needed: %w", len(ids), sdk.ErrInvalid)
	}
	return score(ctx, eng, []window{{ids: ids}}, nil)
}

func score(ctx context.Context, eng Engine, ws []window, progress func(done, total int)) (Text, error) {
	var sum float64
	var t Text
	for i, w := range ws {
		if err := fits(eng, w.ids, 0); err != nil {
			return Text{}, fmt.Errorf("window %d: %w", i, err)
		}
		rec := &recorder{ids: w.ids, from: w.from}
		_, err := drain(ctx, eng, engine.Request{
			ID: "eval-window-" + strconv.Itoa(i), Prompt: w.ids, MaxTokens: engine.PromptOnly, IgnoreEOS: true, Logprobs: -1,
			NoReuse: true, Observe: &engine.Observer{Logits: rec.logits},
		})
		if err == nil {
			err = rec.complete(0, nil)
		}
		if err != nil {
			return Text{}, fmt.Errorf("window %d: %w", i, err)
		}
		sum += rec.sum
		t.Tokens += rec.scored
		if progress != nil {
			progress(i+1, len(ws))
		}
	}
	t.NLLMean = sum / float64(t.Tokens)
	t.Perplexity = math.Exp(t.NLLMean)
	return t, nil
}
