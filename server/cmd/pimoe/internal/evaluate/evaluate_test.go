package evaluate

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk"
)

// counter is an engine whose model expects the next number: the logit of id (x+1) mod vocab is strength, the others 0.
type counter struct {
	vocab, context int
	strength       float32
	drop           bool // leaves out the last position
	requests       []engine.Request
}

func (c *counter) Context() int { return c.context }

func (c *counter) Submit(_ context.Context, r engine.Request) (engine.Stream, error) {
	c.requests = append(c.requests, r)
	ids := slices.Clone(r.Prompt)
	s := &tokens{}
	for p := 0; ; p++ {
		if c.drop && p == len(r.Prompt)-1 {
			break
		}
		next := (ids[p] + 1) % int32(c.vocab)
		logits := make([]float32, c.vocab)
		logits[next] = c.strength
		r.Observe.Logits(p, logits)
		if r.Observe.Route != nil {
			r.Observe.Route(1, p, []int32{next, 0}, []float32{.75, .25})
		}
		if p < len(r.Prompt)-1 {
			continue
		}
		if len(s.ids) >= r.MaxTokens {
			break
		}
		ids, s.ids = append(ids, next), append(s.ids, next)
	}
	return s, nil
}

type tokens struct{ ids []int32 }

func (s *tokens) Next(context.Context) (engine.Token, error) {
	if len(s.ids) == 0 {
		return engine.Token{}, io.EOF
	}
	t := engine.Token{ID: s.ids[0], HasToken: true}
	s.ids = s.ids[1:]
	return t, nil
}
func (s *tokens) Usage() engine.Usage { return engine.Usage{} }
func (s *tokens) Close()              {}

// nll is the loss of a right and of a wrong guess.
func (c *counter) nll() (right, wrong float64) {
	z := math.Log(math.Exp(float64(c.strength)) + float64(c.vocab-1))
	return z - float64(c.strength), z
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-12*max(1, math.Abs(want)) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestRun(t *testing.T) {
	c := &counter{vocab: 8, context: 16, strength: 2}
	s, err := Run(context.Background(), c, 3, []int32{1, 2, 3, 5}, Options{Greedy: 3, Logits: true, Routes: true})
	if err != nil {
		t.Fatal(err)
	}
	right, wrong := c.nll()
	near(t, "nll", *s.NLLMean, (2*right+wrong)/3)
	if !slices.Equal(s.Greedy, []int32{6, 7, 0}) {
		t.Errorf("greedy %v", s.Greedy)
	}
	if len(s.Tensors) != 3 || s.Tensors[0].Name != "logits.3" || s.Tensors[1].Name != "routes.3.1.ids" || s.Tensors[2].Name != "routes.3.1.weights" {
		t.Fatalf("tensors %v", s.Tensors)
	}
	if sh := s.Tensors[0].Shape; !slices.Equal(sh, []int{4, 8}) || len(s.Tensors[0].Data) != 4*4*8 {
		t.Errorf("logits %v, %d bytes", sh, len(s.Tensors[0].Data))
	}
	if got := math.Float32frombits(binary.LittleEndian.Uint32(s.Tensors[0].Data[4*(8*3+6):])); got != 2 {
		t.Errorf("logit of 6 after 5 is %v", got)
	}
	if !slices.Equal(s.Tensors[1].Shape, []int{4, 2}) || binary.LittleEndian.Uint32(s.Tensors[1].Data[8*3:]) != 6 {
		t.Errorf("routes %v %v", s.Tensors[1].Shape, s.Tensors[1].Data)
	}
	if r := c.requests[0]; !r.IgnoreEOS || !r.NoReuse || r.Sampling.Temperature != 0 {
		t.Errorf("request %+v", r)
	}
}

func TestSingleIDHasNoLoss(t *testing.T) {
	c := &counter{vocab: 8, context: 16, strength: 2}
	s, err := Run(context.Background(), c, 0, []int32{1}, Options{})
	if err != nil || s.NLLMean != nil || s.Greedy != nil || s.Tensors != nil {
		t.Errorf("%+v %v", s, err)
	}
}

func TestRefusals(t *testing.T) {
	c := &counter{vocab: 8, context: 4, strength: 2}
	for name, ids := range map[string][]int32{"empty": {}, "too long": {1, 2, 3, 4, 5}} {
		if _, err := Run(context.Background(), c, 0, ids, Options{}); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Run(context.Background(), c, 0, []int32{1, 2, 3}, Options{Greedy: 2}); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("too long with its continuation: %v", err)
	}
	c.drop = true
	if _, err := Run(context.Background(), c, 0, []int32{1, 2, 3}, Options{}); !errors.Is(err, sdk.ErrInvalidOutput) {
		t.Errorf("an engine that left out a position: %v", err)
	}
}

// TestPerplexityRule: windows of 4 score their last token only (positions 3 given 0..2), as llama-perplexity does with
// first = 4/2: logits of position 2 against token 3.
func TestPerplexityRule(t *testing.T) {
	c := &counter{vocab: 100, context: 4, strength: 3}
	right, wrong := c.nll()
	text, err := Perplexity(context.Background(), c, []int32{1, 2, 3, 4, 9, 9, 9, 9, 7}, 4, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "nll", text.NLLMean, (right+wrong)/2)
	near(t, "perplexity", text.Perplexity, math.Exp((right+wrong)/2))
	if text.Tokens != 2 || len(c.requests) != 2 {
		t.Errorf("%d tokens in %d windows", text.Tokens, len(c.requests))
	}
	bos := int32(50)
	if _, err := Perplexity(context.Background(), c, []int32{1, 2, 3, 4, 5, 6, 7, 8}, 4, &bos, nil); err != nil {
		t.Fatal(err)
	}
	if got := c.requests[3].Prompt; !slices.Equal(got, []int32{50, 6, 7, 8}) {
		t.Errorf("window with BOS %v", got)
	}
	for _, bad := range []struct{ n, size int }{{7, 4}, {100, 3}, {100, 8}} {
		if _, err := Perplexity(context.Background(), c, make([]int32, bad.n), bad.size, nil, nil); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%d tokens in windows of %d: %v", bad.n, bad.size, err)
		}
	}
}

func TestFull(t *testing.T) {
	c := &counter{vocab: 10, context: 4, strength: 1}
	right, wrong := c.nll()
	text, err := Full(context.Background(), c, []int32{1, 2, 3, 9})
	if err != nil || text.Tokens != 3 {
		t.Fatal(text, err)
	}
	near(t, "nll", text.NLLMean, (2*right+wrong)/3)
	for _, n := range []int{1, 5} {
		if _, err := Full(context.Background(), c, make([]int32, n)); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%d tokens: %v", n, err)
		}
	}
}

func TestLogProb(t *testing.T) {
	if got := LogProb([]float32{1e38, 0, -1e38}, 0); got != 0 {
		t.Errorf("a certain token: %v", got)
	}
	near(t, "even", LogProb([]float32{-7, -7, -7, -7}, 2), -math.Log(4))
}
