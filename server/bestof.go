package server

import (
	"cmp"
	"slices"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/server/openai"
)

// This file is best_of: more continuations than are asked for, of which the most probable are the answer.

// score is how probable a continuation is: the mean of its tokens' log-probabilities under the model.
type score struct {
	sum float64
	n   int
}

func (s *score) add(t engine.Token) {
	if t.HasToken {
		s.sum += float64(t.Logprob)
		s.n++
	}
}

// mean of no token is the best: the model has ended the text at once, and nothing speaks against it.
func (s *score) mean() float64 { return s.sum / float64(max(s.n, 1)) }

// best keeps the n most probable of each prompt's choices, the most probable first, the earlier one among equals.
func (g *generation) best(choices []openai.Choice) []openai.Choice {
	n := g.want.Best
	if n == 0 {
		return choices
	}
	var out []openai.Choice
	for at := 0; at < len(choices); at += g.want.N {
		some := choices[at : at+g.want.N]
		slices.SortStableFunc(some, func(a, b openai.Choice) int {
			return cmp.Compare(g.choices[b.Index].score.mean(), g.choices[a.Index].score.mean())
		})
		for _, c := range some[:n] {
			c.Index = len(out)
			out = append(out, c)
		}
	}
	return out
}
