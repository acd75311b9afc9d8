package grammar

import (
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// claim is a schema that a value has to be valid under, or must not be.
type claim struct {
	s   *schema
	not bool
}

// goal is a set of claims about one value.
type goal []claim

// key names a goal; equal goals have equal keys.
func (g goal) key() string {
	var ids []int
	for _, c := range g {
		id := 2 * c.s.id
		if c.not {
			id++
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var b strings.Builder
	for _, id := range slices.Compact(ids) {
		b.WriteString(strconv.Itoa(id) + ".")
	}
	return b.String()
}

func (g goal) holds(v any) bool {
	for _, c := range g {
		if c.s.holds(v) == c.not {
			return false
		}
	}
	return true
}

// variant is one way in which a goal can be met: what it says of each type, without a choice left. Slices are shared
// between variants and only ever appended to with full capacity.
type variant struct {
	types  types
	values [][]any // the value is in each of these
	except []any   // scalars that the value is not

	num          bounds
	divisors     []*big.Rat
	notDivisors  []*big.Rat
	minLen       int32
	maxLen       int32
	patterns     []*dfa
	antipatterns []*dfa
	formats      []string

	minItems, maxItems int32
	unique             bool
	arrays             []*schema // with prefix and items
	at                 []place   // claims on items at an index
	contains           []containing

	minKeys, maxKeys int32
	objects          []*schema // with properties, patterns and additional
	must             []member
	forbid           []string
	exists           []existing
	names            goal
}

type place struct {
	index int32 // < 0 = every item from -index-1 on
	claim claim
}

// containing asks for least to most items (most < 0 = no limit) from an index on that meet a claim.
type containing struct {
	claim       claim
	from        int32
	least, most int32
}

type member struct {
	name string
	goal goal
}

// existing asks for a member whose name an automaton has and whose value meets a claim; nil = any value.
type existing struct {
	name  *dfa
	names goal // the name as a string meets these
	claim *claim
}

func newVariant() variant {
	return variant{types: tAll, maxLen: -1, maxItems: -1, maxKeys: -1}
}

// branch is one of several ways: claims, and what it changes.
type branch struct {
	claims goal
	change func(*variant)
}

// maxVariants bounds the ways of one goal. More are left out, which is never wrong, only narrow; maxSteps bounds the
// work to find them.
const (
	maxVariants = 96
	maxSteps    = 20_000
)

// splitter finds the variants of a goal.
type splitter struct {
	out   []variant
	steps int
	err   error
}

// variants are the ways in which a goal can be met. There may be more; each is right.
func (g goal) variants() ([]variant, error) {
	sp := &splitter{}
	sp.split(newVariant(), slices.Clone(g), nil, nil)
	return sp.out, sp.err
}

// split takes claims one by one, and then the choices that they leave.
func (sp *splitter) split(v variant, todo goal, done map[claim]bool, choices [][]branch) {
	seen := map[claim]bool{}
	for c := range done {
		seen[c] = true
	}
	for len(todo) > 0 {
		if sp.steps++; sp.steps > maxSteps || len(sp.out) >= maxVariants {
			return
		}
		c := todo[0]
		todo = todo[1:]
		if seen[c] {
			continue
		}
		if seen[claim{c.s, !c.not}] {
			return
		}
		seen[c] = true
		var more goal
		var options [][]branch
		if c.not {
			options = [][]branch{c.s.refute()}
		} else {
			more, options = c.s.assert(&v)
		}
		todo = append(todo, more...)
		choices = append(slices.Clip(choices), options...)
		if v.types == 0 {
			return
		}
	}
	if len(choices) == 0 {
		sp.out = append(sp.out, v)
		return
	}
	for _, b := range choices[0] {
		next := v
		if b.change != nil {
			b.change(&next)
		}
		if next.types != 0 {
			sp.split(next, slices.Clone(b.claims), seen, choices[1:])
		}
	}
}

// assert applies what a schema says to a variant and returns the claims and choices that follow.
func (s *schema) assert(v *variant) (more goal, choices [][]branch) {
	if s.never {
		v.types = 0
		return nil, nil
	}
	if s.types != 0 {
		v.types &= s.types
	}
	for _, list := range [][]any{s.enum, s.fixed} {
		if list != nil {
			v.values = append(slices.Clip(v.values), list)
		}
	}
	if s.num.lo != nil {
		v.num.atLeast(s.num.lo, s.num.loStrict)
	}
	if s.num.hi != nil {
		v.num.atMost(s.num.hi, s.num.hiStrict)
	}
	v.divisors = append(slices.Clip(v.divisors), s.multipleOf...)
	raise(&v.minLen, s.minLength)
	lower(&v.maxLen, s.maxLength)
	if s.pattern != nil {
		v.patterns = append(slices.Clip(v.patterns), s.pattern)
	}
	if formats[s.format] != "" {
		v.formats = append(slices.Clip(v.formats), s.format)
	}
	raise(&v.minItems, s.minItems)
	lower(&v.maxItems, s.maxItems)
	v.unique = v.unique || s.unique
	if s.prefix != nil || s.items != nil {
		v.arrays = append(slices.Clip(v.arrays), s)
	}
	if s.contains != nil {
		least := s.minContains
		if least < 0 {
			least = 1
		}
		v.contains = append(slices.Clip(v.contains), containing{claim{s.contains, false}, 0, least, s.maxContains})
	}
	raise(&v.minKeys, s.minProperties)
	lower(&v.maxKeys, s.maxProperties)
	if s.properties != nil || s.patterns != nil || s.additional != nil {
		v.objects = append(slices.Clip(v.objects), s)
	}
	for _, k := range s.required {
		v.must = append(slices.Clip(v.must), member{k, nil})
	}
	if s.names != nil {
		v.names = append(slices.Clip(v.names), claim{s.names, false})
	}
	if s.ref != nil {
		more = append(more, claim{s.ref, false})
	}
	for _, a := range s.allOf {
		more = append(more, claim{a, false})
	}
	if s.not != nil {
		more = append(more, claim{s.not, true})
	}
	if s.anyOf != nil {
		choices = append(choices, each(s.anyOf, false))
	}
	if s.oneOf != nil {
		choices = append(choices, exactlyOne(s.oneOf))
	}
	if s.condition != nil {
		yes, no := branch{claims: goal{{s.condition, false}}}, branch{claims: goal{{s.condition, true}}}
		if s.consequence != nil {
			yes.claims = append(yes.claims, claim{s.consequence, false})
		}
		if s.alt != nil {
			no.claims = append(no.claims, claim{s.alt, false})
		}
		choices = append(choices, []branch{yes, no})
	}
	for _, n := range s.needs {
		choices = append(choices, dependent(n.name, branch{change: func(v *variant) {
			for _, k := range n.others {
				v.must = append(slices.Clip(v.must), member{k, nil})
			}
		}}))
	}
	for _, d := range s.dependents {
		choices = append(choices, dependent(d.name, branch{claims: goal{{d.s, false}}}))
	}
	return more, choices
}

// dependent are the ways of "with this member also that".
func dependent(name string, with branch) []branch {
	change := with.change
	with.change = func(v *variant) {
		v.types &= tObject
		v.must = append(slices.Clip(v.must), member{name, nil})
		if change != nil {
			change(v)
		}
	}
	return []branch{with, {change: func(v *variant) { v.forbid = append(slices.Clip(v.forbid), name) }}}
}

func each(list []*schema, not bool) []branch {
	var out []branch
	for _, s := range list {
		out = append(out, branch{claims: goal{{s, not}}})
	}
	return out
}

func exactlyOne(list []*schema) []branch {
	var out []branch
	for i, s := range list {
		b := branch{claims: goal{{s, false}}}
		for j, other := range list {
			if i != j {
				b.claims = append(b.claims, claim{other, true})
			}
		}
		out = append(out, b)
	}
	return out
}

func raise(to *int32, from int32) { *to = max(*to, from) }

func lower(to *int32, from int32) {
	if from >= 0 && (*to < 0 || from < *to) {
		*to = from
	}
}

// refute are the ways in which a value is not valid under a schema: one keyword fails. Some ways are left out, which is
// never wrong, only narrow: an array with equal items, and a text that a format does not have.
func (s *schema) refute() []branch {
	var out []branch
	way := func(t types, change func(*variant)) {
		out = append(out, branch{change: func(v *variant) {
			if v.types &= t; change != nil {
				change(v)
			}
		}})
	}
	if s.never {
		return []branch{{}}
	}
	if s.types != 0 {
		way(tAll&^s.types, nil)
	}
	for _, list := range [][]any{s.enum, s.fixed} {
		if list != nil {
			out = append(out, noneOf(list)...)
		}
	}
	numeric := tWhole | tFraction
	if n := s.num; n.lo != nil {
		way(numeric, func(v *variant) { v.num.atMost(n.lo, !n.loStrict) })
	}
	if n := s.num; n.hi != nil {
		way(numeric, func(v *variant) { v.num.atLeast(n.hi, !n.hiStrict) })
	}
	for _, m := range s.multipleOf {
		way(numeric, func(v *variant) { v.notDivisors = append(slices.Clip(v.notDivisors), m) })
	}
	out = append(out, s.refuteCounts()...)
	if s.pattern != nil {
		way(tString, func(v *variant) { v.antipatterns = append(slices.Clip(v.antipatterns), s.pattern) })
	}
	out = append(out, s.refuteItems()...)
	out = append(out, s.refuteMembers()...)
	if s.ref != nil {
		out = append(out, branch{claims: goal{{s.ref, true}}})
	}
	out = append(out, each(s.allOf, true)...)
	if s.not != nil {
		out = append(out, branch{claims: goal{{s.not, false}}})
	}
	if s.anyOf != nil {
		out = append(out, branch{claims: all(s.anyOf, true)})
	}
	if s.oneOf != nil {
		out = append(out, branch{claims: all(s.oneOf, true)})
		for i := range s.oneOf {
			for j := range i {
				out = append(out, branch{claims: goal{{s.oneOf[j], false}, {s.oneOf[i], false}}})
			}
		}
	}
	if s.condition != nil && s.consequence != nil {
		out = append(out, branch{claims: goal{{s.condition, false}, {s.consequence, true}}})
	}
	if s.condition != nil && s.alt != nil {
		out = append(out, branch{claims: goal{{s.condition, true}, {s.alt, true}}})
	}
	return out
}

func all(list []*schema, not bool) goal {
	var g goal
	for _, s := range list {
		g = append(g, claim{s, not})
	}
	return g
}

// noneOf are the ways to differ from all values. An array or object differs by its size.
func noneOf(list []any) []branch {
	out := []branch{{}}
	for _, value := range list {
		t := typeOf(value)
		var next []branch
		for _, b := range out {
			more := func(f func(*variant)) {
				before := b.change
				next = append(next, branch{change: func(v *variant) {
					if before != nil {
						before(v)
					}
					f(v)
				}})
			}
			size := int32(0)
			switch value := value.(type) {
			case []any:
				size = int32(len(value))
			case *object:
				size = int32(len(value.keys))
			default:
				more(func(v *variant) { v.except = append(slices.Clip(v.except), value) })
				continue
			}
			if len(next) > 64 {
				break
			}
			least, most := func(v *variant) *int32 { return &v.minItems }, func(v *variant) *int32 { return &v.maxItems }
			if t == tObject {
				least, most = func(v *variant) *int32 { return &v.minKeys }, func(v *variant) *int32 { return &v.maxKeys }
			}
			more(func(v *variant) { v.types &^= t })
			more(func(v *variant) { v.types &= t; raise(least(v), size+1) })
			if size > 0 {
				more(func(v *variant) { v.types &= t; lower(most(v), size-1) })
			}
		}
		out = next
	}
	return out
}

// refuteCounts are the ways to have too few or too many characters, items or members.
func (s *schema) refuteCounts() []branch {
	var out []branch
	for _, c := range []struct {
		t           types
		least, most int32
		min, max    func(*variant) *int32
	}{
		{tString, s.minLength, s.maxLength, func(v *variant) *int32 { return &v.minLen }, func(v *variant) *int32 { return &v.maxLen }},
		{tArray, s.minItems, s.maxItems, func(v *variant) *int32 { return &v.minItems }, func(v *variant) *int32 { return &v.maxItems }},
		{tObject, s.minProperties, s.maxProperties, func(v *variant) *int32 { return &v.minKeys }, func(v *variant) *int32 { return &v.maxKeys }},
	} {
		if c.least > 0 {
			out = append(out, branch{change: func(v *variant) { v.types &= c.t; lower(c.max(v), c.least-1) }})
		}
		if c.most >= 0 {
			out = append(out, branch{change: func(v *variant) { v.types &= c.t; raise(c.min(v), c.most+1) }})
		}
	}
	return out
}

// refuteItems are the ways in which an array has a wrong item, or too few or too many that contains asks for.
func (s *schema) refuteItems() []branch {
	var out []branch
	for i, p := range s.prefix {
		out = append(out, branch{change: func(v *variant) {
			v.types &= tArray
			raise(&v.minItems, int32(i)+1)
			v.at = append(slices.Clip(v.at), place{int32(i), claim{p, true}})
		}})
	}
	if s.items != nil {
		from := int32(len(s.prefix))
		out = append(out, branch{change: func(v *variant) {
			v.types &= tArray
			v.contains = append(slices.Clip(v.contains), containing{claim{s.items, true}, from, 1, -1})
		}})
	}
	if s.contains == nil {
		return out
	}
	least := s.minContains
	if least < 0 {
		least = 1
	}
	if least > 0 { // the items that are counted are fewer: none is, a narrow way where least is above 1
		out = append(out, branch{change: func(v *variant) {
			v.types &= tArray
			v.at = append(slices.Clip(v.at), place{-1, claim{s.contains, true}})
		}})
	}
	if s.maxContains >= 0 {
		out = append(out, branch{change: func(v *variant) {
			v.types &= tArray
			v.contains = append(slices.Clip(v.contains), containing{claim{s.contains, false}, 0, s.maxContains + 1, -1})
		}})
	}
	return out
}

// refuteMembers are the ways in which an object has a wrong member or lacks one.
func (s *schema) refuteMembers() []branch {
	var out []branch
	way := func(change func(*variant)) {
		out = append(out, branch{change: func(v *variant) { v.types &= tObject; change(v) }})
	}
	for _, k := range s.required {
		way(func(v *variant) { v.forbid = append(slices.Clip(v.forbid), k) })
	}
	for _, p := range s.properties {
		way(func(v *variant) { v.must = append(slices.Clip(v.must), member{p.name, goal{{p.s, true}}}) })
	}
	for _, p := range s.patterns {
		way(func(v *variant) {
			v.exists = append(slices.Clip(v.exists), existing{name: p.d, claim: &claim{p.s, true}})
		})
	}
	if s.additional != nil {
		if d, err := s.unnamed(); err == nil {
			way(func(v *variant) {
				v.exists = append(slices.Clip(v.exists), existing{name: d, claim: &claim{s.additional, true}})
			})
		}
	}
	if s.names != nil {
		way(func(v *variant) { v.exists = append(slices.Clip(v.exists), existing{names: goal{{s.names, true}}}) })
	}
	for _, n := range s.needs {
		for _, k := range n.others {
			way(func(v *variant) {
				v.must = append(slices.Clip(v.must), member{n.name, nil})
				v.forbid = append(slices.Clip(v.forbid), k)
			})
		}
	}
	for _, d := range s.dependents {
		out = append(out, branch{claims: goal{{d.s, true}}, change: func(v *variant) {
			v.types &= tObject
			v.must = append(slices.Clip(v.must), member{d.name, nil})
		}})
	}
	return out
}

// unnamed is the automaton of the names that additionalProperties is about.
func (s *schema) unnamed() (*dfa, error) {
	d, err := chars(0, -1, false)
	for _, p := range s.properties {
		if err == nil {
			d, err = minus(d, word(p.name))
		}
	}
	for _, p := range s.patterns {
		if err == nil {
			d, err = minus(d, p.d)
		}
	}
	return d, err
}
