package engine

import "time"

// price is what steps take: a part of their own, one for each decoding row, and one for each row of a prompt. It is fitted to
// the last steps by least squares of relative errors, none of the parts below zero: so a small step counts as much as a large
// one, and one that something outside has held up hardly counts.
type price struct {
	products [3][3]float64 // means of the products of the terms, each divided by the step's time
	sums     [3]float64    // means of the terms
	parts    [3]float64    // seconds: of a step, of a decoding row, of a row of a prompt; 0 = none seen
}

// load is the rows of a step.
type load struct {
	decoding int // one of each sequence that decodes
	prompt   int
}

// add counts a sequence's tokens in.
func (l *load) add(tokens int) {
	if tokens == 1 {
		l.decoding++
	} else {
		l.prompt += tokens
	}
}

const (
	// priceMemory is over how many steps the means go: some seconds, in which small and large steps come.
	priceMemory = 256
	// priceSweeps is how often each part is fitted to the others after a step. The parts of the step before are so near that few do.
	priceSweeps = 4
)

// brief bounds a step so that whoever comes while it is computed does not wait for long: to a few times what one row takes. A step's own
// part is then at most a sixth of it, so little is lost.
func (p *price) brief(b bounds) bounds {
	const times = 5
	half := times * p.step(load{decoding: 1}) / 2
	if row := p.parts[1]; row > 0 {
		b.sequences = min(b.sequences, max(int(half/row), 1))
	}
	if row := p.parts[2]; row > 0 {
		b.chunk = min(b.chunk, max(int(half/row), promptGrain))
	}
	b.tokens = min(b.tokens, b.sequences+b.chunk)
	return b
}

// took notes a step.
func (p *price) took(l load, d time.Duration) {
	t := max(d, 1).Seconds()
	x := [3]float64{1 / t, float64(l.decoding) / t, float64(l.prompt) / t}
	for i := range x {
		p.sums[i] += (x[i] - p.sums[i]) / priceMemory
		for j := range x {
			p.products[i][j] += (x[i]*x[j] - p.products[i][j]) / priceMemory
		}
	}
	for range priceSweeps {
		for i := range x {
			p.fit(i)
		}
	}
}

// fit is the best value of one part beside the others.
func (p *price) fit(i int) {
	own := p.products[i][i]
	if own == 0 {
		return
	}
	rest := p.sums[i]
	for j, part := range p.parts {
		if j != i {
			rest -= p.products[i][j] * part
		}
	}
	p.parts[i] = max(rest/own, 0)
}

// step is what a step of such rows takes, in seconds.
func (p *price) step(l load) float64 { return p.parts[0] + p.rows(l) }

// rows is how much longer such rows make a step.
func (p *price) rows(l load) float64 {
	return p.parts[1]*float64(l.decoding) + p.parts[2]*float64(l.prompt)
}

// tokens is how much longer so many tokens of one sequence make a step.
func (p *price) tokens(n int) float64 {
	var l load
	l.add(n)
	return p.rows(l)
}

// buys is how many of a sequence's pending tokens so many seconds pay for. Of a prompt it is a grain or more, or what is left of it;
// 0 = not so many.
func (p *price) buys(seconds float64, pending int) int {
	least := min(pending, promptGrain)
	switch {
	case p.tokens(least) > seconds:
		return 0
	case p.tokens(pending) <= seconds:
		return pending
	}
	return max(int(seconds/p.parts[2]), least)
}
