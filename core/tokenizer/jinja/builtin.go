package jinja

import (
	"slices"
	"strings"
)

// builtin is a filter or a method: the value it is applied to, then the arguments.
type builtin func(m *machine, v Value, a args) (Value, error)

// absent marks an argument that was not given.
type absent struct{}

// params binds arguments to the names of parameters. The result has one value for each name; absent{} where none was
// given. The first required ones must be there.
func (a args) params(what string, required int, names ...string) ([]Value, error) {
	if len(a.pos) > len(names) {
		return nil, errorf("%s takes at most %d arguments, got %d", what, len(names), len(a.pos))
	}
	out := make([]Value, len(names))
	for i := range out {
		out[i] = absent{}
	}
	copy(out, a.pos)
	for _, k := range a.kw {
		i := slices.Index(names, k.name)
		if i < 0 {
			return nil, errorf("%s got an unexpected keyword argument '%s'", what, k.name)
		}
		if i < len(a.pos) {
			return nil, errorf("%s got multiple values for argument '%s'", what, k.name)
		}
		out[i] = k.value
	}
	for i := range required {
		if out[i] == (absent{}) {
			return nil, errorf("%s misses argument '%s'", what, names[i])
		}
	}
	return out, nil
}

func given(v Value) bool { _, no := v.(absent); return !no }

// asInt is an integer argument.
func asInt(v Value, def int64) (int64, error) {
	if !given(v) {
		return def, nil
	}
	i, _, isFloat, ok := number(v)
	if !ok || isFloat {
		return 0, errorf("'%s' object cannot be interpreted as an integer", typeName(v))
	}
	return i, nil
}

// asStr is a string argument.
func asStr(v Value, def string) (string, error) {
	switch s := v.(type) {
	case absent:
		return def, nil
	case string:
		return s, nil
	case *undefined:
		return "", s.err()
	}
	return "", errorf("expected str, got %s", typeName(v))
}

func asBool(v Value, def bool) bool {
	if !given(v) {
		return def
	}
	return truth(v)
}

// textOf is the text of a value that a filter works on.
func (m *machine) textOf(v Value) (string, error) {
	s, err := str(v)
	if err != nil {
		return "", err
	}
	return s, m.charge(len(s))
}

// onText makes a filter without arguments of a function of text.
func onText(name string, f func(string) Value) builtin {
	return func(m *machine, v Value, a args) (Value, error) {
		if _, err := a.params(name, 0); err != nil {
			return nil, err
		}
		s, err := m.textOf(v)
		if err != nil {
			return nil, err
		}
		// No change of case makes more than three characters of one.
		if err := m.room(3 * len(s)); err != nil {
			return nil, err
		}
		return f(s), nil
	}
}

// getter reads an attribute path such as "function.name" or 0 of each value.
func (m *machine) getter(path Value, def Value) (func(Value) (Value, error), error) {
	var parts []Value
	switch p := path.(type) {
	case absent, nil:
		return func(v Value) (Value, error) { return v, nil }, nil
	case int64:
		parts = []Value{p}
	case string:
		for _, part := range strings.Split(p, ".") {
			if n, ok := digits(part); ok {
				parts = append(parts, n)
			} else {
				parts = append(parts, part)
			}
		}
	default:
		return nil, errorf("attribute of type %s", typeName(path))
	}
	return func(v Value) (Value, error) {
		var err error
		for _, part := range parts {
			if v, err = m.getItem(v, part); err != nil {
				return nil, err
			}
			if _, missing := v.(*undefined); missing && given(def) {
				return def, nil
			}
		}
		return v, nil
	}, nil
}

func digits(s string) (int64, bool) {
	if s == "" || len(s) > 9 {
		return 0, false
	}
	n := int64(0)
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// sortBy sorts indices by the values they point at; stable.
func (m *machine) sortBy(at []int, keys []Value, reverse bool) error {
	var failed error
	slices.SortStableFunc(at, func(i, j int) int {
		if failed != nil {
			return 0
		}
		c, err := m.order(keys[i], keys[j], "<", 0)
		if err != nil {
			failed = err
		}
		if reverse {
			return -c
		}
		return c
	})
	return failed
}
