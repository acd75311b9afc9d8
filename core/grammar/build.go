package grammar

import (
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Schema compiles a JSON Schema: JSON as a whole text.
func Schema(source []byte, v *Vocabulary) (*Grammar, error) { return Compile(JSON(source), v) }

// builder turns goals into nodes.
type builder struct {
	vocab *Vocabulary
	nodes []*node
	goals map[string]*node
	small bool // narrow ways only, one text for each value: for items that must be distinct
	depth int
	ids   int       // of schemas, over all documents
	until time.Time // when compiling has taken too long

	space, comma, nothing, char *node
}

func (b *builder) add(n *node) (*node, error) {
	if b.nodes = append(b.nodes, n); len(b.nodes) > maxNodes {
		return nil, fmt.Errorf("the grammar has more than %d nodes: %w", maxNodes, sdk.ErrInvalid)
	}
	if time.Now().After(b.until) {
		return nil, fmt.Errorf("compiling takes longer than %v: %w", maxCompile, sdk.ErrInvalid)
	}
	return n, nil
}

func (b *builder) word(w string) (*node, error) { return b.add(&node{kind: terminal, dfa: word(w)}) }

func (b *builder) terminal(d *dfa) (*node, error) { return b.add(&node{kind: terminal, dfa: d}) }

func (b *builder) seq(kids ...*node) (*node, error) { return b.add(&node{kind: sequence, kids: kids}) }

func (b *builder) choice(kids []*node) (*node, error) {
	if len(kids) == 1 {
		return kids[0], nil
	}
	return b.add(&node{kind: choice, kids: kids})
}

// separators makes the nodes that all arrays and objects share.
func (b *builder) separators() (err error) {
	if b.comma != nil {
		return nil
	}
	if b.nothing, err = b.word(""); err != nil {
		return err
	}
	if b.space = b.nothing; !b.small {
		d, err := words([]string{"", " "})
		if err != nil {
			return err
		}
		if b.space, err = b.terminal(d); err != nil {
			return err
		}
	}
	comma, err := b.word(",")
	if err != nil {
		return err
	}
	b.comma, err = b.seq(comma, b.space)
	return err
}

// maxGoals bounds the goals of one schema: subsets of its schemas could be many.
const maxGoals = 4000

// smallDepth is how deep values are that must be distinct.
const smallDepth = 3

// goal is the node of the values that meet a goal.
func (b *builder) goal(g goal) (*node, error) {
	key := g.key()
	if n, ok := b.goals[key]; ok {
		return n, nil
	}
	if len(b.goals) >= maxGoals {
		return nil, fmt.Errorf("more than %d combinations of schemas: %w", maxGoals, sdk.ErrInvalid)
	}
	if err := b.separators(); err != nil {
		return nil, err
	}
	n, err := b.add(&node{kind: choice})
	if err != nil {
		return nil, err
	}
	b.goals[key] = n
	b.depth++
	defer func() { b.depth-- }()
	variants, err := g.variants()
	if err != nil {
		return nil, err
	}
	texts := map[string]bool{}
	for _, v := range variants {
		if len(v.values) > 0 {
			for _, value := range v.values[0] {
				if t := text(value); !texts[t] && g.holds(value) {
					texts[t] = true
					w, err := b.word(t)
					if err != nil {
						return nil, err
					}
					n.kids = append(n.kids, w)
				}
			}
			continue
		}
		kids, err := b.variant(&v)
		if err != nil {
			return nil, g.at(err)
		}
		n.kids = append(n.kids, kids...)
	}
	return n, nil
}

// at says of which schema an error is, if none has said it yet.
func (g goal) at(err error) error {
	for _, c := range g {
		if !c.not {
			return placed(c.s.path, err)
		}
	}
	return err
}

// placedError is an error that names its place.
type placedError struct{ error }

func (p placedError) Unwrap() error { return p.error }

func placed(path string, err error) error {
	if _, ok := err.(placedError); ok {
		return err
	}
	return placedError{fmt.Errorf("%s: %w", path, err)}
}

// variant makes the nodes of one variant.
func (b *builder) variant(v *variant) ([]*node, error) {
	var out []*node
	scalars, err := b.scalars(v)
	if err != nil {
		return nil, err
	}
	out = append(out, scalars...)
	deep := b.small && b.depth > smallDepth
	if v.types&tArray != 0 && !deep {
		kids, err := b.arrays(v)
		if err != nil {
			return nil, err
		}
		out = append(out, kids...)
	}
	if v.types&tObject != 0 && !deep {
		kids, err := b.objects(v)
		if err != nil {
			return nil, err
		}
		out = append(out, kids...)
	}
	return out, nil
}

// scalars makes the nodes of null, booleans, numbers and strings.
func (b *builder) scalars(v *variant) ([]*node, error) {
	var fixed []string
	if v.types&tNull != 0 && !among(v.except, nil) {
		fixed = append(fixed, "null")
	}
	if v.types&tBool != 0 {
		for _, value := range []bool{true, false} {
			if !among(v.except, value) {
				fixed = append(fixed, text(value))
			}
		}
	}
	var out []*node
	put := func(d *dfa, err error) error {
		if err != nil || d.empty() {
			return err
		}
		n, err := b.terminal(d)
		out = append(out, n)
		return err
	}
	for _, w := range fixed {
		if err := put(word(w), nil); err != nil {
			return nil, err
		}
	}
	if v.types&(tWhole|tFraction) != 0 {
		if err := put(b.numbers(v)); err != nil {
			return nil, err
		}
	}
	if v.types&tString != 0 {
		n, err := b.strings(v)
		if err != nil {
			return nil, err
		}
		if n != nil {
			out = append(out, n)
		}
	}
	return out, nil
}

// maxDivisor bounds divisors that an automaton counts by; others are met by a list of numbers.
const maxDivisor = 2000

// numbers is the automaton of a variant's numbers.
func (b *builder) numbers(v *variant) (*dfa, error) {
	out := &dfa{width: 1}
	simple := true
	for _, m := range slices.Concat(v.divisors, v.notDivisors) {
		simple = simple && m.IsInt() && m.Num().IsInt64() && m.Num().Int64() <= maxDivisor
	}
	var err error
	if simple && v.types&tWhole != 0 {
		if out, err = b.whole(v); err != nil {
			return nil, err
		}
	}
	if simple && v.types&tFraction != 0 && len(v.divisors) == 0 {
		lo, hi := v.num.scaled(pow10(places), 9+places)
		if b.small {
			lo, hi = v.num.scaled(pow10(places), 2+places)
		}
		if most := big.NewInt(pow10(9 + places)); lo.CmpAbs(most) <= 0 && hi.CmpAbs(most) <= 0 {
			d, err := fractions(lo, hi)
			if err == nil {
				out, err = union(out, d)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	if out.empty() {
		if out, err = b.listed(v); err != nil {
			return nil, err
		}
	}
	var not []string
	for _, e := range v.except {
		if n, ok := e.(number); ok {
			not = append(not, plainDecimal(n))
		}
	}
	if len(not) == 0 || out.empty() {
		return out, nil
	}
	d, err := words(not)
	if err != nil {
		return nil, err
	}
	return minus(out, d)
}

func pow10(n int) int64 {
	p := int64(1)
	for range n {
		p *= 10
	}
	return p
}

// whole is the automaton of the whole numbers; those without a bound have at most fifteen digits, so that every reader
// holds them exactly.
func (b *builder) whole(v *variant) (*dfa, error) {
	digits := 15
	if b.small {
		digits = 4
	}
	lo, hi := v.num.scaled(1, digits)
	d, err := wholeNumbers(lo, hi)
	for _, m := range v.divisors {
		var by *dfa
		if by, err = multiples(m.Num().Int64(), false); err == nil {
			d, err = intersect(d, by)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, m := range v.notDivisors {
		var by *dfa
		if by, err = multiples(m.Num().Int64(), true); err == nil {
			d, err = intersect(d, by)
		}
		if err != nil {
			return nil, err
		}
	}
	return d, err
}

// listed is the automaton of the candidates that a variant takes.
func (b *builder) listed(v *variant) (*dfa, error) {
	var texts []string
	for _, n := range v.num.candidates(v.divisors) {
		ok := typeOf(n)&v.types != 0 && v.num.holds(n.rat) && !among(v.except, n)
		for _, m := range v.divisors {
			ok = ok && divides(m, n.rat)
		}
		for _, m := range v.notDivisors {
			ok = ok && !divides(m, n.rat)
		}
		if ok {
			texts = append(texts, n.text)
		}
	}
	return words(texts[:min(len(texts), 64)])
}

// plainDecimal is a number as the automata write it: no exponent, no zeros at the end.
func plainDecimal(n number) string {
	if n.rat.IsInt() {
		return n.rat.Num().String()
	}
	f, _ := n.rat.Float64()
	s := big.NewFloat(f).Text('f', -1)
	return s
}

// strings is the node of a variant's strings; nil if there are none.
func (b *builder) strings(v *variant) (*node, error) {
	if v.maxLen >= 0 && v.maxLen < v.minLen {
		return nil, nil
	}
	var except []string
	for _, e := range v.except {
		if s, ok := e.(string); ok {
			except = append(except, s)
		}
	}
	if len(v.patterns)+len(v.antipatterns)+len(v.formats)+len(except) == 0 && !b.small {
		return b.free(v.minLen, v.maxLen)
	}
	d, err := b.content(v, except)
	if err != nil || d.empty() {
		return nil, err
	}
	if d, err = escaped(d, true); err != nil {
		return nil, err
	}
	return b.terminal(d)
}

// free is the node of strings that have a length alone.
func (b *builder) free(least, most int32) (*node, error) {
	if most < 0 && least == 0 {
		d, err := chars(0, -1, false)
		if err == nil {
			d, err = escaped(d, true)
		}
		if err != nil {
			return nil, err
		}
		return b.terminal(d)
	}
	if b.char == nil {
		d, err := chars(1, 1, false)
		if err == nil {
			d, err = escaped(d, false)
		}
		if err != nil {
			return nil, err
		}
		if b.char, err = b.terminal(d); err != nil {
			return nil, err
		}
	}
	q, err := b.word(`"`)
	if err != nil {
		return nil, err
	}
	many, err := b.add(&node{kind: repeat, kids: []*node{b.char}, min: least, max: most})
	if err != nil {
		return nil, err
	}
	return b.seq(q, many, q)
}

// content is the automaton of a variant's strings as they are, not as they are written. Where it can, it keeps to
// printable ASCII: what classes such as \W and . take beyond that differs between readers of expressions.
func (b *builder) content(v *variant, except []string) (*dfa, error) {
	least, most := v.minLen, v.maxLen
	if b.small {
		lower(&most, least+6)
	}
	for _, ascii := range []bool{true, false} {
		d, err := chars(least, most, ascii)
		if err != nil { // so many characters can't be counted beside an expression: fewer are right too
			most = least + 64
			d, err = chars(least, most, ascii)
		}
		step := func(other *dfa, combine func(a, b *dfa) (*dfa, error)) {
			if err == nil {
				var next *dfa
				if next, err = combine(d, other); err == nil {
					d = next
				}
			}
		}
		for _, p := range v.patterns {
			step(p, intersect)
		}
		for _, p := range v.antipatterns {
			step(p, minus)
		}
		for _, f := range v.formats {
			other, e := compileRegex(formats[f])
			if e != nil {
				return nil, e
			}
			step(other, intersect)
		}
		if len(except) > 0 {
			other, e := words(except)
			if e != nil {
				return nil, e
			}
			step(other, minus)
		}
		if err != nil {
			return nil, err
		}
		if !d.empty() {
			return d, nil
		}
	}
	return &dfa{width: 1}, nil
}

// names is the automaton of the strings that meet a goal, as names of members.
func (b *builder) names(g goal) (*dfa, error) {
	if len(g) == 0 {
		return chars(0, -1, false)
	}
	variants, err := g.variants()
	if err != nil {
		return nil, err
	}
	out := &dfa{width: 1}
	for _, v := range variants {
		if v.types&tString == 0 {
			continue
		}
		var d *dfa
		if len(v.values) > 0 {
			var list []string
			for _, value := range v.values[0] {
				if s, ok := value.(string); ok && g.holds(s) {
					list = append(list, s)
				}
			}
			d, err = words(list)
		} else {
			var except []string
			for _, e := range v.except {
				if s, ok := e.(string); ok {
					except = append(except, s)
				}
			}
			if d, err = b.content(&v, except); v.maxLen >= 0 && v.maxLen < v.minLen {
				d, err = &dfa{width: 1}, nil
			}
		}
		if err == nil {
			out, err = union(out, d)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
