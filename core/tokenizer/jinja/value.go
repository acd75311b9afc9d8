package jinja

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Value is what a template computes with: nil (None), bool, int64, *big.Int (only where int64 is too small), float64,
// string, *List, *Dict and the unexported kinds below. Nothing changes a value once it is made.
type Value any

type (
	// List is a list or a tuple.
	List struct {
		items []Value
		tuple bool
		names []string // of a named tuple's items
	}
	// Dict is a mapping that keeps the order of its keys.
	Dict struct {
		keys, values []Value
		index        map[any]int
	}
	// undefined is a missing variable, key or index. Most uses of it fail with the text.
	undefined struct{ text string }
	// generator is what map, select and their like return: it can be walked through once.
	generator struct {
		items []Value
		used  bool
	}
	// namespace is the one thing that a template can assign to.
	namespace struct{ d *Dict }
	// function is a global function, a method bound to its value, or a macro.
	function struct {
		name string
		call func(m *machine, a args) (Value, error)
	}
	// args are the arguments of a call.
	args struct {
		pos []Value
		kw  []namedValue
	}
	namedValue struct {
		name  string
		value Value
	}
)

// NewList makes a list of values.
func NewList(items ...Value) *List { return &List{items: items} }

// NewDict makes an empty mapping.
func NewDict() *Dict { return &Dict{index: map[any]int{}} }

// Set adds a key or replaces its value; only for a Dict that no template has seen yet.
func (d *Dict) Set(key string, v Value) { d.put(key, v) }

// Get is the value of a key.
func (d *Dict) Get(key string) (Value, bool) {
	i, ok := d.index[key]
	if !ok {
		return nil, false
	}
	return d.values[i], true
}

// Keys are the keys in order, as text.
func (d *Dict) Keys() []string {
	out := make([]string, len(d.keys))
	for i, k := range d.keys {
		out[i], _ = k.(string)
	}
	return out
}

// WithoutNone is the mapping without the keys whose value is None.
func (d *Dict) WithoutNone() *Dict {
	out := NewDict()
	for i, k := range d.keys {
		if d.values[i] != nil {
			out.put(k, d.values[i])
		}
	}
	return out
}

// Items are the values of a list.
func (l *List) Items() []Value { return l.items }

func (d *Dict) put(key, v Value) {
	h, err := hash(key)
	if err != nil {
		return // callers hash first where a key may be of any kind
	}
	if i, ok := d.index[h]; ok {
		d.values[i] = v
		return
	}
	d.index[h] = len(d.keys)
	d.keys, d.values = append(d.keys, key), append(d.values, v)
}

type (
	noneKey      struct{}
	undefinedKey struct{}
	tupleKey     string
)

// hash is a comparable form of a key: equal for equal values.
func hash(v Value) (any, error) {
	switch v := v.(type) {
	case nil:
		return noneKey{}, nil
	case bool:
		return intOf(v), nil
	case int64, string:
		return v, nil
	case *big.Int:
		return tupleKey(v.String()), nil
	case float64:
		if i := int64(v); float64(i) == v && math.Abs(v) < 1<<62 {
			return i, nil
		}
		return v, nil
	case *List:
		if v.tuple {
			s, err := repr(v, 0)
			return tupleKey(s), err
		}
	case *undefined:
		return undefinedKey{}, nil
	}
	return nil, errorf("unhashable type: '%s'", typeName(v))
}

func intOf(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// fromBig is the value of an integer of any size.
func fromBig(n *big.Int) Value {
	if n.IsInt64() {
		return n.Int64()
	}
	return n
}

func (u *undefined) err() error { return errorf("%s", u.text) }

func undef(format string, parts ...string) *undefined {
	for _, p := range parts {
		format = strings.Replace(format, "%s", p, 1)
	}
	return &undefined{format}
}

func typeName(v Value) string {
	switch v := v.(type) {
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case int64, *big.Int:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case *List:
		if v.tuple {
			return "tuple"
		}
		return "list"
	case *Dict:
		return "dict"
	case *undefined:
		return "Undefined"
	case *generator:
		return "generator"
	case *namespace:
		return "Namespace"
	case *loop:
		return "LoopContext"
	}
	return "function"
}

// truth is bool(v).
func truth(v Value) bool {
	switch v := v.(type) {
	case nil, *undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case *List:
		return len(v.items) > 0
	case *Dict:
		return len(v.keys) > 0
	}
	return true
}

// str is str(v).
func str(v Value) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case *undefined:
		return "", nil
	}
	return repr(v, 0)
}

// repr is repr(v). It builds less than the text of all strings in v plus a few bytes a value, of values that were
// charged when they were made; the same value many times in a list is what write and room stop.
func repr(v Value, depth int) (string, error) {
	var b strings.Builder
	err := writeRepr(&b, v, depth)
	return b.String(), err
}

func writeRepr(b *strings.Builder, v Value, depth int) error {
	if depth > maxNested {
		return errorf("a value nested more than %d levels deep", maxNested)
	}
	if b.Len() > MaxOutput {
		return errorf("a text of more than %d bytes", MaxOutput)
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		if v {
			b.WriteString("True")
		} else {
			b.WriteString("False")
		}
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case *big.Int:
		b.WriteString(v.String())
	case float64:
		b.WriteString(floatText(v))
	case string:
		quoteText(b, v)
	case *List:
		return reprList(b, v, depth)
	case *Dict:
		b.WriteByte('{')
		for i := range v.keys {
			if i > 0 {
				b.WriteString(", ")
			}
			if err := writeRepr(b, v.keys[i], depth+1); err != nil {
				return err
			}
			b.WriteString(": ")
			if err := writeRepr(b, v.values[i], depth+1); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	case *undefined:
		b.WriteString("Undefined")
	case *namespace:
		b.WriteString("<Namespace ")
		if err := writeRepr(b, v.d, depth+1); err != nil {
			return err
		}
		b.WriteByte('>')
	case *loop:
		b.WriteString("<LoopContext>")
	case *generator:
		b.WriteString("<generator object>")
	case *function:
		b.WriteString("<function " + v.name + ">")
	}
	return nil
}

func reprList(b *strings.Builder, l *List, depth int) error {
	open, end := "[", "]"
	if l.tuple {
		open, end = "(", ")"
		if len(l.items) == 1 {
			end = ",)"
		}
	}
	b.WriteString(open)
	for i, item := range l.items {
		if i > 0 {
			b.WriteString(", ")
		}
		if err := writeRepr(b, item, depth+1); err != nil {
			return err
		}
	}
	b.WriteString(end)
	return nil
}

// floatText is repr of a float.
func floatText(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// quoteText is repr of a string.
func quoteText(b *strings.Builder, s string) {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, "\"") {
		quote = '"'
	}
	b.WriteByte(quote)
	for _, r := range s {
		switch {
		case r == rune(quote) || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			b.WriteString(`\x` + hexPad(r, 2))
		case r < 0x10000:
			b.WriteString(`\u` + hexPad(r, 4))
		default:
			b.WriteString(`\U` + hexPad(r, 8))
		}
	}
	b.WriteByte(quote)
}

func hexPad(r rune, n int) string {
	s := strconv.FormatInt(int64(r), 16)
	return strings.Repeat("0", max(0, n-len(s))) + s
}

// number is v as a number: an integer, or a float if isFloat.
func number(v Value) (i int64, f float64, isFloat, ok bool) {
	switch v := v.(type) {
	case bool:
		return intOf(v), float64(intOf(v)), false, true
	case int64:
		return v, float64(v), false, true
	case float64:
		return 0, v, true, true
	case *big.Int:
		return 0, toFloat(v), true, true // as a float; who needs it exactly looks for *big.Int first
	}
	return 0, 0, false, false
}

// equal is a == b.
func (m *machine) equal(a, b Value, depth int) (bool, error) {
	if depth > maxNested {
		return false, errorf("a value nested more than %d levels deep", maxNested)
	}
	if err := m.step(); err != nil { // values can share parts, so that walking through all takes for ever
		return false, err
	}
	if x, fx, xf, ok := number(a); ok {
		y, fy, yf, ok := number(b)
		if bx, isBig := a.(*big.Int); isBig {
			by, both := b.(*big.Int)
			return both && bx.Cmp(by) == 0, nil
		}
		if !xf && !yf {
			return ok && x == y, nil
		}
		return ok && fx == fy, nil
	}
	switch x := a.(type) {
	case nil:
		return b == nil, nil
	case string:
		y, ok := b.(string)
		return ok && x == y, nil
	case *undefined:
		_, ok := b.(*undefined)
		return ok, nil
	case *List:
		y, ok := b.(*List)
		if !ok || x.tuple != y.tuple || len(x.items) != len(y.items) {
			return false, nil
		}
		for i := range x.items {
			if eq, err := m.equal(x.items[i], y.items[i], depth+1); err != nil || !eq {
				return false, err
			}
		}
		return true, nil
	case *Dict:
		y, ok := b.(*Dict)
		if !ok || len(x.keys) != len(y.keys) {
			return false, nil
		}
		for i, k := range x.keys {
			v, ok := y.lookup(k)
			if !ok {
				return false, nil
			}
			if eq, err := m.equal(x.values[i], v, depth+1); err != nil || !eq {
				return false, err
			}
		}
		return true, nil
	}
	return a == b, nil
}

// lookup finds a key of any kind.
func (d *Dict) lookup(key Value) (Value, bool) {
	h, err := hash(key)
	if err != nil {
		return nil, false
	}
	i, ok := d.index[h]
	if !ok {
		return nil, false
	}
	return d.values[i], true
}

// order is the sign of a compared with b.
func (m *machine) order(a, b Value, op string, depth int) (int, error) {
	if depth > maxNested {
		return 0, errorf("a value nested more than %d levels deep", maxNested)
	}
	if err := m.step(); err != nil {
		return 0, err
	}
	for _, v := range []Value{a, b} {
		if u, ok := v.(*undefined); ok {
			return 0, u.err()
		}
	}
	if x, fx, xf, ok := number(a); ok {
		if y, fy, yf, ok := number(b); ok {
			if !xf && !yf {
				return sign(x < y, x > y), nil
			}
			return sign(fx < fy, fx > fy), nil
		}
	}
	if x, ok := a.(string); ok {
		if y, ok := b.(string); ok {
			return strings.Compare(x, y), nil // UTF-8 keeps the order of code points
		}
	}
	if x, ok := a.(*List); ok {
		if y, ok := b.(*List); ok && x.tuple == y.tuple {
			for i := range min(len(x.items), len(y.items)) {
				if eq, err := m.equal(x.items[i], y.items[i], depth+1); err != nil {
					return 0, err
				} else if !eq {
					return m.order(x.items[i], y.items[i], op, depth+1)
				}
			}
			return sign(len(x.items) < len(y.items), len(x.items) > len(y.items)), nil
		}
	}
	return 0, errorf("'%s' not supported between instances of '%s' and '%s'", op, typeName(a), typeName(b))
}

func sign(less, more bool) int {
	switch {
	case less:
		return -1
	case more:
		return 1
	}
	return 0
}

// iterate is the values that a loop over v walks through.
func (m *machine) iterate(v Value) ([]Value, error) {
	switch v := v.(type) {
	case *List:
		return v.items, nil
	case *Dict:
		return v.keys, nil
	case *undefined:
		return nil, nil
	case *generator:
		if v.used {
			return nil, nil
		}
		v.used = true
		return v.items, nil
	case string:
		if err := m.slots(utf8.RuneCountInString(v)); err != nil {
			return nil, err
		}
		out := make([]Value, 0, len(v))
		for _, r := range v {
			out = append(out, string(r))
		}
		return out, nil
	}
	return nil, errorf("'%s' object is not iterable", typeName(v))
}

// length is len(v).
func length(v Value) (int, error) {
	switch v := v.(type) {
	case string:
		return utf8.RuneCountInString(v), nil
	case *List:
		return len(v.items), nil
	case *Dict:
		return len(v.keys), nil
	case *undefined:
		return 0, nil
	}
	return 0, errorf("object of type '%s' has no len()", typeName(v))
}

// contains is x in v.
func (m *machine) contains(v, x Value) (bool, error) {
	switch c := v.(type) {
	case string:
		s, ok := x.(string)
		if u, bad := x.(*undefined); bad {
			return false, u.err()
		}
		if !ok {
			return false, errorf("'in <string>' requires string as left operand, not %s", typeName(x))
		}
		return strings.Contains(c, s), m.charge(len(c))
	case *Dict:
		h, err := hash(x)
		if err != nil {
			return false, err
		}
		_, ok := c.index[h]
		return ok, nil
	}
	items, err := m.iterate(v)
	if err != nil {
		return false, errorf("argument of type '%s' is not iterable", typeName(v))
	}
	if err := m.charge(8 * len(items)); err != nil {
		return false, err
	}
	for _, item := range items {
		if eq, err := m.equal(item, x, 0); err != nil || eq {
			return eq, err
		}
	}
	return false, nil
}
