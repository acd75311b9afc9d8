package engine

import (
	"cmp"
	"slices"
)

// candidate is a sequence that could take part in the next step, oldest request first.
type candidate struct {
	pending int     // tokens it could compute now, at least 1; exactly 1 = it decodes, more = it reads its prompt
	served  uint64  // number of the last step it took part in; 0 = none yet
	turn    float64 // how many of its own tenant go before it, by the tenant's weight
}

// bounds limit one step.
type bounds struct {
	sequences int // most candidates in a step
	tokens    int // most tokens in a step
	chunk     int // most prompt tokens in a step that also decodes, so that a long prompt does not stall streams
	grain     int // prompts take turns rather than share a step in smaller parts than this
}

// share says how many tokens of a candidate go into the step.
type share struct {
	index  int // in the candidates
	tokens int
}

// planner chooses steps. It keeps its memory: a result is valid until the next call.
type planner struct {
	decode, prompt []int
	shares         []share
}

// plan chooses the next step: decoding rows first, then prompts. Where there are more candidates than places those
// that have waited longest go first, each tenant's first one before any tenant's second, so everybody's turn comes; one place is kept for prompts. The tokens that the
// decoding rows leave are spread evenly over the prompts, and what a short one does not need goes to the others; where
// the parts would be too small those that have waited longest share.
// The result is in the order of the candidates.
func (p *planner) plan(candidates []candidate, b bounds) []share {
	p.decode, p.prompt, p.shares = p.decode[:0], p.prompt[:0], p.shares[:0]
	for i, c := range candidates {
		if c.pending == 1 {
			p.decode = append(p.decode, i)
		} else {
			p.prompt = append(p.prompt, i)
		}
	}
	places := min(b.sequences, b.tokens)
	rows := min(len(p.decode), places)
	if rows == places && len(p.prompt) > 0 && yields(candidates, p.decode, p.prompt, places) {
		rows--
	}
	for _, i := range longestWaiting(candidates, p.decode, rows) {
		p.shares = append(p.shares, share{i, 1})
	}
	budget := b.tokens - rows
	if rows > 0 && b.chunk > 0 {
		budget = min(budget, b.chunk)
	}
	p.spread(candidates, p.turn(candidates, min(places-rows, budget), budget, b.grain), budget)
	slices.SortFunc(p.shares, func(a, b share) int { return a.index - b.index })
	return p.shares
}

// yields decides whether decoding rows that would fill the step leave one place to a prompt. They do, except in a step
// with a single place, which goes to whoever has waited longer.
func yields(candidates []candidate, decode, prompt []int, places int) bool {
	if places > 1 {
		return true
	}
	d := longestWaiting(candidates, decode, 1)[0]
	p := longestWaiting(candidates, prompt, 1)[0]
	return candidates[p].served < candidates[d].served
}

// turn is the prompts, at most n, that share a budget of tokens in parts of at least a grain: those that have waited
// longest.
func (p *planner) turn(candidates []candidate, n, budget, grain int) []int {
	byWaiting(candidates, p.prompt)
	k := 0
	for ; k < min(n, len(p.prompt)) && budget > 0; k++ {
		budget -= min(candidates[p.prompt[k]].pending, grain)
	}
	return p.prompt[:k]
}

// longestWaiting moves the n of the given candidates that come first by byWaiting to the front of ids and returns them. It leaves ids as they are when all fit.
func longestWaiting(candidates []candidate, ids []int, n int) []int {
	if len(ids) <= n {
		return ids
	}
	byWaiting(candidates, ids)
	return ids[:n]
}

// byWaiting puts those first whose turn is earliest, among them those that were served least recently, the older request first
// among equals.
func byWaiting(candidates []candidate, ids []int) {
	slices.SortFunc(ids, func(a, b int) int {
		return cmp.Or(cmp.Compare(candidates[a].turn, candidates[b].turn), cmp.Compare(candidates[a].served, candidates[b].served), a-b)
	})
}

// spread divides a budget of tokens evenly: in ascending order of need everybody takes an equal part of what is left.
func (p *planner) spread(candidates []candidate, ids []int, budget int) {
	slices.SortFunc(ids, func(a, b int) int { return cmp.Or(candidates[a].pending-candidates[b].pending, a-b) })
	for k, i := range ids {
		n := min(candidates[i].pending, budget/(len(ids)-k))
		if n > 0 {
			p.shares = append(p.shares, share{i, n})
			budget -= n
		}
	}
}
