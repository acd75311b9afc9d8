package grammar

// kind is what a node does.
type kind uint8

const (
	terminal kind = iota // a word of an automaton
	sequence             // all of kids, in order
	choice               // one of kids
	repeat               // kids[0], min to max times
	list                 // the items of an array with commas: kids[0] is the comma, kids[1] an item
	members              // the members of an object
	bottom               // what lies below the part of a stack that a mask was made for
)

// node is a part of a grammar. A terminal that is unique writes a word that its array or object does not have yet.
type node struct {
	kind     kind
	dfa      *dfa
	kids     []*node
	min, max int32 // max < 0 = no limit
	begun    bool  // list: items came before, so that the first one needs a comma
	unique   bool
	plain    *node       // of a unique terminal: the same, not unique
	count    []int32     // of a unique terminal: dfa.counts
	price    int32       // of a unique terminal: tokens within which there is always a word that is not taken yet
	object   *membership // of members
	cost     int32       // tokens that surely suffice
}

// membership are an object's members: declared ones in their order, then the ones that it must have besides, then others.
type membership struct {
	keys     []key
	forced   []extra
	others   []extra
	min, max int32 // of members; max < 0 = no limit

	must  []int32 // how many from a position on the object must have
	table []int32 // cost by position and members still needed, at most min
}

// key is a declared member. The nodes are name and value, without and with a comma before them.
type key struct {
	name        string
	first, next *node
	required    bool
}

// extra is a member whose name an automaton makes.
type extra struct {
	first, next *node
	name        *dfa
	names       int32 // how many there are
}

// settle finds the costs of all nodes: the least solution of their equations, which are monotone.
func settle(v *Vocabulary, all []*node) error {
	for _, n := range all {
		n.cost = inf
		if n.kind != terminal {
			continue
		}
		if n.dfa.empty() {
			continue
		}
		n.dfa.price(v)
		if n.cost = n.dfa.cost[0]; n.unique {
			n.count = n.dfa.counts()
			n.plain = &node{kind: terminal, dfa: n.dfa, cost: n.dfa.cost[0]}
			if n.cost < inf {
				n.cost = n.price
			}
		}
	}
	for changed := true; changed; {
		changed = false
		for i := len(all) - 1; i >= 0; i-- {
			n := all[i]
			if n.kind == terminal {
				continue
			}
			if n.kind == members {
				n.object.tabulate()
			}
			if c := n.sum(0, 0); c < n.cost {
				n.cost, changed = c, true
			}
		}
	}
	return nil
}

// sum is what a node costs from a position on, with the count of what it has had.
func (n *node) sum(pos, count int32) int32 {
	switch n.kind {
	case terminal:
		return n.dfa.cost[pos]
	case sequence:
		total := int32(0)
		for _, k := range n.kids[pos:] {
			total = add(total, k.cost)
		}
		return total
	case choice:
		best := inf
		for _, k := range n.kids {
			best = min(best, k.cost)
		}
		return best
	case repeat:
		return times(n.min-count, n.kids[0].cost)
	case list:
		return n.items(pos, count)
	case members:
		return n.object.left(pos, count, int32(len(n.object.forced)))
	}
	return 0
}

// items is the cost of a list with count items; at position 1 the comma of the next is written.
func (n *node) items(pos, count int32) int32 {
	need := max(n.min-count, pos)
	total := times(need, add(n.kids[0].cost, n.kids[1].cost))
	if total >= inf {
		return inf
	}
	if pos == 1 || need > 0 && count == 0 && !n.begun {
		total -= n.kids[0].cost
	}
	return total
}

// left is the cost from the pos-th of keys and forced on of an object with count members: there must be room for all that
// it must have. The cheapest way takes no more members than it needs, so that it never lacks room otherwise.
func (o *membership) left(pos, count, used int32) int32 {
	if o.max >= 0 && o.must[pos] > o.max-count {
		return inf
	}
	return o.sum(pos, max(o.min-count, 0), used)
}

// sum is the cost from the pos-th of keys and forced on with need members more, of used names of others. A first member
// needs no comma, but is counted with one.
func (o *membership) sum(pos, need, used int32) int32 {
	if total := int32(len(o.keys) + len(o.forced)); pos >= total {
		return o.rest(need, used)
	}
	return o.table[pos*(o.min+1)+need]
}

// tabulate fills the table from what the members cost now.
func (o *membership) tabulate() {
	total, width := int32(len(o.keys)+len(o.forced)), o.min+1
	if o.table == nil {
		o.table, o.must = make([]int32, total*width), make([]int32, total+1)
	}
	for pos := total - 1; pos >= 0; pos-- {
		take, required := o.at(pos)
		if o.must[pos] = o.must[pos+1]; required {
			o.must[pos]++
		}
		for need := range width {
			best := add(take, o.sum(pos+1, max(need-1, 0), int32(len(o.forced))))
			if !required {
				best = min(best, o.sum(pos+1, need, int32(len(o.forced))))
			}
			o.table[pos*width+need] = best
		}
	}
}

// at is the cost of the pos-th member, and whether the object must have it.
func (o *membership) at(pos int32) (int32, bool) {
	if int(pos) < len(o.keys) {
		k := &o.keys[pos]
		return k.next.cost, k.required
	}
	return o.forced[int(pos)-len(o.keys)].next.cost, true
}

// rest is the cost of need members beyond the declared and forced ones when used names are taken: a class with names
// enough pays for all, or each costs what the dearest does.
func (o *membership) rest(need, used int32) int32 {
	if need <= 0 {
		return 0
	}
	endless, dearest, names := inf, int32(0), int32(0)
	for i := range o.others {
		c := o.others[i].next.cost
		switch {
		case c >= inf:
		case o.others[i].names >= plenty:
			endless = min(endless, c)
		default:
			dearest, names = max(dearest, c), min(names+o.others[i].names, plenty)
		}
	}
	if endless < inf {
		return times(need, endless)
	}
	if names-used < need {
		return inf
	}
	return times(need, dearest)
}
