package jinja

import (
	"errors"
)

// How a loop control travels up to its loop.
var (
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
)

// block runs statements.
func (m *machine) block(body []node, s *scope) error {
	for _, n := range body {
		if text, ok := n.(textOut); ok {
			if err := m.write(string(text)); err != nil {
				return err
			}
			continue
		}
		if err := m.step(); err != nil {
			return err
		}
		if err := m.deeper(); err != nil {
			return err
		}
		err := m.statement(n, s)
		m.depth--
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) statement(n node, s *scope) error {
	switch n := n.(type) {
	case *output:
		v, err := m.eval(n.e, s)
		if err != nil {
			return at(n.line, err)
		}
		text, err := str(v)
		if err != nil {
			return at(n.line, err)
		}
		return at(n.line, m.write(text))
	case *ifStmt:
		return m.ifStatement(n, s)
	case *forStmt:
		return at(n.line, m.forStatement(n, s, nil, 0))
	case *setStmt:
		v, err := m.eval(n.value, s)
		if err == nil {
			err = m.assign(n.target, v, s)
		}
		return at(n.line, err)
	case *setBlock:
		text, err := m.capture(func() error { return m.block(n.body, newScope(s)) })
		if err != nil {
			return err
		}
		v, err := m.filtered(n.filters, text, s)
		if err == nil {
			err = m.assign(n.target, v, s)
		}
		return at(n.line, err)
	case *filterBlock:
		text, err := m.capture(func() error { return m.block(n.body, newScope(s)) })
		if err != nil {
			return err
		}
		v, err := m.filtered(n.filters, text, s)
		if err == nil {
			text, err = str(v)
		}
		if err == nil {
			err = m.write(text)
		}
		return at(n.line, err)
	case *macroStmt:
		s.set(n.m.name, m.macro(n.m, s))
		return nil
	case *callBlock:
		return at(n.line, m.callStatement(n, s))
	case *withStmt:
		return m.withStatement(n, s)
	case *scoped:
		return m.block(n.body, newScope(s))
	case breakStmt:
		return errBreak
	case continueStm:
		return errContinue
	}
	return errorf("statement of unknown kind %T", n)
}

// filtered passes a captured text through the filters of its tag.
func (m *machine) filtered(f expr, text string, s *scope) (Value, error) {
	if f == nil {
		return text, nil
	}
	return m.eval(withText(f.(*filter), text), s)
}

// withText is a chain of filters with a text at its start.
func withText(f *filter, text string) *filter {
	c := *f
	if inner, ok := f.of.(*filter); ok {
		c.of = withText(inner, text)
	} else {
		c.of = &literal{text}
	}
	return &c
}

func (m *machine) ifStatement(n *ifStmt, s *scope) error {
	for i, cond := range n.conds {
		v, err := m.eval(cond, s)
		if err != nil {
			return at(n.line, err)
		}
		if truth(v) {
			return m.block(n.body[i], s)
		}
	}
	return m.block(n.other, s)
}

// assign puts a value into a name, a namespace's attribute, or several of them.
func (m *machine) assign(target expr, v Value, s *scope) error {
	switch t := target.(type) {
	case *name:
		s.set(t.name, v)
		return nil
	case *attr:
		of, err := m.eval(t.of, s)
		if err != nil {
			return err
		}
		ns, ok := of.(*namespace)
		if !ok {
			return errorf("cannot assign attribute on non-namespace object")
		}
		ns.d.put(t.name, v)
		return m.charge(32)
	case *list:
		items, err := m.iterate(v)
		if err != nil {
			return err
		}
		if len(items) != len(t.items) {
			return errorf("%d values to unpack into %d", len(items), len(t.items))
		}
		for i, e := range t.items {
			if err := m.assign(e, items[i], s); err != nil {
				return err
			}
		}
		return nil
	}
	return errorf("can't assign to this")
}

func (m *machine) withStatement(n *withStmt, s *scope) error {
	inner := newScope(s)
	for i, target := range n.targets {
		v, err := m.eval(n.values[i], s)
		if err == nil {
			err = m.assign(target, v, inner)
		}
		if err != nil {
			return at(n.line, err)
		}
	}
	return m.block(n.body, inner)
}

// loop is the variable "loop".
type loop struct {
	items   []Value
	at      int
	depth   int
	changed *List // what loop.changed saw last
	recurse func(m *machine, a args) (Value, error)
}

func (l *loop) attr(name string) (Value, bool) {
	n := len(l.items)
	switch name {
	case "index":
		return int64(l.at + 1), true
	case "index0":
		return int64(l.at), true
	case "revindex":
		return int64(n - l.at), true
	case "revindex0":
		return int64(n - l.at - 1), true
	case "first":
		return l.at == 0, true
	case "last":
		return l.at == n-1, true
	case "length":
		return int64(n), true
	case "depth":
		return int64(l.depth + 1), true
	case "depth0":
		return int64(l.depth), true
	case "previtem":
		if l.at == 0 {
			return undef("there is no previous item"), true
		}
		return l.items[l.at-1], true
	case "nextitem":
		if l.at == n-1 {
			return undef("there is no next item"), true
		}
		return l.items[l.at+1], true
	case "cycle":
		return &function{name: name, call: func(_ *machine, a args) (Value, error) {
			if len(a.pos) == 0 {
				return nil, errorf("no items for cycling given")
			}
			return a.pos[l.at%len(a.pos)], nil
		}}, true
	case "changed":
		return &function{name: name, call: func(m *machine, a args) (Value, error) {
			now := &List{items: a.pos, tuple: true}
			if l.changed != nil {
				if eq, err := m.equal(now, l.changed, 0); err != nil || eq {
					return false, err
				}
			}
			l.changed = now
			return true, nil
		}}, true
	}
	return nil, false
}

// forStatement runs a loop over its own iterable, or over the given values of a recursive call.
func (m *machine) forStatement(n *forStmt, s *scope, items []Value, depth int) error {
	if depth == 0 {
		v, err := m.eval(n.iter, s)
		if err != nil {
			return err
		}
		if items, err = m.iterate(v); err != nil {
			return err
		}
	}
	items, err := m.where(n, s, items)
	if err != nil {
		return err
	}
	if len(items) == 0 {
		return m.block(n.other, newScope(s))
	}
	l := &loop{items: items, depth: depth}
	if n.recursive {
		l.recurse = func(m *machine, a args) (Value, error) {
			if len(a.pos) != 1 || len(a.kw) > 0 {
				return nil, errorf("loop() takes one argument")
			}
			more, err := m.iterate(a.pos[0])
			if err != nil {
				return nil, err
			}
			return m.capture(func() error { return m.forStatement(n, s, more, depth+1) })
		}
	}
	for i, item := range items {
		if err := m.step(); err != nil {
			return err
		}
		l.at = i
		inner := newScope(s)
		if err := m.assign(n.target, item, inner); err != nil {
			return err
		}
		inner.set("loop", l)
		err := m.block(n.body, inner)
		if errors.Is(err, errBreak) {
			return nil
		}
		if err != nil && !errors.Is(err, errContinue) {
			return err
		}
	}
	return nil
}

// where keeps the items for which the loop's condition holds.
func (m *machine) where(n *forStmt, s *scope, items []Value) ([]Value, error) {
	if n.where == nil {
		return items, nil
	}
	var out []Value
	for _, item := range items {
		inner := newScope(s)
		if err := m.assign(n.target, item, inner); err != nil {
			return nil, err
		}
		v, err := m.eval(n.where, inner)
		if err != nil {
			return nil, err
		}
		if truth(v) {
			out = append(out, item)
		}
	}
	return out, m.slots(len(out))
}

// macro makes a function of a macro; its variables outside are those of the scope where it stands.
func (m *machine) macro(def *macro, s *scope) *function {
	return &function{name: def.name, call: func(m *machine, a args) (Value, error) {
		inner := newScope(s)
		if err := m.macroArgs(def, a, inner); err != nil {
			return nil, err
		}
		if err := m.deeper(); err != nil {
			return nil, err
		}
		defer func() { m.depth-- }()
		return m.capture(func() error { return m.block(def.body, inner) })
	}}
}

func (m *machine) macroArgs(def *macro, a args, s *scope) error {
	given := map[string]bool{}
	for i, v := range a.pos {
		if i < len(def.params) {
			s.set(def.params[i], v)
			given[def.params[i]] = true
		} else if !def.varargs {
			return errorf("macro '%s' takes not more than %d argument(s)", def.name, len(def.params))
		}
	}
	if def.varargs {
		s.set("varargs", &List{items: a.pos[min(len(def.params), len(a.pos)):], tuple: true})
	}
	more := NewDict()
	for _, k := range a.kw {
		switch {
		case k.name == "caller":
			s.set("caller", k.value)
		case contains(def.params, k.name):
			if given[k.name] {
				return errorf("macro '%s' got multiple values for argument '%s'", def.name, k.name)
			}
			s.set(k.name, k.value)
			given[k.name] = true
		case def.kwargs:
			more.Set(k.name, k.value)
		default:
			return errorf("macro '%s' takes no keyword argument '%s'", def.name, k.name)
		}
	}
	if def.kwargs {
		s.set("kwargs", more)
	}
	if _, ok := s.own("caller"); def.caller && !ok {
		s.set("caller", undef("No caller defined"))
	}
	for i, p := range def.params {
		if given[p] {
			continue
		}
		d := i - (len(def.params) - len(def.defaults))
		if d < 0 {
			s.set(p, undef("parameter '%s' was not provided", p))
			continue
		}
		v, err := m.eval(def.defaults[d], s)
		if err != nil {
			return err
		}
		s.set(p, v)
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func (m *machine) callStatement(n *callBlock, s *scope) error {
	of, err := m.eval(n.call.of, s)
	if err != nil {
		return err
	}
	a, err := m.evalArgs(n.call.args, s)
	if err != nil {
		return err
	}
	a.kw = append(a.kw, namedValue{"caller", m.macro(n.m, s)})
	v, err := m.call(of, a)
	if err != nil {
		return err
	}
	text, err := str(v)
	if err != nil {
		return err
	}
	return m.write(text)
}
