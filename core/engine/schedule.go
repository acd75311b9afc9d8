package engine

import "slices"

// candidate is a sequence that could take part in the next step, oldest request first.
type candidate struct {
	pending int    // tokens it could compute now, at least 1; exactly 1 = it decodes, more = it reads its prompt
	served  uint64 // number of the last step it took part in; 0 = none yet
}

// bounds limit one step.
type bounds struct {
	sequences int // most candidates in a step
	tokens    int // most tokens in a step
	chunk     int // most prompt tokens in a step that also decodes, so that a long prompt does not stall streams
}

// share says how many tokens of a candidate go into the step.
type share struct {
	index  int // in the candidates
	tokens int
}

// plan chooses the next step: decoding rows first, then prompts. Where there are more candidates than places those
// that have waited longest go first, so everybody's turn comes; one place is kept for prompts. The tokens that the
// decoding rows leave are spread evenly over the prompts, and what a short one does not need goes to the others.
// The result is in the order of the candidates.
func plan(candidates []candidate, b bounds) []share {
	var decode, prompt []int
	for i, c := range candidates {
		if c.pending == 1 {
			decode = append(decode, i)
		} else {
			prompt = append(prompt, i)
		}
	}
	places := min(b.sequences, b.tokens)
	rows := min(len(decode), places)
	if rows == places && len(prompt) > 0 && yields(candidates, decode, prompt, places) {
		rows--
	}
	shares := make([]share, 0, places)
	for _, i := range longestWaiting(candidates, decode, rows) {
		shares = append(shares, share{i, 1})
	}
	budget := b.tokens - rows
	if rows > 0 && b.chunk > 0 {
		budget = min(budget, b.chunk)
	}
	prompt = longestWaiting(candidates, prompt, min(places-rows, budget))
	shares = append(shares, spread(candidates, prompt, budget)...)
	slices.SortFunc(shares, func(a, b share) int { return a.index - b.index })
	return shares
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

// longestWaiting picks the n of the given candidates that were served least recently, the older request first among
// equals. It keeps ids when all fit.
func longestWaiting(candidates []candidate, ids []int, n int) []int {
	if len(ids) <= n {
		return ids
	}
	sorted := slices.Clone(ids)
	slices.SortStableFunc(sorted, func(a, b int) int {
		switch sa, sb := candidates[a].served, candidates[b].served; {
		case sa < sb:
			return -1
		case sa > sb:
			return 1
		}
		return 0
	})
	return sorted[:n]
}

// spread divides a budget of tokens evenly: in ascending order of need everybody takes an equal part of what is left.
func spread(candidates []candidate, ids []int, budget int) []share {
	byNeed := slices.Clone(ids)
	slices.SortStableFunc(byNeed, func(a, b int) int { return candidates[a].pending - candidates[b].pending })
	var shares []share
	for k, i := range byNeed {
		n := min(candidates[i].pending, budget/(len(byNeed)-k))
		if n > 0 {
			shares = append(shares, share{i, n})
			budget -= n
		}
	}
	return shares
}
