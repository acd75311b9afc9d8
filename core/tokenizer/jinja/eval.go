package jinja

import (
	"math"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"
)

// eval computes an expression.
func (m *machine) eval(e expr, s *scope) (Value, error) {
	if err := m.step(); err != nil {
		return nil, err
	}
	if err := m.deeper(); err != nil {
		return nil, err
	}
	defer func() { m.depth-- }()
	switch e := e.(type) {
	case *literal:
		return e.value, nil
	case *name:
		if v, ok := s.lookup(e.name); ok {
			return v, nil
		}
		return undef("'%s' is undefined", e.name), nil
	case *attr:
		of, err := m.eval(e.of, s)
		if err != nil {
			return nil, err
		}
		return getAttr(of, e.name)
	case *index:
		return m.evalIndex(e, s)
	case *sliced:
		return m.evalSlice(e, s)
	case *call:
		return m.evalCall(e, s)
	case *filter:
		return m.evalFilter(e, s)
	case *test:
		return m.evalTest(e, s)
	case *unary:
		return m.evalUnary(e, s)
	case *binary:
		return m.evalBinary(e, s)
	case *logic:
		left, err := m.eval(e.left, s)
		if err != nil || truth(left) != e.and {
			return left, err
		}
		return m.eval(e.right, s)
	case *concat:
		return m.evalConcat(e, s)
	case *compare:
		return m.evalCompare(e, s)
	case *ternary:
		cond, err := m.eval(e.cond, s)
		if err != nil {
			return nil, err
		}
		if truth(cond) {
			return m.eval(e.yes, s)
		}
		if e.no == nil {
			return undef("the inline if-expression evaluated to false and no else section was defined."), nil
		}
		return m.eval(e.no, s)
	case *list:
		items, err := m.evalAll(e.items, s)
		return &List{items: items, tuple: e.tuple}, err
	case *dictLit:
		return m.evalDict(e, s)
	}
	return nil, errorf("expression of unknown kind %T", e)
}

func (m *machine) evalAll(es []expr, s *scope) ([]Value, error) {
	if err := m.slots(len(es)); err != nil {
		return nil, err
	}
	out := make([]Value, 0, len(es))
	for _, e := range es {
		v, err := m.eval(e, s)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (m *machine) evalDict(e *dictLit, s *scope) (Value, error) {
	if err := m.slots(4 * len(e.keys)); err != nil {
		return nil, err
	}
	d := NewDict()
	for i := range e.keys {
		k, err := m.eval(e.keys[i], s)
		if err != nil {
			return nil, err
		}
		v, err := m.eval(e.values[i], s)
		if err != nil {
			return nil, err
		}
		if _, err := hash(k); err != nil {
			return nil, err
		}
		d.put(k, v)
	}
	return d, nil
}

// getAttr is v.name: a method before a key.
func getAttr(v Value, name string) (Value, error) {
	switch v := v.(type) {
	case *undefined:
		return nil, v.err()
	case *Dict:
		if f := dictMethods[name]; f != nil {
			return bind(v, name, f), nil
		}
		if x, ok := v.Get(name); ok {
			return x, nil
		}
		return undef("'dict object' has no attribute '%s'", name), nil
	case string:
		if f := strMethods[name]; f != nil {
			return bind(v, name, f), nil
		}
	case *List:
		if i := slices.Index(v.names, name); i >= 0 {
			return v.items[i], nil
		}
		if f := listMethods[name]; f != nil {
			return bind(v, name, f), nil
		}
	case *namespace:
		if x, ok := v.d.Get(name); ok {
			return x, nil
		}
	case *loop:
		if x, ok := v.attr(name); ok {
			return x, nil
		}
	case *cycler:
		if x, ok := v.attr(name); ok {
			return x, nil
		}
	case *function:
		if name == "name" {
			return v.name, nil
		}
	case nil:
		return undef("'None' has no attribute '%s'", name), nil
	}
	return undef("'%s object' has no attribute '%s'", typeName(v), name), nil
}

func bind(v Value, name string, f builtin) *function {
	return &function{name: name, call: func(m *machine, a args) (Value, error) { return f(m, v, a) }}
}

func (m *machine) evalIndex(e *index, s *scope) (Value, error) {
	of, err := m.eval(e.of, s)
	if err != nil {
		return nil, err
	}
	key, err := m.eval(e.key, s)
	if err != nil {
		return nil, err
	}
	return m.getItem(of, key)
}

// getItem is v[key]: a key before a method.
func (m *machine) getItem(v, key Value) (Value, error) {
	switch c := v.(type) {
	case *undefined:
		return nil, c.err()
	case *Dict:
		if x, ok := c.lookup(key); ok {
			return x, nil
		}
	case *List:
		if i, ok := place(key, len(c.items)); ok {
			return c.items[i], nil
		}
	case string:
		if err := m.charge(len(c)); err != nil {
			return nil, err
		}
		if i, ok := place(key, utf8.RuneCountInString(c)); ok {
			return string([]rune(c)[i]), nil
		}
	}
	if name, ok := key.(string); ok {
		return getAttr(v, name)
	}
	text, err := str(key)
	return undef("'%s object' has no element %s", typeName(v), text), err
}

// place is an index into n items; negative ones count from the end.
func place(key Value, n int) (int, bool) {
	i, _, isFloat, ok := number(key)
	if !ok || isFloat {
		return 0, false
	}
	if i < 0 {
		i += int64(n)
	}
	return int(i), i >= 0 && i < int64(n)
}

func (m *machine) evalSlice(e *sliced, s *scope) (Value, error) {
	of, err := m.eval(e.of, s)
	if err != nil {
		return nil, err
	}
	var bounds [3]*int64
	for i, part := range []expr{e.start, e.stop, e.step} {
		if part == nil {
			continue
		}
		v, err := m.eval(part, s)
		if err != nil {
			return nil, err
		}
		if v == nil {
			continue
		}
		n, _, isFloat, ok := number(v)
		if !ok || isFloat {
			return nil, errorf("slice indices must be integers or None")
		}
		bounds[i] = &n
	}
	switch v := of.(type) {
	case *List:
		at, err := slicePlaces(len(v.items), bounds)
		if err != nil {
			return nil, err
		}
		out := make([]Value, len(at))
		for i, j := range at {
			out[i] = v.items[j]
		}
		return &List{items: out, tuple: v.tuple}, m.slots(len(out))
	case string:
		if err := m.room(4 * len(v)); err != nil {
			return nil, err
		}
		runes := []rune(v)
		at, err := slicePlaces(len(runes), bounds)
		if err != nil {
			return nil, err
		}
		out := make([]rune, len(at))
		for i, j := range at {
			out[i] = runes[j]
		}
		return string(out), nil
	case *undefined:
		return nil, v.err()
	}
	return nil, errorf("'%s' object is not subscriptable", typeName(of))
}

// slicePlaces are the indices of [start:stop:step] in n items.
func slicePlaces(n int, bounds [3]*int64) ([]int, error) {
	step := int64(1)
	if bounds[2] != nil {
		step = *bounds[2]
	}
	if step == 0 {
		return nil, errorf("slice step cannot be zero")
	}
	low, high := int64(0), int64(n)
	start, stop := low, high
	if step < 0 {
		low, high = -1, int64(n)-1
		start, stop = high, low
	}
	clamp := func(p *int64, def int64) int64 {
		if p == nil {
			return def
		}
		v := *p
		if v < 0 {
			v += int64(n)
		}
		return min(max(v, low), high)
	}
	start, stop = clamp(bounds[0], start), clamp(bounds[1], stop)
	var out []int
	for i := start; step > 0 && i < stop || step < 0 && i > stop; {
		out = append(out, int(i))
		if step > int64(n) || step < -int64(n) { // also keeps i from running over
			break
		}
		i += step
	}
	return out, nil
}

func (m *machine) evalArgs(a arguments, s *scope) (args, error) {
	var out args
	var err error
	if out.pos, err = m.evalAll(a.pos, s); err != nil {
		return out, err
	}
	for _, k := range a.kw {
		v, err := m.eval(k.value, s)
		if err != nil {
			return out, err
		}
		out.kw = append(out.kw, namedValue{k.name, v})
	}
	if a.star != nil {
		v, err := m.eval(a.star, s)
		if err != nil {
			return out, err
		}
		more, err := m.iterate(v)
		if err != nil {
			return out, err
		}
		out.pos = append(out.pos, more...)
		if err := m.slots(len(out.pos)); err != nil {
			return out, err
		}
	}
	if a.double != nil {
		v, err := m.eval(a.double, s)
		if err != nil {
			return out, err
		}
		d, ok := v.(*Dict)
		if !ok {
			return out, errorf("argument after ** must be a mapping, not %s", typeName(v))
		}
		for i, k := range d.keys {
			name, ok := k.(string)
			if !ok {
				return out, errorf("keywords must be strings")
			}
			out.kw = append(out.kw, namedValue{name, d.values[i]})
		}
	}
	return out, nil
}

func (m *machine) evalCall(e *call, s *scope) (Value, error) {
	of, err := m.eval(e.of, s)
	if err != nil {
		return nil, err
	}
	a, err := m.evalArgs(e.args, s)
	if err != nil {
		return nil, err
	}
	return m.call(of, a)
}

func (m *machine) call(of Value, a args) (Value, error) {
	switch f := of.(type) {
	case *function:
		return f.call(m, a)
	case *loop:
		if f.recurse != nil {
			return f.recurse(m, a)
		}
	case *undefined:
		return nil, f.err()
	}
	return nil, errorf("'%s' object is not callable", typeName(of))
}

func (m *machine) evalFilter(e *filter, s *scope) (Value, error) {
	of, err := m.eval(e.of, s)
	if err != nil {
		return nil, err
	}
	a, err := m.evalArgs(e.args, s)
	if err != nil {
		return nil, err
	}
	return filters[e.name](m, of, a)
}

func (m *machine) evalTest(e *test, s *scope) (Value, error) {
	of, err := m.eval(e.of, s)
	if err != nil {
		return nil, err
	}
	a, err := m.evalArgs(e.args, s)
	if err != nil {
		return nil, err
	}
	ok, err := tests[e.name](m, of, a)
	return ok != e.not, err
}

func (m *machine) evalUnary(e *unary, s *scope) (Value, error) {
	v, err := m.eval(e.of, s)
	if err != nil {
		return nil, err
	}
	if e.op == "not" {
		return !truth(v), nil
	}
	if u, ok := v.(*undefined); ok {
		return nil, u.err()
	}
	if b, ok := v.(*big.Int); ok {
		if e.op == "-" {
			return fromBig(new(big.Int).Neg(b)), nil
		}
		return b, nil
	}
	i, f, isFloat, ok := number(v)
	switch {
	case !ok:
		return nil, errorf("bad operand type for unary %s: '%s'", e.op, typeName(v))
	case isFloat && e.op == "-":
		return -f, nil
	case isFloat:
		return f, nil
	case e.op == "+":
		return i, nil
	case i == math.MinInt64:
		return fromBig(new(big.Int).Neg(big.NewInt(i))), nil
	}
	return -i, nil
}

func (m *machine) evalConcat(e *concat, s *scope) (Value, error) {
	var b strings.Builder
	for _, part := range e.parts {
		v, err := m.eval(part, s)
		if err != nil {
			return nil, err
		}
		text, err := str(v)
		if err != nil {
			return nil, err
		}
		if err := m.room(b.Len() + len(text)); err != nil {
			return nil, err
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

func (m *machine) evalCompare(e *compare, s *scope) (Value, error) {
	left, err := m.eval(e.first, s)
	if err != nil {
		return nil, err
	}
	for i, op := range e.ops {
		right, err := m.eval(e.rest[i], s)
		if err != nil {
			return nil, err
		}
		ok, err := m.compareOne(op, left, right)
		if err != nil || !ok {
			return false, err
		}
		left = right
	}
	return true, nil
}

func (m *machine) compareOne(op string, left, right Value) (bool, error) {
	if err := m.charge(weight(left) + weight(right)); err != nil {
		return false, err
	}
	switch op {
	case "==":
		return m.equal(left, right, 0)
	case "!=":
		eq, err := m.equal(left, right, 0)
		return !eq, err
	case "in":
		return m.contains(right, left)
	case "not in":
		in, err := m.contains(right, left)
		return !in, err
	}
	c, err := m.order(left, right, op, 0)
	switch op {
	case "<":
		return c < 0, err
	case "<=":
		return c <= 0, err
	case ">":
		return c > 0, err
	default:
		return c >= 0, err
	}
}

// weight is about what looking at all of a value costs.
func weight(v Value) int {
	switch v := v.(type) {
	case string:
		return len(v) / 8
	case *List:
		return 8 * len(v.items)
	case *Dict:
		return 16 * len(v.keys)
	}
	return 0
}

func errTooLarge() error { return errorf("an integer of more than %d bits", maxBits) }

func (m *machine) evalBinary(e *binary, s *scope) (Value, error) {
	left, err := m.eval(e.left, s)
	if err != nil {
		return nil, err
	}
	right, err := m.eval(e.right, s)
	if err != nil {
		return nil, err
	}
	return m.arithmetic(e.op, left, right)
}

func (m *machine) arithmetic(op string, left, right Value) (Value, error) {
	if text, ok := left.(string); ok && op == "%" {
		return m.percent(text, right)
	}
	for _, v := range []Value{left, right} {
		if u, ok := v.(*undefined); ok {
			return nil, u.err()
		}
	}
	if x, fx, xf, ok := number(left); ok {
		if y, fy, yf, ok := number(right); ok {
			a, b := bigOf(left, x, xf), bigOf(right, y, yf)
			if a != nil && b != nil {
				return intOp(op, a, b)
			}
			return floatOp(op, fx, fy)
		}
	}
	switch op {
	case "+":
		return m.join(left, right)
	case "*":
		if n, _, isFloat, ok := number(right); ok && !isFloat && !isBig(right) {
			return m.repeat(left, n)
		}
		if n, _, isFloat, ok := number(left); ok && !isFloat && !isBig(left) {
			return m.repeat(right, n)
		}
	}
	return nil, errorf("unsupported operand type(s) for %s: '%s' and '%s'", op, typeName(left), typeName(right))
}

func isBig(v Value) bool { _, ok := v.(*big.Int); return ok }

// bigOf is a value that number has read as an integer of any size; nil if it is a float.
func bigOf(v Value, i int64, isFloat bool) *big.Int {
	if n, ok := v.(*big.Int); ok {
		return n
	}
	if isFloat {
		return nil
	}
	return big.NewInt(i)
}

// join is + of two texts or lists.
func (m *machine) join(left, right Value) (Value, error) {
	switch l := left.(type) {
	case string:
		r, ok := right.(string)
		if !ok {
			return nil, errorf("can only concatenate str (not \"%s\") to str", typeName(right))
		}
		return l + r, m.room(len(l) + len(r))
	case *List:
		r, ok := right.(*List)
		if !ok || r.tuple != l.tuple {
			return nil, errorf("can only concatenate %s (not \"%s\") to %s", typeName(l), typeName(right), typeName(l))
		}
		if err := m.slots(len(l.items) + len(r.items)); err != nil {
			return nil, err
		}
		return &List{items: slices.Concat(l.items, r.items), tuple: l.tuple}, nil
	}
	return nil, errorf("unsupported operand type(s) for +: '%s' and '%s'", typeName(left), typeName(right))
}

// repeat is * of a text or a list with an integer.
func (m *machine) repeat(v Value, n int64) (Value, error) {
	n = max(n, 0)
	switch v := v.(type) {
	case string:
		if len(v) > 0 && n > int64(MaxOutput/len(v)) {
			return nil, m.room(MaxOutput + 1)
		}
		return strings.Repeat(v, int(n)), m.room(len(v) * int(n))
	case *List:
		if len(v.items) > 0 && n > int64(maxWork/len(v.items)) {
			return nil, m.slots(maxWork)
		}
		if err := m.slots(len(v.items) * int(n)); err != nil {
			return nil, err
		}
		return &List{items: slices.Repeat(v.items, int(n)), tuple: v.tuple}, nil
	}
	return nil, errorf("can't multiply sequence by non-int of type '%s'", typeName(v))
}

// maxBits bounds integers: far beyond any use, far below any harm.
const maxBits = 4096

func intOp(op string, a, b *big.Int) (Value, error) {
	r := new(big.Int)
	switch op {
	case "+":
		r.Add(a, b)
	case "-":
		r.Sub(a, b)
	case "*":
		r.Mul(a, b)
	case "**":
		if b.Sign() < 0 {
			return floatOp(op, toFloat(a), toFloat(b))
		}
		if a.BitLen() > 1 && (!b.IsInt64() || b.Int64() > maxBits/int64(a.BitLen()-1)) {
			return nil, errTooLarge()
		}
		if a.BitLen() <= 1 && b.Sign() > 0 { // -1, 0 and 1 to any power
			b = big.NewInt(2 - int64(b.Bit(0)))
		}
		r.Exp(a, b, nil)
	default:
		if b.Sign() == 0 {
			return nil, errorf("division by zero")
		}
		if op == "/" {
			if a.Sign() == 0 && b.Sign() < 0 {
				return math.Copysign(0, -1), nil
			}
			q, _ := new(big.Rat).SetFrac(a, b).Float64()
			return q, nil
		}
		// Python rounds down, big.Int's Euclidean division rounds so that the rest is not negative.
		q, rest := new(big.Int).DivMod(a, b, new(big.Int))
		if rest.Sign() != 0 && b.Sign() < 0 {
			q.Sub(q, big.NewInt(1))
			rest.Add(rest, b)
		}
		if r = q; op == "%" {
			r = rest
		}
	}
	if r.BitLen() > maxBits {
		return nil, errTooLarge()
	}
	return fromBig(r), nil
}

func toFloat(n *big.Int) float64 {
	f, _ := new(big.Float).SetInt(n).Float64()
	return f
}

func floatOp(op string, x, y float64) (Value, error) {
	switch op {
	case "+":
		return x + y, nil
	case "-":
		return x - y, nil
	case "*":
		return x * y, nil
	case "**":
		if x == 0 && y < 0 {
			return nil, errorf("0.0 cannot be raised to a negative power")
		}
		r := math.Pow(x, y)
		if math.IsNaN(r) && !math.IsNaN(x) && !math.IsNaN(y) {
			return nil, unsupported("complex numbers")
		}
		if math.IsInf(r, 0) && !math.IsInf(x, 0) && !math.IsInf(y, 0) {
			return nil, errorf("Numerical result out of range")
		}
		return r, nil
	}
	if y == 0 {
		return nil, errorf("float division by zero")
	}
	switch op {
	case "/":
		return x / y, nil
	case "//":
		return math.Floor(x / y), nil
	}
	r := math.Mod(x, y)
	if r != 0 && (r < 0) != (y < 0) {
		r += y
	}
	return r, nil
}
