package grammar

// mask is which tokens may come in a state.
type mask struct {
	bits []uint64
	rise int32   // the most that a token adds to the cost
	open []int32 // tokens that depend on what lies below the part of the stacks that the mask was made for
}

func (m *mask) set(id int32) { m.bits[id>>6] |= 1 << (id & 63) }

// above is how many frames of a stack a mask is made for. A token rarely closes more than two or three levels, of two or
// three frames each; tokens that do are judged one by one.
const above = 12

// ground is the node below the part of a stack that a mask is made for.
var ground = &node{kind: bottom}

// twin is the top of a stack with counts brought down to what one token can tell: stacks with equal twins have equal
// masks.
func (g *Grammar) twinOf(f *frame, levels int) *frame {
	if f == nil {
		return nil
	}
	if levels == above && f.twin != nil {
		return f.twin
	}
	if levels == 0 {
		t, _ := g.push(frameKey{n: ground})
		return t
	}
	k := f.frameKey
	switch {
	case k.n.kind == terminal && k.n.unique: // what its words may not be is looked at for each token that matters
		below, _ := g.push(frameKey{n: ground})
		t, _ := g.push(frameKey{n: k.n.plain, pos: k.pos, below: below})
		f.twin = t
		return t
	case k.n.kind == list && k.n.kids[1].unique, k.n.kind == members && len(k.n.object.forced)+len(k.n.object.others) > 0,
		k.n.kind == sequence && anyUnique(k.n.kids[k.pos:]):
		t, _ := g.push(frameKey{n: ground})
		return t
	}
	k.below = g.twinOf(f.below, levels-1)
	if k.n.kind == repeat || k.n.kind == list {
		far := int32(g.vocab.longest)
		switch {
		case k.n.min-k.count > far && k.n.min > far:
			k.count = 0
			if k.n.kind == list {
				k.count = min(f.count, 1)
			}
		case k.count > k.n.min && k.n.max-k.count > far:
			k.count = max(k.n.min, 1)
		}
	}
	t, _ := g.push(k)
	if levels == above {
		f.twin = t
	}
	return t
}

// anyUnique reports whether a unique terminal is among the parts of a sequence.
func anyUnique(kids []*node) bool {
	for _, k := range kids {
		if k.unique || k.kind == sequence && anyUnique(k.kids) {
			return true
		}
	}
	return false
}

// maskOf is the mask of a state, as made for its twin.
func (g *Grammar) maskOf(s *state) *mask {
	if s.twin == nil {
		set := make([]*frame, 0, len(s.stacks)+1)
		least, most := inf, int32(0) // what the twins leave out of the costs
		for _, f := range s.stacks {
			t := g.twinOf(f, above)
			least, most = min(least, f.cost-t.cost), max(most, f.cost-t.cost)
			if !contains(set, t) {
				set = append(set, t)
			}
		}
		if s.complete {
			set = append(set, nil)
			least = 0
		}
		s.spread = max(most-least, 0)
		s.twin = g.intern(set)
	}
	if s.twin.mask == nil {
		s.twin.mask = g.makeMask(s.twin)
	}
	return s.twin.mask
}

// makeMask tries every token.
func (g *Grammar) makeMask(s *state) *mask {
	m := &mask{bits: make([]uint64, (g.vocab.size+63)/64)}
	if s.complete {
		g.ends(m)
	}
	g.visit(s, func(t *state, tokens []int32) {
		m.rise = max(m.rise, t.cost-s.cost)
		for _, id := range tokens {
			m.set(id)
		}
	}, func(tokens []int32) { m.open = append(m.open, tokens...) })
	return m
}

// ends allows the tokens that end the text.
func (g *Grammar) ends(m *mask) {
	for _, id := range g.vocab.eos {
		m.set(id)
	}
}

// visit walks the trie and calls allow for the tokens that lead to a state, and doubt for those that go on below the
// ground of the stacks.
func (g *Grammar) visit(s *state, allow func(t *state, tokens []int32), doubt func(tokens []int32)) {
	v := g.vocab
	for len(g.walk) <= v.longest {
		g.walk = append(g.walk, nil)
	}
	path := g.walk
	path[0] = s
	for i := int32(0); int(i) < len(v.trie); {
		br := &v.trie[i]
		from := path[br.depth]
		t := g.step(from, br.b)
		if from.bottom {
			// Another stack may allow them as well; those that it allows are judged twice, which does no harm.
			if last := br.skip; last > i {
				doubt(v.tokens[br.tokens:v.last(last)])
			}
		}
		if t == nil {
			i = br.skip
			continue
		}
		path[br.depth+1] = t
		if br.end > br.tokens {
			allow(t, v.tokens[br.tokens:br.end])
		}
		i++
	}
}

// last is the end of the tokens before a branch.
func (v *Vocabulary) last(at int32) int32 {
	if int(at) == len(v.trie) {
		return int32(len(v.tokens))
	}
	return v.trie[at].tokens
}
