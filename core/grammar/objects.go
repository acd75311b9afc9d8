package grammar

import (
	"fmt"
	"slices"

	"github.com/pimoe/pimoe/sdk"
)

// maxRegions bounds the kinds of names that patterns make of each other.
const maxRegions = 16

// region is a set of names that the same patterns match.
type region struct {
	d       *dfa
	matched map[string]bool // expressions
}

// keyGoal is what a member has to meet by its name.
func (v *variant) keyGoal(name string) goal {
	var g goal
	for _, s := range v.objects {
		for _, a := range s.forKey(name) {
			g = append(g, claim{a, false})
		}
	}
	return g
}

// regionGoal is the same for the names of a region, which no properties name.
func (v *variant) regionGoal(r region) goal {
	var g goal
	for _, s := range v.objects {
		any := false
		for _, p := range s.patterns {
			if r.matched[p.expr] {
				g, any = append(g, claim{p.s, false}), true
			}
		}
		if !any && s.additional != nil {
			g = append(g, claim{s.additional, false})
		}
	}
	return g
}

// declared are the names that a variant speaks of, in the schema's order: those with a goal of their own, or required.
func (v *variant) declared() (names []string, required map[string]bool, own map[string]goal) {
	required, own = map[string]bool{}, map[string]goal{}
	put := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, s := range v.objects {
		for _, p := range s.properties {
			put(p.name)
		}
	}
	for _, m := range v.must {
		put(m.name)
		required[m.name] = true
		own[m.name] = append(own[m.name], m.goal...)
	}
	return names, required, own
}

// objects makes the nodes of a variant's objects.
func (b *builder) objects(v *variant) ([]*node, error) {
	if v.maxKeys >= 0 && v.maxKeys < v.minKeys {
		return nil, nil
	}
	names, required, own := v.declared()
	o := &membership{min: v.minKeys, max: v.maxKeys}
	reserved := append(slices.Clone(names), v.forbid...)
	for _, name := range names {
		if slices.Contains(v.forbid, name) || !v.names.holds(name) {
			if required[name] {
				return nil, nil
			}
			continue
		}
		value, err := b.goal(append(v.keyGoal(name), own[name]...))
		if err != nil {
			return nil, err
		}
		k := key{name: name, required: required[name]}
		if k.first, k.next, err = b.named(quote(name)+":", value); err != nil {
			return nil, err
		}
		o.keys = append(o.keys, k)
	}
	free, err := b.names(v.names)
	if err == nil {
		free, err = without(free, reserved)
	}
	if err != nil {
		return nil, err
	}
	if err := b.others(v, o, free); err != nil {
		return nil, err
	}
	return b.forced(v, o, free, 0)
}

// named makes a member of a fixed name, without and with a comma.
func (b *builder) named(name string, value *node) (first, next *node, err error) {
	w, err := b.word(name)
	if err != nil {
		return nil, nil, err
	}
	return b.member(w, value)
}

func (b *builder) member(name, value *node) (first, next *node, err error) {
	if first, err = b.seq(name, b.space, value); err != nil {
		return nil, nil, err
	}
	next, err = b.seq(b.comma, name, b.space, value)
	return first, next, err
}

// others adds the members that are not named one by one. Where properties name some and nothing is said about others,
// there are none unless the object can't have enough members without.
func (b *builder) others(v *variant, o *membership, free *dfa) error {
	closed := false
	for _, s := range v.objects {
		closed = closed || len(s.properties) > 0 && s.additional == nil
	}
	if closed && int(o.min) > len(o.keys) {
		closed = false
	}
	if b.small && int(o.min) <= len(o.keys) {
		return nil
	}
	regions, err := b.regions(v, free, !closed)
	if err != nil {
		return err
	}
	for _, r := range regions {
		if closed && len(r.matched) == 0 {
			continue
		}
		e, err := b.extra(v, r, nil, o.min)
		if err != nil {
			return err
		}
		if e != nil {
			o.others = append(o.others, *e)
		}
	}
	return nil
}

// regions cuts a set of names by all patterns of a variant. rest says whether names that no pattern matches are wanted.
func (b *builder) regions(v *variant, free *dfa, rest bool) ([]region, error) {
	ascii, err := chars(0, -1, true)
	if err != nil {
		return nil, err
	}
	out := []region{{d: free, matched: map[string]bool{}}}
	seen := map[string]bool{}
	for _, s := range v.objects {
		for _, p := range s.patterns {
			if seen[p.expr] {
				continue
			}
			seen[p.expr] = true
			var next []region
			for _, r := range out {
				in, err := intersect(r.d, p.d)
				if err != nil {
					return nil, err
				}
				not, err := minus(r.d, p.d)
				if err != nil {
					return nil, err
				}
				if !in.empty() {
					matched := map[string]bool{p.expr: true}
					for e := range r.matched {
						matched[e] = true
					}
					next = append(next, region{in, matched})
				}
				if !not.empty() {
					next = append(next, region{not, r.matched})
				}
			}
			if out = next; len(out) > maxRegions {
				return nil, fmt.Errorf("patternProperties that overlap in more than %d ways: %w", maxRegions, sdk.ErrUnsupported)
			}
		}
	}
	for i := range out { // as for strings: readers agree about ASCII
		if d, err := intersect(out[i].d, ascii); err != nil {
			return nil, err
		} else if !d.empty() {
			out[i].d = d
		}
	}
	return slices.DeleteFunc(out, func(r region) bool { return r.d.empty() || !rest && len(r.matched) == 0 }), nil
}

// extra makes a member whose name is of a region; nil if there is none.
func (b *builder) extra(v *variant, r region, also goal, need int32) (*extra, error) {
	d, err := escaped(r.d, true)
	if err != nil {
		return nil, err
	}
	names := int32(0)
	if !d.empty() {
		names = d.counts()[0]
	}
	if names == 0 {
		return nil, nil
	}
	value, err := b.goal(append(v.regionGoal(r), also...))
	if err != nil {
		return nil, err
	}
	name, err := b.add(&node{kind: terminal, dfa: d, unique: true, price: d.nth(b.vocab, min(need+int32(len(v.exists))+spare, names))})
	if err != nil {
		return nil, err
	}
	colon, err := b.word(":")
	if err != nil {
		return nil, err
	}
	e := &extra{name: d, names: names}
	if name, err = b.seq(name, colon); err != nil {
		return nil, err
	}
	e.first, e.next, err = b.member(name, value)
	return e, err
}

// forced adds the members that must exist under some name, one after the other from the i-th on, in each region of names
// that has some, and makes the nodes.
func (b *builder) forced(v *variant, o *membership, free *dfa, i int) ([]*node, error) {
	if i == len(v.exists) {
		n, err := b.object(o)
		if err != nil {
			return nil, err
		}
		return []*node{n}, nil
	}
	want := v.exists[i]
	d, err := b.names(want.names)
	if err == nil && want.name != nil {
		d, err = intersect(d, want.name)
	}
	if err != nil {
		return nil, err
	}
	var also goal
	if want.claim != nil {
		also = goal{*want.claim}
	}
	var out []*node
	// A declared member may be the one.
	for k := range o.keys {
		if !d.matches(o.keys[k].name) {
			continue
		}
		name := o.keys[k].name
		_, _, own := v.declared()
		value, err := b.goal(slices.Concat(v.keyGoal(name), own[name], also))
		if err != nil {
			return nil, err
		}
		next := *o
		next.keys = slices.Clone(o.keys)
		nk := key{name: name, required: true}
		if nk.first, nk.next, err = b.named(quote(name)+":", value); err != nil {
			return nil, err
		}
		next.keys[k] = nk
		kids, err := b.forced(v, &next, free, i+1)
		if err != nil {
			return nil, err
		}
		out = append(out, kids...)
	}
	in, err := intersect(free, d)
	if err != nil {
		return nil, err
	}
	regions, err := b.regions(v, in, true)
	if err != nil {
		return nil, err
	}
	for _, r := range regions {
		e, err := b.extra(v, r, also, o.min)
		if err != nil {
			return nil, err
		}
		if e == nil || e.names <= int32(i) {
			continue
		}
		next := *o
		next.forced = append(slices.Clip(o.forced), *e)
		kids, err := b.forced(v, &next, free, i+1)
		if err != nil {
			return nil, err
		}
		out = append(out, kids...)
	}
	return out, nil
}

// object joins the members.
func (b *builder) object(o *membership) (*node, error) {
	own := *o
	own.table, own.must = nil, nil
	own.min = min(own.min, maxMembers+1)
	if own.min > maxMembers {
		return nil, fmt.Errorf("minProperties above %d: %w", maxMembers, sdk.ErrUnsupported)
	}
	inside, err := b.add(&node{kind: members, object: &own})
	if err != nil {
		return nil, err
	}
	open, err := b.word("{")
	if err != nil {
		return nil, err
	}
	closing, err := b.word("}")
	if err != nil {
		return nil, err
	}
	return b.seq(open, inside, closing)
}

// maxMembers bounds minProperties: the costs of an object are a table of it.
const maxMembers = 1000
