package grammar

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// state is the set of all stacks that a text can have led to. States are interned; what hangs on them is filled as it is
// asked for, under the grammar's mutex.
type state struct {
	stacks   []*frame // each with a terminal on top, that reads on; by cost, then by id
	complete bool     // the text may end here
	bottom   bool     // the part of the stack that a mask is made for may end here
	unique   bool     // a stack notes the bytes that it reads
	cost     int32    // tokens that surely complete the text
	next     []*state // by class of byte; nil = not asked yet, stuck = none
	twin     *state
	spread   int32 // by how much the twin may be wrong about what a token adds to the cost
	mask     *mask
}

// stuck is no state.
var stuck = new(state)

// intern makes the state of a set of stacks, in which nil is a complete text; nil for an empty set.
func (g *Grammar) intern(set []*frame) *state {
	if len(set) == 0 {
		return nil
	}
	s := &state{cost: inf}
	for _, f := range set {
		switch {
		case f == nil:
			s.complete, s.cost = true, 0
		case f.n.kind == bottom:
			s.bottom, s.cost = true, 0
		default:
			s.stacks = append(s.stacks, f)
			s.cost = min(s.cost, f.cost)
			s.unique = s.unique || f.n.unique
		}
	}
	slices.SortFunc(s.stacks, func(a, b *frame) int { return cmp.Or(cmp.Compare(a.cost, b.cost), cmp.Compare(a.id, b.id)) })
	if len(s.stacks) > maxConfigs {
		s.stacks = s.stacks[:maxConfigs]
	}
	key := make([]byte, 1, 1+4*len(s.stacks))
	if s.complete {
		key[0] |= 1
	}
	if s.bottom {
		key[0] |= 2
	}
	for _, f := range s.stacks {
		key = binary.LittleEndian.AppendUint32(key, f.id)
	}
	if known, ok := g.states[string(key)]; ok {
		return known
	}
	if len(g.states) >= maxStates {
		g.flush()
	}
	g.states[string(key)] = s
	return s
}

// step is the state behind one more byte, or nil.
func (g *Grammar) step(s *state, b byte) *state {
	if s.unique {
		return g.read(s, b)
	}
	at := g.class[b]
	if s.next == nil {
		s.next = make([]*state, g.width)
	}
	if t := s.next[at]; t != nil {
		if t == stuck {
			return nil
		}
		return t
	}
	t := g.read(s, b)
	if s.next[at] = t; t == nil {
		s.next[at] = stuck
	}
	return t
}

// read takes a byte on every stack.
func (g *Grammar) read(s *state, b byte) *state {
	var set []*frame
	var seen map[*frame]bool
	for _, f := range s.stacks {
		q := f.n.dfa.step(f.pos, b)
		if q == dead {
			continue
		}
		k := f.frameKey
		if k.pos = q; k.n.unique {
			k.text += string([]byte{b})
		}
		if seen == nil && f.n.dfa.accept[q] {
			seen = map[*frame]bool{}
		}
		set = g.arrive(set, k, seen)
	}
	return g.intern(set)
}
