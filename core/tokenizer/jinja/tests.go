package jinja

import (
	"math/big"
	"unicode"
)

// tests by name.
var tests map[string]func(m *machine, v Value, a args) (bool, error)

// of makes a test without arguments.
func of(f func(Value) bool) func(*machine, Value, args) (bool, error) {
	return func(_ *machine, v Value, a args) (bool, error) {
		_, err := a.params("test", 0)
		return f(v), err
	}
}

// against makes a test with one argument of a comparison.
func against(op string) func(*machine, Value, args) (bool, error) {
	return func(m *machine, v Value, a args) (bool, error) {
		p, err := a.params("test", 1, "other")
		if err != nil {
			return false, err
		}
		return m.compareOne(op, v, p[0])
	}
}

func init() {
	isInt := func(v Value) bool {
		switch v.(type) {
		case int64, *big.Int:
			return true
		}
		return false
	}
	tests = map[string]func(*machine, Value, args) (bool, error){
		"defined":   of(func(v Value) bool { _, no := v.(*undefined); return !no }),
		"undefined": of(func(v Value) bool { _, yes := v.(*undefined); return yes }),
		"none":      of(func(v Value) bool { return v == nil }),
		"boolean":   of(func(v Value) bool { _, yes := v.(bool); return yes }),
		"true":      of(func(v Value) bool { return v == true }),
		"false":     of(func(v Value) bool { return v == false }),
		"integer":   of(isInt),
		"float":     of(func(v Value) bool { _, yes := v.(float64); return yes }),
		"number":    of(func(v Value) bool { _, _, _, yes := number(v); return yes }),
		"string":    of(func(v Value) bool { _, yes := v.(string); return yes }),
		"mapping":   of(func(v Value) bool { _, yes := v.(*Dict); return yes }),
		"sequence": of(func(v Value) bool {
			switch v.(type) {
			case string, *List, *Dict, *undefined:
				return true
			}
			return false
		}),
		"iterable": of(func(v Value) bool {
			switch v.(type) {
			case string, *List, *Dict, *undefined, *generator, *loop:
				return true
			}
			return false
		}),
		"callable": of(func(v Value) bool {
			switch v.(type) {
			case *function, *loop, *undefined:
				return true
			}
			return false
		}),
		"escaped":     of(func(Value) bool { return false }),
		"lower":       caseTest(unicode.IsLower),
		"upper":       caseTest(unicode.IsUpper),
		"odd":         parity(1),
		"even":        parity(0),
		"divisibleby": divisibleBy,
		"sameas":      sameAs,
		"in":          against("in"),
		"filter":      known(func(s string) bool { return filters[s] != nil }),
		"test":        known(func(s string) bool { return tests[s] != nil }),
	}
	for op, names := range map[string][]string{
		"==": {"eq", "equalto", "=="}, "!=": {"ne", "!="}, "<": {"lt", "lessthan", "<"}, "<=": {"le", "<="},
		">": {"gt", "greaterthan", ">"}, ">=": {"ge", ">="},
	} {
		for _, name := range names {
			tests[name] = against(op)
		}
	}
}

// caseTest is str.islower or str.isupper: some letter of the case, and none of another.
func caseTest(want func(rune) bool) func(*machine, Value, args) (bool, error) {
	return func(m *machine, v Value, a args) (bool, error) {
		if _, err := a.params("test", 0); err != nil {
			return false, err
		}
		s, err := m.textOf(v)
		return oneCase(s, want), err
	}
}

func oneCase(s string, want func(rune) bool) bool {
	seen := false
	for _, r := range s {
		if unicode.IsLower(r) || unicode.IsUpper(r) || unicode.IsTitle(r) {
			if !want(r) {
				return false
			}
			seen = true
		}
	}
	return seen
}

func parity(rest int64) func(*machine, Value, args) (bool, error) {
	return func(m *machine, v Value, a args) (bool, error) {
		if _, err := a.params("test", 0); err != nil {
			return false, err
		}
		r, err := m.arithmetic("%", v, int64(2))
		if err != nil {
			return false, err
		}
		return m.equal(r, rest, 0)
	}
}

func divisibleBy(m *machine, v Value, a args) (bool, error) {
	p, err := a.params("divisibleby", 1, "num")
	if err != nil {
		return false, err
	}
	r, err := m.arithmetic("%", v, p[0])
	if err != nil {
		return false, err
	}
	return m.equal(r, int64(0), 0)
}

// sameAs is Python's "is": the same object, or an equal constant.
func sameAs(_ *machine, v Value, a args) (bool, error) {
	p, err := a.params("sameas", 1, "other")
	if err != nil {
		return false, err
	}
	return v == p[0], nil // values are pointers or comparable constants of one type
}

func known(in func(string) bool) func(*machine, Value, args) (bool, error) {
	return func(_ *machine, v Value, a args) (bool, error) {
		if _, err := a.params("test", 0); err != nil {
			return false, err
		}
		s, ok := v.(string)
		return ok && in(s), nil
	}
}
