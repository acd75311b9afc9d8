package jinja

import (
	"fmt"
	"strings"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// globalVars are the functions that every template sees.
var globalVars map[string]Value

func init() {
	globalVars = map[string]Value{}
	for name, f := range map[string]func(*machine, args) (Value, error){
		"range": rangeFunc, "dict": dictFunc, "namespace": namespaceFunc, "raise_exception": raiseFunc,
		"strftime_now": strftimeFunc, "cycler": cyclerFunc, "joiner": joinerFunc,
	} {
		globalVars[name] = &function{name: name, call: f}
	}
}

func rangeFunc(m *machine, a args) (Value, error) {
	if len(a.kw) > 0 || len(a.pos) < 1 || len(a.pos) > 3 {
		return nil, errorf("range expected 1 to 3 arguments")
	}
	n := []int64{0, 0, 1}
	for i, v := range a.pos {
		x, err := asInt(v, 0)
		if err != nil {
			return nil, err
		}
		n[i] = x
	}
	start, stop, step := n[0], n[1], n[2]
	if len(a.pos) == 1 {
		start, stop = 0, n[0]
	}
	if step == 0 {
		return nil, errorf("range() arg 3 must not be zero")
	}
	l := NewList()
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		if len(l.items) >= maxRange {
			return nil, errorf("Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", maxRange)
		}
		l.items = append(l.items, i)
		if next := i + step; (next > i) != (step > 0) {
			break // ran over
		}
	}
	return l, m.slots(len(l.items))
}

// fill puts the arguments of dict() and namespace() into a mapping.
func fill(m *machine, what string, a args) (*Dict, error) {
	d := NewDict()
	if len(a.pos) > 1 {
		return nil, errorf("%s expected at most 1 argument, got %d", what, len(a.pos))
	}
	if len(a.pos) == 1 {
		if src, ok := a.pos[0].(*Dict); ok {
			for i, k := range src.keys {
				d.put(k, src.values[i])
			}
		} else {
			items, err := m.iterate(a.pos[0])
			if err != nil {
				return nil, err
			}
			for _, item := range items {
				pair, err := m.iterate(item)
				if err != nil {
					return nil, err
				}
				if len(pair) != 2 {
					return nil, errorf("%s: an item of %d values instead of 2", what, len(pair))
				}
				if _, err := hash(pair[0]); err != nil {
					return nil, err
				}
				d.put(pair[0], pair[1])
			}
		}
	}
	for _, k := range a.kw {
		d.Set(k.name, k.value)
	}
	return d, m.slots(4 * len(d.keys))
}

func dictFunc(m *machine, a args) (Value, error) { return fill(m, "dict", a) }

func namespaceFunc(m *machine, a args) (Value, error) {
	d, err := fill(m, "namespace", a)
	if err != nil {
		return nil, err
	}
	return &namespace{d}, nil
}

// raiseFunc ends the rendering with the template's own words.
func raiseFunc(_ *machine, a args) (Value, error) {
	p, err := a.params("raise_exception", 1, "message")
	if err != nil {
		return nil, err
	}
	text, err := str(p[0])
	if err != nil {
		return nil, err
	}
	return nil, &Error{Text: text, class: fmt.Errorf("raised by the template: %w", sdk.ErrInvalid)}
}

var strftimeCodes = map[byte]string{
	'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'I': "03", 'M': "04", 'S': "05", 'y': "06", 'b': "Jan", 'h': "Jan", 'B': "January",
	'a': "Mon", 'A': "Monday", 'p': "PM", 'j': "002", 'e': "_2", 'F': "2006-01-02", 'T': "15:04:05", 'R': "15:04", 'D': "01/02/06",
	'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06", 'X': "15:04:05", 'f': "000000",
}

// strftimeFunc is datetime.now().strftime(format).
func strftimeFunc(m *machine, a args) (Value, error) {
	p, err := a.params("strftime_now", 1, "format")
	if err != nil {
		return nil, err
	}
	format, err := asStr(p[0], "")
	if err != nil {
		return nil, err
	}
	if err := m.room(16 * len(format)); err != nil {
		return nil, err
	}
	return strftime(m.now, format)
}

func strftime(now time.Time, format string) (Value, error) {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		short := format[i] == '-' && i+1 < len(format)
		if short {
			i++
		}
		switch c := format[i]; {
		case c == '%':
			b.WriteByte('%')
		case c == 'n':
			b.WriteByte('\n')
		case c == 't':
			b.WriteByte('\t')
		case c == 'f':
			fmt.Fprintf(&b, "%06d", now.Nanosecond()/1000)
		case strftimeCodes[c] != "":
			s := now.Format(strftimeCodes[c])
			if short {
				if s = strings.TrimLeft(s, "0 "); s == "" {
					s = "0"
				}
			}
			b.WriteString(s)
		default:
			return nil, unsupported("strftime %%%c", c)
		}
	}
	return b.String(), nil
}

// cycler walks through its values again and again.
type cycler struct {
	items []Value
	at    int
}

func cyclerFunc(_ *machine, a args) (Value, error) {
	if len(a.pos) == 0 || len(a.kw) > 0 {
		return nil, errorf("at least one item has to be provided")
	}
	return &cycler{items: a.pos}, nil
}

func (c *cycler) attr(name string) (Value, bool) {
	switch name {
	case "current":
		return c.items[c.at], true
	case "next":
		return &function{name: name, call: func(*machine, args) (Value, error) {
			v := c.items[c.at]
			c.at = (c.at + 1) % len(c.items)
			return v, nil
		}}, true
	case "reset":
		return &function{name: name, call: func(*machine, args) (Value, error) {
			c.at = 0
			return nil, nil
		}}, true
	}
	return nil, false
}

// joinerFunc makes a function that returns nothing the first time and the separator from then on.
func joinerFunc(_ *machine, a args) (Value, error) {
	p, err := a.params("joiner", 0, "sep")
	if err != nil {
		return nil, err
	}
	sep := p[0]
	if !given(sep) {
		sep = ", "
	}
	used := false
	return &function{name: "joiner", call: func(*machine, args) (Value, error) {
		if !used {
			used = true
			return "", nil
		}
		return sep, nil
	}}, nil
}
