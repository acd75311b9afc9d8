package jinja

import (
	"math"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// filters by name. It is filled in init because filters call each other by name.
var filters map[string]builtin

func init() {
	filters = map[string]builtin{
		"abs": absFilter, "attr": attrFilter, "batch": batchFilter, "capitalize": onText("capitalize", func(s string) Value { return capitalize(s) }),
		"center": centerFilter, "count": lengthFilter, "d": defaultFilter, "default": defaultFilter, "dictsort": dictsortFilter,
		"e": escapeFilter, "escape": escapeFilter, "first": firstFilter, "float": floatFilter, "format": formatFilter,
		"groupby": groupbyFilter, "indent": indentFilter, "int": intFilter, "items": itemsFilter, "join": joinFilter,
		"last": lastFilter, "length": lengthFilter, "list": listFilter, "lower": onText("lower", func(s string) Value { return lowerText(s) }),
		"map": mapFilter, "max": extreme("max", 1), "min": extreme("min", -1), "reject": selector("reject", false, false),
		"rejectattr": selector("rejectattr", true, false), "replace": replaceFilter, "reverse": reverseFilter, "round": roundFilter,
		"safe": onText("safe", func(s string) Value { return s }), "select": selector("select", false, true),
		"selectattr": selector("selectattr", true, true), "slice": sliceFilter, "sort": sortFilter,
		"string": onText("string", func(s string) Value { return s }), "sum": sumFilter, "title": onText("title", func(s string) Value { return titleFilter(s) }),
		"tojson": tojsonFilter, "trim": trimFilter, "truncate": truncateFilter, "unique": uniqueFilter,
		"upper": onText("upper", func(s string) Value { return upperText(s) }), "urlencode": urlencodeFilter, "wordcount": wordcountFilter,
	}
}

func upperText(s string) string { return cases.Upper(language.Und).String(s) }
func lowerText(s string) string { return cases.Lower(language.Und).String(s) }

func capitalize(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return cases.Title(language.Und).String(s[:n]) + lowerText(s[n:])
}

// titleFilter starts a word after white space and opening brackets and dashes only; str.title is another matter.
func titleFilter(s string) string {
	var b strings.Builder
	start := 0
	flush := func(end int) {
		if start < end {
			_, n := utf8.DecodeRuneInString(s[start:end])
			b.WriteString(upperText(s[start:start+n]) + lowerText(s[start+n:end]))
		}
		start = end
	}
	for i, r := range s {
		if isSpace(r) || strings.ContainsRune("-({[<", r) {
			flush(i)
			start = i + utf8.RuneLen(r)
			b.WriteRune(r)
		}
	}
	flush(len(s))
	return b.String()
}

func absFilter(_ *machine, v Value, a args) (Value, error) {
	if _, err := a.params("abs", 0); err != nil {
		return nil, err
	}
	if n, ok := v.(*big.Int); ok {
		return new(big.Int).Abs(n), nil
	}
	i, f, isFloat, ok := number(v)
	switch {
	case i == math.MinInt64:
		return fromBig(new(big.Int).Neg(big.NewInt(i))), nil
	case !ok:
		return nil, errorf("bad operand type for abs(): '%s'", typeName(v))
	case isFloat:
		return math.Abs(f), nil
	case i < 0:
		return -i, nil
	}
	return i, nil
}

func attrFilter(_ *machine, v Value, a args) (Value, error) {
	p, err := a.params("attr", 1, "name")
	if err != nil {
		return nil, err
	}
	name, err := asStr(p[0], "")
	if err != nil {
		return nil, err
	}
	if _, ok := v.(*Dict); ok && dictMethods[name] == nil { // attr never looks at keys
		return undef("'dict object' has no attribute '%s'", name), nil
	}
	return getAttr(v, name)
}

func defaultFilter(_ *machine, v Value, a args) (Value, error) {
	p, err := a.params("default", 0, "default_value", "boolean")
	if err != nil {
		return nil, err
	}
	_, missing := v.(*undefined)
	if missing || asBool(p[1], false) && !truth(v) {
		if !given(p[0]) {
			return "", nil
		}
		return p[0], nil
	}
	return v, nil
}

func lengthFilter(m *machine, v Value, a args) (Value, error) {
	if _, err := a.params("length", 0); err != nil {
		return nil, err
	}
	n, err := length(v)
	if s, ok := v.(string); ok && err == nil {
		err = m.charge(len(s))
	}
	return int64(n), err
}

func listFilter(m *machine, v Value, a args) (Value, error) {
	if _, err := a.params("list", 0); err != nil {
		return nil, err
	}
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	return &List{items: slices.Clone(items)}, m.slots(len(items))
}

func firstFilter(m *machine, v Value, a args) (Value, error) {
	if _, err := a.params("first", 0); err != nil {
		return nil, err
	}
	if g, ok := v.(*generator); ok && !g.used && len(g.items) > 0 { // takes one value only
		x := g.items[0]
		g.items = g.items[1:]
		return x, nil
	}
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return undef("No first item, sequence was empty."), nil
	}
	return items[0], nil
}

func lastFilter(m *machine, v Value, a args) (Value, error) {
	if _, err := a.params("last", 0); err != nil {
		return nil, err
	}
	if _, ok := v.(*generator); ok {
		return nil, errorf("'generator' object is not reversible")
	}
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return undef("No last item, sequence was empty."), nil
	}
	return items[len(items)-1], nil
}

func itemsFilter(m *machine, v Value, a args) (Value, error) {
	if _, err := a.params("items", 0); err != nil {
		return nil, err
	}
	switch d := v.(type) {
	case *undefined:
		return &generator{}, nil
	case *Dict:
		l, err := m.pairs(d)
		return &generator{items: l}, err
	}
	return nil, errorf("Can only get item pairs from a mapping.")
}

// pairs are the (key, value) tuples of a mapping.
func (m *machine) pairs(d *Dict) ([]Value, error) {
	if err := m.slots(3 * len(d.keys)); err != nil {
		return nil, err
	}
	out := make([]Value, len(d.keys))
	for i := range d.keys {
		out[i] = &List{items: []Value{d.keys[i], d.values[i]}, tuple: true}
	}
	return out, nil
}

func joinFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("join", 0, "d", "attribute")
	if err != nil {
		return nil, err
	}
	sep := ""
	if given(p[0]) {
		if sep, err = str(p[0]); err != nil {
			return nil, err
		}
	}
	get, err := m.getter(p[1], absent{})
	if err != nil {
		return nil, err
	}
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i, item := range items {
		x, err := get(item)
		if err != nil {
			return nil, err
		}
		s, err := str(x)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			s = sep + s
		}
		if err := m.add(&b, s); err != nil {
			return nil, err
		}
	}
	return b.String(), nil
}

// add appends to a text that is being built.
func (m *machine) add(b *strings.Builder, s string) error {
	if b.Len()+len(s) > MaxOutput {
		return errorf("a text of more than %d bytes", MaxOutput)
	}
	b.WriteString(s)
	return m.charge(len(s) + 8)
}

func mapFilter(m *machine, v Value, a args) (Value, error) {
	var apply func(Value) (Value, error)
	if len(a.pos) == 0 {
		p, err := a.params("map", 1, "attribute", "default")
		if err != nil {
			return nil, err
		}
		if apply, err = m.getter(p[0], p[1]); err != nil {
			return nil, err
		}
	} else {
		name, err := asStr(a.pos[0], "")
		if err != nil {
			return nil, err
		}
		f := filters[name]
		if f == nil {
			return nil, unsupported("filter %q", name)
		}
		rest := args{pos: a.pos[1:], kw: a.kw}
		apply = func(v Value) (Value, error) { return f(m, v, rest) }
	}
	items, err := m.walk(v)
	if err != nil {
		return nil, err
	}
	if err := m.slots(len(items)); err != nil {
		return nil, err
	}
	out := make([]Value, 0, len(items))
	for _, item := range items {
		if err := m.step(); err != nil {
			return nil, err
		}
		x, err := apply(item)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return &generator{items: out}, nil
}

// walk is iterate for the filters that take everything false for an empty list.
func (m *machine) walk(v Value) ([]Value, error) {
	if !truth(v) {
		return nil, nil
	}
	return m.iterate(v)
}

// selector makes select, reject, selectattr and rejectattr.
func selector(what string, byAttr, keep bool) builtin {
	return func(m *machine, v Value, a args) (Value, error) {
		get := func(v Value) (Value, error) { return v, nil }
		pos := a.pos
		if byAttr {
			if len(pos) == 0 {
				return nil, errorf("%s misses the name of an attribute", what)
			}
			var err error
			if get, err = m.getter(pos[0], absent{}); err != nil {
				return nil, err
			}
			pos = pos[1:]
		}
		check := func(v Value) (bool, error) { return truth(v), nil }
		if len(pos) > 0 {
			name, err := asStr(pos[0], "")
			if err != nil {
				return nil, err
			}
			t := tests[name]
			if t == nil {
				return nil, unsupported("test %q", name)
			}
			rest := args{pos: pos[1:], kw: a.kw}
			check = func(v Value) (bool, error) { return t(m, v, rest) }
		}
		items, err := m.walk(v)
		if err != nil {
			return nil, err
		}
		if err := m.slots(len(items)); err != nil {
			return nil, err
		}
		var out []Value
		for _, item := range items {
			if err := m.step(); err != nil {
				return nil, err
			}
			x, err := get(item)
			if err != nil {
				return nil, err
			}
			ok, err := check(x)
			if err != nil {
				return nil, err
			}
			if ok == keep {
				out = append(out, item)
			}
		}
		return &generator{items: out}, nil
	}
}

// folded is a sort key without regard to case.
func folded(v Value, caseSensitive bool) Value {
	if s, ok := v.(string); ok && !caseSensitive {
		return lowerText(s)
	}
	return v
}

// sortKeys are what values are compared by.
func (m *machine) sortKeys(items []Value, attribute Value, caseSensitive bool) ([]Value, error) {
	get, err := m.getter(attribute, absent{})
	if err != nil {
		return nil, err
	}
	if err := m.slots(len(items)); err != nil {
		return nil, err
	}
	keys := make([]Value, len(items))
	for i, item := range items {
		// A sort compares each key some twenty times.
		if err := m.charge(20 * (1 + weight(item))); err != nil {
			return nil, err
		}
		k, err := get(item)
		if err != nil {
			return nil, err
		}
		keys[i] = folded(k, caseSensitive)
	}
	return keys, nil
}

func sortFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("sort", 0, "reverse", "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	// The attribute may be several with commas between them; even one is compared as a list of one.
	paths := []Value{p[2]}
	if s, ok := p[2].(string); ok {
		paths = paths[:0]
		for _, part := range strings.Split(s, ",") {
			paths = append(paths, part)
		}
	}
	rows := make([]Value, len(items))
	for i := range rows {
		rows[i] = NewList()
	}
	for _, path := range paths {
		keys, err := m.sortKeys(items, path, asBool(p[1], false))
		if err != nil {
			return nil, err
		}
		for i, row := range rows {
			row.(*List).items = append(row.(*List).items, keys[i])
		}
	}
	return m.sortedBy(items, rows, asBool(p[0], false))
}

func (m *machine) sorted(items []Value, attribute Value, caseSensitive, reverse bool) (*List, error) {
	keys, err := m.sortKeys(items, attribute, caseSensitive)
	if err != nil {
		return nil, err
	}
	return m.sortedBy(items, keys, reverse)
}

func (m *machine) sortedBy(items, keys []Value, reverse bool) (*List, error) {
	at := make([]int, len(items))
	for i := range at {
		at[i] = i
	}
	if err := m.sortBy(at, keys, reverse); err != nil {
		return nil, err
	}
	out := make([]Value, len(items))
	for i, j := range at {
		out[i] = items[j]
	}
	return &List{items: out}, nil
}

func dictsortFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("dictsort", 0, "case_sensitive", "by", "reverse")
	if err != nil {
		return nil, err
	}
	d, ok := v.(*Dict)
	if !ok {
		return nil, errorf("dictsort of a '%s' object", typeName(v))
	}
	by, err := asStr(p[1], "key")
	if err != nil {
		return nil, err
	}
	if by != "key" && by != "value" {
		return nil, errorf("You can only sort by either \"key\" or \"value\"")
	}
	pairs, err := m.pairs(d)
	if err != nil {
		return nil, err
	}
	return m.sorted(pairs, map[string]Value{"key": int64(0), "value": int64(1)}[by], asBool(p[0], false), asBool(p[2], false))
}

func uniqueFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("unique", 0, "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	keys, err := m.sortKeys(items, p[1], asBool(p[0], false))
	if err != nil {
		return nil, err
	}
	seen := map[any]bool{}
	var out []Value
	for i, k := range keys {
		h, err := hash(k)
		if err != nil {
			return nil, err
		}
		if !seen[h] {
			seen[h] = true
			out = append(out, items[i])
		}
	}
	return &generator{items: out}, nil
}

func groupbyFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("groupby", 1, "attribute", "default", "case_sensitive")
	if err != nil {
		return nil, err
	}
	get, err := m.getter(p[0], p[1])
	if err != nil {
		return nil, err
	}
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	pairs := make([]Value, len(items)) // (key, item)
	for i, item := range items {
		k, err := get(item)
		if err != nil {
			return nil, err
		}
		pairs[i] = &List{items: []Value{folded(k, asBool(p[2], false)), item, k}, tuple: true}
	}
	sorted, err := m.sorted(pairs, int64(0), true, false)
	if err != nil {
		return nil, err
	}
	out := NewList()
	var last Value
	for i, pair := range sorted.items {
		x := pair.(*List).items
		same := false
		if i > 0 {
			if same, err = m.equal(x[0], last, 0); err != nil {
				return nil, err
			}
		}
		if last = x[0]; !same {
			out.items = append(out.items, &List{items: []Value{x[2], NewList()}, tuple: true, names: []string{"grouper", "list"}})
		}
		group := out.items[len(out.items)-1].(*List).items[1].(*List)
		group.items = append(group.items, x[1])
	}
	return out, m.slots(4 * len(items))
}

// extreme makes min and max.
func extreme(name string, want int) builtin {
	return func(m *machine, v Value, a args) (Value, error) {
		p, err := a.params(name, 0, "case_sensitive", "attribute")
		if err != nil {
			return nil, err
		}
		items, err := m.iterate(v)
		if err != nil {
			return nil, err
		}
		if len(items) == 0 {
			return undef("No aggregated item, sequence was empty."), nil
		}
		keys, err := m.sortKeys(items, p[1], asBool(p[0], false))
		if err != nil {
			return nil, err
		}
		best := 0
		for i := range keys {
			c, err := m.order(keys[i], keys[best], "<", 0)
			if err != nil {
				return nil, err
			}
			if c == want {
				best = i
			}
		}
		return items[best], nil
	}
}

func sumFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("sum", 0, "attribute", "start")
	if err != nil {
		return nil, err
	}
	get, err := m.getter(p[0], absent{})
	if err != nil {
		return nil, err
	}
	total := Value(int64(0))
	if given(p[1]) {
		total = p[1]
	}
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	for _, item := range items {
		x, err := get(item)
		if err != nil {
			return nil, err
		}
		if total, err = m.arithmetic("+", total, x); err != nil {
			return nil, err
		}
	}
	return total, nil
}

func reverseFilter(m *machine, v Value, a args) (Value, error) {
	if _, err := a.params("reverse", 0); err != nil {
		return nil, err
	}
	if s, ok := v.(string); ok {
		r := []rune(s)
		slices.Reverse(r)
		return string(r), m.room(4 * len(s))
	}
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(items)
	slices.Reverse(out)
	return &generator{items: out}, m.slots(len(out))
}

func batchFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("batch", 1, "linecount", "fill_with")
	if err != nil {
		return nil, err
	}
	n, err := asInt(p[0], 0)
	if err != nil {
		return nil, err
	}
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	if n < 1 || n > maxRange {
		return nil, errorf("batch of %d", n)
	}
	var out []Value
	for start := 0; start < len(items); start += int(n) {
		row := slices.Clone(items[start:min(start+int(n), len(items))])
		for given(p[1]) && p[1] != nil && len(row) < int(n) {
			row = append(row, p[1])
		}
		out = append(out, NewList(row...))
		if err := m.slots(len(row) + 1); err != nil {
			return nil, err
		}
	}
	return &generator{items: out}, nil
}

func sliceFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("slice", 1, "slices", "fill_with")
	if err != nil {
		return nil, err
	}
	n, err := asInt(p[0], 0)
	if err != nil {
		return nil, err
	}
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	if n < 1 || n > maxRange {
		return nil, errorf("slice into %d", n)
	}
	if err := m.slots(len(items) + 2*int(n)); err != nil {
		return nil, err
	}
	each, more := len(items)/int(n), len(items)%int(n)
	var out []Value
	start := 0
	for i := range int(n) {
		end := start + each
		if i < more {
			end++
		}
		row := slices.Clone(items[start:end])
		if given(p[1]) && p[1] != nil && i >= more {
			row = append(row, p[1])
		}
		out = append(out, NewList(row...))
		start = end
	}
	return &generator{items: out}, nil
}

func replaceFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("replace", 2, "old", "new", "count")
	if err != nil {
		return nil, err
	}
	s, err := m.textOf(v)
	if err != nil {
		return nil, err
	}
	from, err := str(p[0])
	if err != nil {
		return nil, err
	}
	to, err := str(p[1])
	if err != nil {
		return nil, err
	}
	if p[2] == nil {
		p[2] = absent{}
	}
	n, err := asInt(p[2], -1)
	if err != nil {
		return nil, err
	}
	return m.replaceText(s, from, to, n)
}

func (m *machine) replaceText(s, from, to string, n int64) (Value, error) {
	hits := strings.Count(s, from)
	if n >= 0 && int64(hits) > n {
		hits = int(n)
	}
	if hits > 0 && len(to) > MaxOutput/hits {
		return nil, m.room(MaxOutput + 1)
	}
	if err := m.room(len(s) + hits*len(to)); err != nil {
		return nil, err
	}
	return strings.Replace(s, from, to, hits), nil
}

func trimFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("trim", 0, "chars")
	if err != nil {
		return nil, err
	}
	s, err := m.textOf(v)
	if err != nil {
		return nil, err
	}
	return stripText(s, p[0], true, true)
}

// stripText is str.strip, lstrip or rstrip.
func stripText(s string, chars Value, left, right bool) (Value, error) {
	cut := isSpace
	if given(chars) && chars != nil {
		set, err := asStr(chars, "")
		if err != nil {
			return nil, err
		}
		cut = func(r rune) bool { return strings.ContainsRune(set, r) }
	}
	if left {
		s = strings.TrimLeftFunc(s, cut)
	}
	if right {
		s = strings.TrimRightFunc(s, cut)
	}
	return s, nil
}

func centerFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("center", 0, "width")
	if err != nil {
		return nil, err
	}
	s, err := m.textOf(v)
	if err != nil {
		return nil, err
	}
	n, err := asInt(p[0], 80)
	if err != nil {
		return nil, err
	}
	return m.pad(s, n, ' ', '^')
}

// pad fills a text to a width; align is <, > or ^.
func (m *machine) pad(s string, width int64, fill rune, align byte) (Value, error) {
	if err := m.charge(len(s)); err != nil {
		return nil, err
	}
	missing := width - int64(utf8.RuneCountInString(s))
	if missing <= 0 {
		return s, nil
	}
	if missing > MaxOutput {
		return nil, m.room(MaxOutput + 1)
	}
	n := int(missing)
	if err := m.room(len(s) + n*utf8.RuneLen(fill)); err != nil {
		return nil, err
	}
	left := 0
	switch align {
	case '>':
		left = n
	case '^':
		left = n / 2
		if n%2 == 1 && width%2 == 1 { // as str.center does
			left++
		}
	}
	return strings.Repeat(string(fill), left) + s + strings.Repeat(string(fill), n-left), nil
}

func indentFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("indent", 0, "width", "first", "blank")
	if err != nil {
		return nil, err
	}
	s, err := asStr(v, "")
	if err != nil {
		return nil, err
	}
	by, ok := p[0].(string)
	if !ok {
		n, err := asInt(p[0], 4)
		if err != nil {
			return nil, err
		}
		if n > 1000 {
			return nil, errorf("indent of %d", n)
		}
		by = strings.Repeat(" ", int(max(n, 0)))
	}
	var b strings.Builder
	for i, line := range strings.Split(s, "\n") {
		if i > 0 {
			line = "\n" + prefixed(line, by, line != "" || asBool(p[2], false))
		} else {
			line = prefixed(line, by, asBool(p[1], false))
		}
		if err := m.add(&b, line); err != nil {
			return nil, err
		}
	}
	return b.String(), nil
}

func prefixed(line, by string, yes bool) string {
	if yes {
		return by + line
	}
	return line
}

func truncateFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("truncate", 0, "length", "killwords", "end", "leeway")
	if err != nil {
		return nil, err
	}
	s, isText := v.(string)
	if err := m.charge(len(s)); err != nil {
		return nil, err
	}
	n, err := asInt(p[0], 255)
	if err != nil {
		return nil, err
	}
	end, err := asStr(p[2], "...")
	if err != nil {
		return nil, err
	}
	if p[3] == nil {
		p[3] = absent{}
	}
	leeway, err := asInt(p[3], 5)
	if err != nil {
		return nil, err
	}
	endLen := int64(utf8.RuneCountInString(end))
	if n < endLen || leeway < 0 {
		return nil, errorf("truncate to %d with leeway %d", n, leeway)
	}
	if !isText { // anything short enough goes through
		size, err := length(v)
		if err == nil && int64(size) > n+leeway {
			err = errorf("truncate of a '%s' object", typeName(v))
		}
		return v, err
	}
	r := []rune(s)
	if int64(len(r)) <= n || int64(len(r))-n <= leeway {
		return s, nil
	}
	cut := string(r[:n-endLen])
	if !asBool(p[1], false) {
		if i := strings.LastIndexByte(cut, ' '); i >= 0 {
			cut = cut[:i]
		}
	}
	return cut + end, m.room(4 * len(s))
}

func intFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("int", 0, "default", "base")
	if err != nil {
		return nil, err
	}
	def := p[0]
	if !given(def) {
		def = int64(0)
	}
	base, err := asInt(p[1], 10)
	if err != nil {
		return nil, err
	}
	switch x := v.(type) {
	case string:
		if len(x) > 4300 {
			return def, nil
		}
		if n, ok := parseInt(x, base); ok {
			return fromBig(n), nil
		}
		f, ok := parseFloat(x)
		if !ok || math.IsInf(f, 0) || math.IsNaN(f) {
			return def, nil
		}
		return truncated(f), nil
	case *big.Int:
		return x, nil
	case *undefined:
		return nil, x.err()
	}
	i, f, isFloat, ok := number(v)
	switch {
	case !ok || math.IsInf(f, 0) || math.IsNaN(f):
		return def, nil
	case isFloat:
		return truncated(f), nil
	}
	return i, nil
}

func truncated(f float64) Value {
	n, _ := big.NewFloat(math.Trunc(f)).Int(nil)
	return fromBig(n)
}

// parseInt is int(s, base).
func parseInt(s string, base int64) (*big.Int, bool) {
	s = strings.TrimFunc(s, isSpace)
	if base != 0 && (base < 2 || base > 36) || strings.HasPrefix(s, "_") || strings.HasSuffix(s, "_") || strings.Contains(s, "__") {
		return nil, false
	}
	s = strings.ReplaceAll(s, "_", "")
	for b, prefix := range map[int64]string{2: "0b", 8: "0o", 16: "0x"} {
		if base == b {
			s = strings.TrimPrefix(strings.TrimPrefix(s, prefix), strings.ToUpper(prefix))
		}
	}
	return new(big.Int).SetString(s, int(base))
}

func parseFloat(s string) (float64, bool) {
	s = strings.TrimFunc(s, isSpace)
	if strings.ContainsAny(s, "xXpP") { // Go's hexadecimal floats
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil || math.IsInf(f, 0)
}

func floatFilter(_ *machine, v Value, a args) (Value, error) {
	p, err := a.params("float", 0, "default")
	if err != nil {
		return nil, err
	}
	if u, ok := v.(*undefined); ok {
		return nil, u.err()
	}
	if s, ok := v.(string); ok {
		if f, ok := parseFloat(s); ok {
			return f, nil
		}
	} else if _, f, _, ok := number(v); ok {
		return f, nil
	}
	if given(p[0]) {
		return p[0], nil
	}
	return 0.0, nil
}

func roundFilter(_ *machine, v Value, a args) (Value, error) {
	p, err := a.params("round", 0, "precision", "method")
	if err != nil {
		return nil, err
	}
	n, err := asInt(p[0], 0)
	if err != nil {
		return nil, err
	}
	method, err := asStr(p[1], "common")
	if err != nil {
		return nil, err
	}
	_, f, isFloat, ok := number(v)
	if b, ok := v.(bool); ok {
		v = intOf(b)
	}
	if ok && n >= 0 && method == "common" && (!isFloat || isBig(v)) {
		return v, nil
	}
	if !ok || isBig(v) || n < -300 || n > 300 {
		return nil, errorf("round of a '%s' object to %d places", typeName(v), n)
	}
	scale := math.Pow(10, float64(n))
	switch method {
	case "ceil":
		return math.Ceil(f*scale) / scale, nil
	case "floor":
		return math.Floor(f*scale) / scale, nil
	case "common":
		if n < 0 {
			return math.RoundToEven(f*scale) / scale, nil
		}
		r, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(n), 64), 64) // exact decimals, half to even
		if err != nil {
			return nil, errorf("round of %v", f)
		}
		return r, nil
	}
	return nil, errorf("method must be common, ceil or floor")
}

func tojsonFilter(m *machine, v Value, a args) (Value, error) {
	p, err := a.params("tojson", 0, "ensure_ascii", "indent", "separators", "sort_keys")
	if err != nil {
		return nil, err
	}
	st := &jsonStyle{m: m, ascii: asBool(p[0], false), item: ", ", key: ": ", sorted: asBool(p[3], false)}
	switch in := p[1].(type) {
	case absent, nil:
	case string:
		st.pretty, st.indent, st.item = true, in, ","
	default:
		n, err := asInt(in, 0)
		if err != nil {
			return nil, err
		}
		if n > 64 {
			return nil, errorf("tojson with an indent of %d", n)
		}
		st.pretty, st.indent, st.item = true, strings.Repeat(" ", int(max(n, 0))), ","
	}
	if given(p[2]) && p[2] != nil {
		sep, ok := p[2].(*List)
		if !ok || len(sep.items) != 2 {
			return nil, errorf("separators must be two strings")
		}
		if st.item, err = asStr(sep.items[0], ""); err != nil {
			return nil, err
		}
		if st.key, err = asStr(sep.items[1], ""); err != nil {
			return nil, err
		}
	}
	if len(st.indent) > 64 || len(st.item)+len(st.key) > 64 {
		return nil, errorf("tojson with long separators")
	}
	var b strings.Builder
	if err := toJSON(&b, v, st, 0); err != nil {
		return nil, err
	}
	return b.String(), m.room(b.Len())
}

func escapeFilter(m *machine, v Value, a args) (Value, error) {
	if _, err := a.params("escape", 0); err != nil {
		return nil, err
	}
	s, err := m.textOf(v)
	if err != nil {
		return nil, err
	}
	if err := m.room(len(s) + 5*strings.Count(s, "&")); err != nil {
		return nil, err
	}
	s = strings.NewReplacer("&", "&amp;", ">", "&gt;", "<", "&lt;", "'", "&#39;", `"`, "&#34;").Replace(s)
	return s, m.room(len(s))
}

func urlencodeFilter(m *machine, v Value, a args) (Value, error) {
	if _, err := a.params("urlencode", 0); err != nil {
		return nil, err
	}
	switch v.(type) {
	case string, *undefined:
	default:
		if _, err := m.iterate(v); err == nil {
			return nil, unsupported("urlencode of a '%s' object", typeName(v))
		}
	}
	s, err := m.textOf(v)
	if err != nil {
		return nil, err
	}
	if err := m.room(3 * len(s)); err != nil {
		return nil, err
	}
	s = url.QueryEscape(s)
	return strings.NewReplacer("+", "%20", "%2F", "/").Replace(s), nil
}

func wordcountFilter(m *machine, v Value, a args) (Value, error) {
	if _, err := a.params("wordcount", 0); err != nil {
		return nil, err
	}
	s, err := m.textOf(v)
	return int64(len(strings.FieldsFunc(s, func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r) && !unicode.IsMark(r)
	}))), err
}

func formatFilter(m *machine, v Value, a args) (Value, error) {
	s, err := m.textOf(v)
	if err != nil {
		return nil, err
	}
	if len(a.kw) > 0 {
		if len(a.pos) > 0 {
			return nil, errorf("can't handle positional and keyword arguments at the same time")
		}
		d := NewDict()
		for _, k := range a.kw {
			d.Set(k.name, k.value)
		}
		return m.percent(s, d)
	}
	return m.percent(s, &List{items: a.pos, tuple: true})
}
