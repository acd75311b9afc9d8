// Package routers compares routing strategies on one model: what each costs in quality, how evenly it loads experts, and how
// long its own call takes. Known texts are scored by giving their tokens to the engine one after the other, many requests
// at once and more of them waiting, as in a server under load: what a strategy that follows load does then is what is
// measured.
//
// The command bench routers uses it; package bench beside it measures the throughput. It refuses texts that are beyond the
// model's context, instead of cutting them.
package routers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Engine is what the package needs of *engine.Engine.
type Engine interface {
	Submit(ctx context.Context, r engine.Request) (engine.Stream, error)
	Context() int
}

// Subject is one strategy with a model of its own.
type Subject struct {
	Engine Engine
	Router router.Router // of the same model, as the host has it
	Spec   router.Spec
	Hidden int // width of hidden states
}

// Quality is how a strategy has served texts.
type Quality struct {
	Tokens     int     `json:"tokens"`
	Perplexity float64 `json:"perplexity"`
	// Variation is the standard deviation of the experts' rows divided by their mean, and Peak the most loaded expert's
	// rows divided by it: means over the layers. An even load has 0 and 1.
	Variation float64 `json:"variation"`
	Peak      float64 `json:"peak"`
}

// Score scores every token of every text but its first, passes times one after the other.
func Score(ctx context.Context, s Subject, texts [][]int32, passes int) (Quality, error) {
	c := &census{rows: map[int][]int{}, experts: s.Spec.Experts}
	var total scored
	for range passes {
		wait, ctx := errgroup.WithContext(ctx)
		for i, ids := range texts {
			wait.Go(func() error {
				if len(ids) < 2 {
					return nil // nothing to score
				}
				if n := s.Engine.Context(); len(ids) > n {
					return fmt.Errorf("text %d: %d tokens are beyond the context of %d: %w", i, len(ids), n, sdk.ErrInvalid)
				}
				if err := score(ctx, s.Engine, i, ids, c, &total); err != nil {
					return fmt.Errorf("text %d: %w", i, err)
				}
				return nil
			})
		}
		if err := wait.Wait(); err != nil {
			return Quality{}, err
		}
	}
	if total.tokens == 0 {
		return Quality{}, fmt.Errorf("no text has two tokens: %w", sdk.ErrInvalid)
	}
	q := Quality{Tokens: total.tokens, Perplexity: math.Exp(-total.logProb / float64(total.tokens))}
	q.Variation, q.Peak = c.balance()
	return q, nil
}

// scored sums what the requests have found.
type scored struct {
	mu      sync.Mutex // guards both
	tokens  int
	logProb float64
}

func (s *scored) add(tokens int, logProb float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens += tokens
	s.logProb += logProb
}

// score is one text: its first token is the prompt, and the others are given.
func score(ctx context.Context, eng Engine, i int, ids []int32, c *census, total *scored) error {
	stream, err := eng.Submit(ctx, engine.Request{
		ID: "score-" + strconv.Itoa(i), Prompt: ids[:1], Forced: ids[1:], MaxTokens: len(ids) - 1, Logprobs: 0, IgnoreEOS: true,
		NoReuse: true, Observe: &engine.Observer{Route: c.route},
	})
	if err != nil {
		return err
	}
	defer stream.Close()
	tokens, sum := 0, 0.
	for {
		t, err := stream.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if t.HasToken {
			tokens++
			sum += float64(t.Logprob)
		}
	}
	if tokens != len(ids)-1 {
		return fmt.Errorf("the engine scored %d of %d tokens: %w", tokens, len(ids)-1, sdk.ErrInvalidOutput)
	}
	total.add(tokens, sum)
	return nil
}

// census counts the rows of each expert.
type census struct {
	experts int

	mu   sync.Mutex // guards rows
	rows map[int][]int
}

func (c *census) route(layer, _ int, ids []int32, _ []float32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.rows[layer]
	if of == nil {
		of = make([]int, c.experts)
		c.rows[layer] = of
	}
	for _, id := range ids {
		of[id]++
	}
}

// balance is Quality's Variation and Peak.
func (c *census) balance() (variation, peak float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range c.rows {
		sum := 0
		for _, n := range of {
			sum += n
		}
		mean, square := float64(sum)/float64(len(of)), 0.
		for _, n := range of {
			square += (float64(n) - mean) * (float64(n) - mean)
		}
		variation += math.Sqrt(square/float64(len(of))) / mean
		peak += float64(slices.Max(of)) / mean
	}
	return variation / float64(len(c.rows)), peak / float64(len(c.rows))
}

// hopCalls are the calls of one measurement: enough for a median of what varies by the scheduler's mood.
const hopCalls = 400

// Hop is the median time of one call of the router with so many rows, there and back, with nothing else running. It is
// asked last: a router that remembers rows remembers these.
func Hop(ctx context.Context, s Subject, rows int) (time.Duration, error) {
	rng := rand.New(rand.NewPCG(1, uint64(rows)))
	b := router.Batch{
		Layer: s.Spec.Layers[0], Logits: tensor.NewMatrix(rows, s.Spec.Experts),
		Tokens: make([]int32, rows), Positions: make([]int32, rows),
	}
	for i := range b.Logits.Data {
		b.Logits.Data[i] = float32(2 * rng.NormFloat64())
	}
	if h, ok := s.Router.(router.HiddenRouter); ok && h.WantsHidden() {
		b.Hidden = tensor.NewMatrix(rows, s.Hidden)
		for i := range b.Hidden.Data {
			b.Hidden.Data[i] = float32(rng.NormFloat64())
		}
	}
	for row := range rows {
		b.Tokens[row], b.Positions[row] = int32(row), int32(row)
	}
	routes := router.Routes{K: s.Spec.TopK, IDs: make([]int32, rows*s.Spec.TopK), Weights: make([]float32, rows*s.Spec.TopK)}
	var took []time.Duration
	for i := range hopCalls + hopCalls/10 {
		began := time.Now()
		if err := s.Router.Route(ctx, b, routes); err != nil {
			return 0, fmt.Errorf("call with %d rows: %w", rows, err)
		}
		if i >= hopCalls/10 { // the first ones wake what has fallen asleep
			took = append(took, time.Since(began))
		}
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
