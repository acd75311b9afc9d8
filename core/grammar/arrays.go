package grammar

import (
	"fmt"
	"math/rand/v2"

	"github.com/pimoe/pimoe/sdk"
)

// maxSlots bounds the items that are placed one by one.
const maxSlots = 200

// arrays makes the nodes of a variant's arrays: one for each place where the items that contains asks for can stand.
func (b *builder) arrays(v *variant) ([]*node, error) {
	prefix := int32(0)
	for _, s := range v.arrays {
		prefix = max(prefix, int32(len(s.prefix)))
	}
	for _, p := range v.at {
		prefix = max(prefix, p.index+1)
	}
	wanted := int32(0)
	for _, c := range v.contains {
		wanted += c.least
	}
	if prefix+wanted > maxSlots {
		return nil, fmt.Errorf("more than %d items of their own: %w", maxSlots, sdk.ErrUnsupported)
	}
	if wanted == 0 {
		return b.array(v, prefix, prefix, 0)
	}
	var out []*node
	for start := range prefix + 1 {
		kids, err := b.array(v, prefix, start, wanted)
		if err != nil {
			return nil, err
		}
		out = append(out, kids...)
	}
	return out, nil
}

// itemGoal is what an item at an index has to meet by itself.
func (v *variant) itemGoal(i int32) goal {
	var g goal
	for _, s := range v.arrays {
		if int(i) < len(s.prefix) {
			g = append(g, claim{s.prefix[i], false})
		} else if s.items != nil {
			g = append(g, claim{s.items, false})
		}
	}
	for _, p := range v.at {
		if p.index == i || p.index < 0 && i >= -p.index-1 {
			g = append(g, p.claim)
		}
	}
	return g
}

// array makes the arrays in which the items that contains wants stand from start on.
func (b *builder) array(v *variant, prefix, start, wanted int32) ([]*node, error) {
	least, most := v.minItems, v.maxItems
	slots := prefix
	if wanted > 0 {
		slots = max(prefix, start+wanted)
		least = max(least, start+wanted)
	}
	if most >= 0 && most < least {
		return nil, nil
	}
	if most >= 0 {
		slots = min(slots, most)
	}
	goals := make([]goal, slots)
	chosen := make([]int, slots) // the contains that an item stands for, plus 1
	at := start
	for c, want := range v.contains {
		if at < want.from && want.least > 0 {
			return nil, nil // another start has it
		}
		for range want.least {
			chosen[at] = c + 1
			at++
		}
	}
	others := func(i int32, own int) goal {
		g := v.itemGoal(i)
		for c, want := range v.contains {
			switch {
			case own == c+1:
				g = append(g, want.claim)
			case want.most >= 0:
				g = append(g, claim{want.claim.s, !want.claim.not})
			}
		}
		return g
	}
	for i := range slots {
		goals[i] = others(i, chosen[i])
	}
	for _, want := range v.contains {
		if want.most >= 0 && want.most < want.least {
			return nil, nil
		}
	}
	rest := others(slots, 0)
	if v.unique && (most < 0 || most > 1) {
		return b.distinct(goals, rest, least, most)
	}
	items := make([]*node, slots)
	for i, g := range goals {
		var err error
		if items[i], err = b.goal(g); err != nil {
			return nil, err
		}
	}
	tail, err := b.rest(rest, slots, least, most)
	if err != nil {
		return nil, err
	}
	return b.bracket(items, tail, least)
}

// rest makes the items behind the slots.
func (b *builder) rest(g goal, slots, least, most int32) (*node, error) {
	left := int32(-1)
	if most >= 0 {
		if left = most - slots; left == 0 {
			return b.nothing, nil
		}
	}
	if b.small {
		lower(&left, max(least-slots, 0)+1)
	}
	item, err := b.goal(g)
	if err != nil {
		return nil, err
	}
	return b.add(&node{kind: list, kids: []*node{b.comma, item}, min: max(least-slots, 0), max: left, begun: slots > 0})
}

// bracket joins slots and tail; an array of at least so many items may end between slots.
func (b *builder) bracket(items []*node, tail *node, least int32) ([]*node, error) {
	for i := len(items) - 1; i >= 0; i-- {
		parts := []*node{items[i], tail}
		if i > 0 {
			parts = []*node{b.comma, items[i], tail}
		}
		n, err := b.seq(parts...)
		if err != nil {
			return nil, err
		}
		if int32(i) >= least {
			if n, err = b.choice([]*node{b.nothing, n}); err != nil {
				return nil, err
			}
		}
		tail = n
	}
	open, err := b.word("[")
	if err != nil {
		return nil, err
	}
	closing, err := b.word("]")
	if err != nil {
		return nil, err
	}
	n, err := b.seq(open, tail, closing)
	return []*node{n}, err
}

// spare is how many words beyond the needed ones are priced: a unique word costs at most what the dearest of so many
// does.
const spare = 512

// distinct makes arrays whose items differ. Items that must stand at a place are a few words each, kept apart from those
// of the others; the rest is one automaton whose words are used once.
func (b *builder) distinct(goals []goal, rest goal, least, most int32) ([]*node, error) {
	var taken []string
	items := make([]*node, 0, len(goals))
	for i, g := range goals {
		d, err := b.flat(g)
		if err != nil {
			return nil, err
		}
		if d, err = without(d, taken); err != nil {
			return nil, err
		}
		if d.empty() {
			if int32(i) < least {
				return nil, nil
			}
			most = int32(i)
			break
		}
		few := d.sample(6)
		taken = append(taken, few...)
		if d, err = words(few); err != nil {
			return nil, err
		}
		n, err := b.terminal(d)
		if err != nil {
			return nil, err
		}
		items = append(items, n)
	}
	slots := int32(len(items))
	tail := b.nothing
	if most < 0 || most > slots {
		d, err := b.flat(rest)
		if err == nil {
			d, err = without(d, taken)
		}
		if err != nil {
			return nil, err
		}
		names := int32(0)
		if !d.empty() {
			names = d.counts()[0]
		}
		need, left := max(least-slots, 0), most
		if most >= 0 {
			left = most - slots
		}
		if names < plenty {
			lower(&left, names)
		}
		if need > names {
			return nil, nil
		}
		if names > 0 {
			item, err := b.add(&node{kind: terminal, dfa: d, unique: true, price: d.nth(b.vocab, min(need+spare, names))})
			if err != nil {
				return nil, err
			}
			if tail, err = b.add(&node{kind: list, kids: []*node{b.comma, item}, min: need, max: left, begun: slots > 0}); err != nil {
				return nil, err
			}
		}
	}
	return b.bracket(items, tail, least)
}

func without(d *dfa, list []string) (*dfa, error) {
	if len(list) == 0 || d.empty() {
		return d, nil
	}
	w, err := words(list)
	if err != nil {
		return nil, err
	}
	return minus(d, w)
}

// maxFlat bounds the states of items that must be distinct: each is visited with every byte.
const maxFlat = 4000

// flat is the automaton of the values that meet a goal, in which each value has one text: all scalars that it can, and
// arrays and objects if they are few enough.
func (b *builder) flat(g goal) (*dfa, error) {
	d, err := b.flatten(g, 0)
	if err != nil {
		d, err = b.flatten(g, smallDepth)
	}
	return d, err
}

func (b *builder) flatten(g goal, depth int) (*dfa, error) {
	in := &builder{vocab: b.vocab, goals: map[string]*node{}, small: true, depth: depth, until: b.until}
	root, err := in.goal(g)
	if err != nil {
		return nil, err
	}
	m := &Grammar{vocab: b.vocab, root: root}
	if err := settle(b.vocab, in.nodes); err != nil {
		return nil, err
	}
	if root.cost >= inf {
		return &dfa{width: 1}, nil
	}
	m.classify(in.nodes)
	m.flush()
	start := m.intern(m.enter(nil, root, nil, map[*frame]bool{}))
	visited := map[*state]bool{}
	over := false
	d, err := explore(start, func(s *state, c byte) (*state, bool) {
		if visited[s] = true; len(visited) > maxFlat {
			over = true
			return nil, false
		}
		t := m.step(s, c)
		return t, t != nil
	}, func(s *state) bool { return s.complete })
	if over {
		return nil, fmt.Errorf("uniqueItems of items with more than %d states: %w", maxFlat, sdk.ErrUnsupported)
	}
	return d, err
}

// sample is up to n words, found by walks with fixed random numbers.
func (d *dfa) sample(n int) []string {
	rng := rand.New(rand.NewPCG(1, 2))
	seen := map[string]bool{}
	var out []string
	dist := d.distances()
	for try := 0; try < 8*n && len(out) < n; try++ {
		var w []byte
		q := int32(0)
		for step := 0; ; step++ {
			if d.accept[q] && (rng.IntN(3) == 0 || !d.leads(q) || step > 24) {
				break
			}
			var best []byte
			for c := range 256 {
				if t := d.step(q, byte(c)); t != dead && (step <= 24 && try > 0 || dist[t] < dist[q]) {
					best = append(best, byte(c))
				}
			}
			if len(best) == 0 {
				break
			}
			c := best[rng.IntN(len(best))]
			w = append(w, c)
			q = d.step(q, c)
		}
		if s := string(w); d.accept[q] && !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// distances is how many bytes each state is from an accepting one.
func (d *dfa) distances() []int32 {
	v := &Vocabulary{}
	for b := range 256 {
		v.single[b] = true
	}
	c := dfa{class: d.class, width: d.width, next: d.next, accept: d.accept}
	c.price(v)
	return c.cost
}
