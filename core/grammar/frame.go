package grammar

import "strings"

// frame is one node on a stack, and what has been done of it. Frames are interned and never change.
type frame struct {
	frameKey
	id   uint32
	cost int32  // tokens that surely complete this frame and all below
	twin *frame // what masks are made for: see Grammar.twin
}

type frameKey struct {
	n     *node
	pos   int32  // terminal: state; sequence, members: the next part; list: 1 = behind the comma
	count int32  // repeat, list, members: how many there were
	seen  string // list, members: the words of unique terminals, each with a NUL behind it; a unique terminal: the same of its list
	text  string // a unique terminal's word so far
	below *frame
}

// push interns a frame. It is nil, with ok false, if nothing completes it.
func (g *Grammar) push(k frameKey) (*frame, bool) {
	if f, ok := g.frames[k]; ok {
		return f, f.cost < inf
	}
	if len(g.frames) >= maxFrames {
		g.flush()
	}
	g.number++
	f := &frame{frameKey: k, id: g.number, cost: k.price()}
	if k.below != nil {
		f.cost = add(f.cost, k.below.cost)
	}
	g.frames[k] = f
	return f, f.cost < inf
}

// price is the cost of the frame alone.
func (k *frameKey) price() int32 {
	switch {
	case k.n.kind == terminal && k.n.unique:
		return k.n.unused(k.pos, k.text, k.seen)
	case k.n.kind == members:
		return k.n.object.left(k.pos, k.count, int32(strings.Count(k.seen, "\x00")))
	}
	return k.n.sum(k.pos, k.count)
}

// tails are how the words that a unique terminal may not write go on behind what it has.
func (f *frame) tails() []string {
	var out []string
	if f.seen == "" {
		return nil
	}
	for w := range strings.SplitSeq(strings.TrimSuffix(f.seen, "\x00"), "\x00") {
		if tail, ok := strings.CutPrefix(w, f.text); ok {
			out = append(out, tail)
		}
	}
	return out
}

// unused is the cost of the cheapest word that begins with text, whose state is q, and is none of those in seen.
func (n *node) unused(q int32, text, seen string) int32 {
	var rest []string // what the words that begin so go on with
	for w := range strings.SplitSeq(strings.TrimSuffix(seen, "\x00"), "\x00") {
		if tail, ok := strings.CutPrefix(w, text); ok && seen != "" {
			if end := n.dfa.run(q, tail); end != dead && n.dfa.accept[end] {
				rest = append(rest, tail)
			}
		}
	}
	return n.avoid(q, rest)
}

// avoid is the cost of the cheapest word from q on that is none of some others.
func (n *node) avoid(q int32, words []string) int32 {
	if len(words) == 0 {
		return n.dfa.cost[q]
	}
	if int(n.count[q]) <= len(words) {
		return inf
	}
	first := [256]bool{}
	best := inf
	ends := false
	for _, w := range words {
		if w == "" {
			ends = true
		} else {
			first[w[0]] = true
		}
	}
	if n.dfa.accept[q] && !ends {
		return 0
	}
	for b := range 256 {
		t := n.dfa.step(q, byte(b))
		if t == dead || n.dfa.cost[t] >= best {
			continue
		}
		if !first[b] {
			best = min(best, add(n.dfa.cost[t], 1))
			continue
		}
		var rest []string
		for _, w := range words {
			if w != "" && w[0] == byte(b) {
				rest = append(rest, w[1:])
			}
		}
		best = min(best, add(n.avoid(t, rest), 1))
	}
	return best
}

// enter adds to set what a node can begin with, with below to follow it.
func (g *Grammar) enter(set []*frame, n *node, below *frame, seen map[*frame]bool) []*frame {
	if n.cost >= inf {
		return set
	}
	switch n.kind {
	case terminal:
		return g.begin(set, n, below, seen)
	case choice:
		for _, k := range n.kids {
			set = g.enter(set, k, below, seen)
		}
		return set
	}
	if f, ok := g.push(frameKey{n: n, below: below}); ok {
		return g.resume(set, f, seen)
	}
	return set
}

// begin adds a terminal at its start.
func (g *Grammar) begin(set []*frame, n *node, below *frame, seen map[*frame]bool) []*frame {
	k := frameKey{n: n, below: below}
	if n.unique {
		k.seen = taken(below)
	}
	return g.arrive(set, k, seen)
}

// arrive adds a terminal in one of its states, and what follows it if it may end there.
func (g *Grammar) arrive(set []*frame, k frameKey, seen map[*frame]bool) []*frame {
	d := k.n.dfa
	if d.leads(k.pos) {
		if f, ok := g.push(k); ok && !contains(set, f) {
			set = append(set, f)
		}
	}
	if !d.accept[k.pos] {
		return set
	}
	below := k.below
	if k.n.unique {
		if strings.Contains("\x00"+k.seen, "\x00"+k.text+"\x00") {
			return set
		}
		below = g.note(below, k.text)
	}
	return g.resume(set, below, seen)
}

func contains(set []*frame, f *frame) bool {
	for _, s := range set {
		if s == f {
			return true
		}
	}
	return false
}

// taken are the words that the list or object around a unique terminal has.
func taken(f *frame) string {
	for f.n.kind != list && f.n.kind != members {
		f = f.below
	}
	return f.seen
}

// note adds a word to the list or object around a unique terminal.
func (g *Grammar) note(f *frame, word string) *frame {
	k := f.frameKey
	if f.n.kind == list || f.n.kind == members {
		k.seen += word + "\x00"
	} else {
		k.below = g.note(f.below, word)
	}
	out, _ := g.push(k)
	return out
}

// resume adds what follows when all above a frame is done. nil stands for a complete text. The frames that were resumed
// for this byte are in seen: a node that writes nothing must not be repeated for ever.
func (g *Grammar) resume(set []*frame, f *frame, seen map[*frame]bool) []*frame {
	if f == nil || f.n.kind == bottom {
		if !contains(set, f) {
			set = append(set, f)
		}
		return set
	}
	if f.cost >= inf || seen[f] {
		return set
	}
	if seen != nil {
		seen[f] = true
	}
	n, k := f.n, f.frameKey
	switch n.kind {
	case sequence:
		if int(f.pos) == len(n.kids) {
			return g.resume(set, f.below, seen)
		}
		below := f.below
		if k.pos++; int(k.pos) < len(n.kids) {
			next, ok := g.push(k)
			if !ok {
				return set
			}
			below = next
		}
		return g.enter(set, n.kids[f.pos], below, seen)
	case repeat:
		if f.count >= n.min {
			set = g.resume(set, f.below, seen)
		}
		if n.max < 0 || f.count < n.max {
			if k.count++; n.max < 0 {
				k.count = min(k.count, n.min)
			}
			if next, ok := g.push(k); ok {
				set = g.enter(set, n.kids[0], next, seen)
			}
		}
	case list:
		return g.resumeList(set, f, seen)
	case members:
		return g.resumeMembers(set, f, seen)
	}
	return set
}

// resumeList goes on with an array behind an item, or behind a comma.
func (g *Grammar) resumeList(set []*frame, f *frame, seen map[*frame]bool) []*frame {
	n, k := f.n, f.frameKey
	if f.pos == 0 {
		if f.count >= n.min {
			set = g.resume(set, f.below, seen)
		}
		if n.max >= 0 && f.count >= n.max {
			return set
		}
		if n.begun || f.count > 0 {
			k.pos = 1
			if next, ok := g.push(k); ok {
				set = g.enter(set, n.kids[0], next, seen)
			}
			return set
		}
	}
	k.pos, k.count = 0, f.count+1
	if n.max < 0 { // beyond the least number only "some" matters
		k.count = min(k.count, max(n.min, 1))
	}
	if next, ok := g.push(k); ok {
		set = g.enter(set, n.kids[1], next, seen)
	}
	return set
}

// left reports whether a name is left beside those that an object has.
func (e *extra) left(seen string) bool {
	if e.names >= plenty {
		return true
	}
	used := int32(0)
	for w := range strings.SplitSeq(seen, "\x00") {
		if w != "" && e.name.matches(w) {
			used++
		}
	}
	return used < e.names
}

// resumeMembers goes on with an object behind a member.
func (g *Grammar) resumeMembers(set []*frame, f *frame, seen map[*frame]bool) []*frame {
	o, k := f.n.object, f.frameKey
	full := o.max >= 0 && f.count >= o.max
	k.count = f.count + 1
	if o.max < 0 {
		k.count = min(k.count, max(o.min, 1))
	}
	member := func(pos int32, first, next *node) {
		if full {
			return
		}
		k.pos = pos
		if f.count == 0 {
			next = first
		}
		if after, ok := g.push(k); ok {
			set = g.enter(set, next, after, seen)
		}
	}
	pos := f.pos
	for ; int(pos) < len(o.keys); pos++ {
		key := &o.keys[pos]
		member(pos+1, key.first, key.next)
		if key.required {
			return set
		}
	}
	if i := int(pos) - len(o.keys); i < len(o.forced) {
		member(pos+1, o.forced[i].first, o.forced[i].next)
		return set
	}
	for i := range o.others {
		if o.others[i].left(f.seen) {
			member(pos, o.others[i].first, o.others[i].next)
		}
	}
	if f.count >= o.min {
		set = g.resume(set, f.below, seen)
	}
	return set
}
