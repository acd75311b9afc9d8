//go:build !race

// The embedded model under the race detector takes minutes and races over nothing that TestInvariance does not.

package model_test

import (
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/core/tokenizer"
)

// tinyGolden is the golden.json beside the embedded model.
type tinyGolden struct {
	Prompts []struct {
		Domain string  `json:"domain"`
		Input  []int32 `json:"input_ids"`
		Greedy []int32 `json:"greedy_ids"`
		Top5   []struct {
			ID    int32   `json:"id"`
			Logit float64 `json:"logit"`
		} `json:"top5_last"`
		Routing []struct {
			Experts [][]int32   `json:"experts"`
			Weights [][]float64 `json:"weights"`
		} `json:"routing"`
	} `json:"prompts"`
	Perplexity map[string]struct {
		NLL    float64 `json:"nll"`
		Tokens int     `json:"tokens"`
	} `json:"perplexity"`
}

// TestPimoeTiny: the embedded model continues, routes and scores as transformers does.
func TestPimoeTiny(t *testing.T) {
	dir := coretest.PimoeTiny(t)
	var g tinyGolden
	coretest.ReadJSON(t, filepath.Join(dir, "golden.json"), &g)
	if len(g.Prompts) != 12 {
		t.Fatalf("%d prompts", len(g.Prompts))
	}
	r := newRig(t, dir, rigOptions{threads: 2})
	type route struct {
		ids     []int32
		weights []float32
	}
	for _, p := range g.Prompts {
		routes := map[[2]int]route{}
		span := model.Span{
			Pages: r.sequence(len(p.Input)), Tokens: p.Input, Logits: true,
			Route: func(layer, position int, ids []int32, weights []float32) {
				routes[[2]int{layer, position}] = route{slices.Clone(ids), slices.Clone(weights)}
			},
		}
		logits := r.forward(span)[0].Row(0)
		for _, top := range p.Top5 {
			if d := math.Abs(float64(logits[top.ID]) - top.Logit); d > 1e-3 {
				t.Errorf("%s: logit of %d is %g, want %g", p.Domain, top.ID, logits[top.ID], top.Logit)
			}
		}
		for l, layer := range p.Routing {
			for at, ids := range layer.Experts {
				got := routes[[2]int{l, at}]
				for i, id := range ids {
					j := slices.Index(got.ids, id)
					if j < 0 || math.Abs(float64(got.weights[j])-layer.Weights[at][i]) > 1e-4 {
						t.Fatalf("%s layer %d token %d: %v %v, want %v %v", p.Domain, l, at, got.ids, got.weights, ids, layer.Weights[at])
					}
				}
			}
		}
		if got := r.greedy(p.Input, len(p.Greedy)); !slices.Equal(got, p.Greedy) {
			t.Errorf("%s %v: greedy %v, want %v", p.Domain, p.Input, got, p.Greedy)
		}
	}
}

// TestHeldOut: the perplexity of every domain is the published one. Documents are scored several at a time, which
// changes nothing (TestInvariance) and reads the weights less often.
func TestHeldOut(t *testing.T) {
	dir := coretest.PimoeTiny(t)
	var g tinyGolden
	coretest.ReadJSON(t, filepath.Join(dir, "golden.json"), &g)
	var held struct {
		Documents map[string][]string `json:"documents"`
	}
	coretest.ReadJSON(t, filepath.Join(dir, "heldout.json"), &held)
	tok, err := tokenizer.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(held.Documents) != 5 {
		t.Fatalf("%d domains", len(held.Documents))
	}
	for domain, documents := range held.Documents {
		t.Run(domain, func(t *testing.T) {
			if slow() && domain != "chat" {
				t.Skip("too many tokens without vectors")
			}
			want := g.Perplexity[domain]
			sum, n := 0.0, 0
			for from := 0; from < len(documents); from += 4 {
				r := newRig(t, dir, rigOptions{threads: 2})
				var spans []model.Span
				for _, text := range documents[from:min(from+4, len(documents))] {
					ids := tok.Encode(text, true)
					spans = append(spans, model.Span{Pages: r.sequence(len(ids)), Tokens: ids, AllLogits: true})
				}
				for i, m := range r.forward(spans...) {
					for at, id := range spans[i].Tokens[1:] {
						sum -= sampler.LogSoftmax(m.Row(at), id)
						n++
					}
				}
			}
			if n != want.Tokens {
				t.Errorf("%d tokens, want %d", n, want.Tokens)
			}
			if nll := sum / float64(n); math.Abs(nll-want.NLL) > 1e-4 {
				t.Errorf("nll %.5f, want %.4f", nll, want.NLL)
			} else {
				t.Logf("nll %.5f, perplexity %.4f over %d tokens", nll, math.Exp(nll), n)
			}
		})
	}
}
