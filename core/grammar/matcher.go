package grammar

import "slices"

// Matcher follows one text. It is not safe for concurrent use; any number of them may use one Grammar at once.
type Matcher struct {
	g     *Grammar
	s     *state // nil after a token that may not come
	begun bool
	own   mask // bits that are this matcher's, where the cached ones do not do
}

// Matcher starts a text.
func (g *Grammar) Matcher() *Matcher { return &Matcher{g: g, s: g.start} }

// Mask says which tokens may come next, one bit each, if at most left tokens may come in all, this one included and one
// that ends the text not. The text can then always be completed; if left is less than what the grammar asks for, the
// shortest way is allowed alone. The bits are valid until the next call and must not be changed.
func (m *Matcher) Mask(left int) []uint64 {
	g := m.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.s == nil {
		return m.clear()
	}
	k := g.maskOf(m.s)
	tight := int(m.s.cost)+max(int(k.rise+m.s.spread), 0) >= left
	first := !m.begun && len(g.vocab.lead) > 0
	if len(k.open) == 0 && !tight && !first && !m.s.unique {
		return k.bits
	}
	m.clear()
	if tight {
		most := max(int32(min(left, int(inf)))-1, m.s.cost-1)
		if m.s.complete {
			g.ends(&m.own)
		}
		g.visit(m.s, func(t *state, tokens []int32) {
			if t.cost <= most {
				for _, id := range tokens {
					m.own.set(id)
				}
			}
		}, nil)
	} else {
		copy(m.own.bits, k.bits)
		for _, id := range k.open {
			m.judge(id, left)
		}
		for _, f := range m.s.stacks {
			if f.n.unique {
				for _, tail := range f.tails() {
					g.vocab.along(tail, func(id int32) { m.judge(id, left) })
				}
			}
		}
	}
	if first {
		for _, id := range g.vocab.lead {
			m.own.bits[id>>6] &^= 1 << (id & 63)
		}
	}
	return m.own.bits
}

// judge looks at one token by itself.
func (m *Matcher) judge(id int32, left int) {
	m.own.bits[id>>6] &^= 1 << (id & 63)
	if t := m.g.after(m.s, m.g.vocab.bytes[id]); t != nil && int(t.cost) < left {
		m.own.set(id)
	}
}

func (m *Matcher) clear() []uint64 {
	if n := (m.g.vocab.size + 63) / 64; len(m.own.bits) != n {
		m.own.bits = make([]uint64, n)
	} else {
		clear(m.own.bits)
	}
	return m.own.bits
}

// after is the state behind some bytes, or nil.
func (g *Grammar) after(s *state, b []byte) *state {
	for i := 0; i < len(b) && s != nil; i++ {
		s = g.step(s, b[i])
	}
	return s
}

// Accept adds a token to the text and reports whether it may come. After one that may not, nothing may.
func (m *Matcher) Accept(id int32) bool {
	g := m.g
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case m.s == nil:
	case slices.Contains(g.vocab.eos, id):
		if !m.s.complete {
			m.s = nil
		}
	case id < 0 || int(id) >= g.vocab.size || g.vocab.bytes[id] == nil:
		m.s = nil
	default:
		m.s = g.after(m.s, g.vocab.bytes[id])
	}
	m.begun = true
	return m.s != nil
}

// Complete reports whether the text may end here.
func (m *Matcher) Complete() bool { return m.s != nil && m.s.complete }

// Done reports whether the text must end here.
func (m *Matcher) Done() bool { return m.s != nil && m.s.complete && len(m.s.stacks) == 0 }

// Match reports whether a whole text has the form.
func (g *Grammar) Match(text string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.after(g.start, []byte(text))
	return s != nil && s.complete
}
