package grammar

import (
	"unicode/utf8"
)

// utf8State reads UTF-8: bytes that are still to come, and the bounds of the next.
type utf8State struct{ left, lo, hi byte }

// step reads a byte; began says that a character begins with it.
func (u utf8State) step(b byte) (next utf8State, began, ok bool) {
	if u.left > 0 {
		if b < u.lo || b > u.hi {
			return u, false, false
		}
		if u.left == 1 {
			return utf8State{}, false, true
		}
		return utf8State{u.left - 1, 0x80, 0xbf}, false, true
	}
	switch {
	case b < utf8.RuneSelf:
		return u, true, true
	case b >= 0xc2 && b <= 0xdf:
		return utf8State{1, 0x80, 0xbf}, true, true
	case b == 0xe0:
		return utf8State{2, 0xa0, 0xbf}, true, true
	case b == 0xed:
		return utf8State{2, 0x80, 0x9f}, true, true
	case b >= 0xe1 && b <= 0xef:
		return utf8State{2, 0x80, 0xbf}, true, true
	case b == 0xf0:
		return utf8State{3, 0x90, 0xbf}, true, true
	case b == 0xf4:
		return utf8State{3, 0x80, 0x8f}, true, true
	case b >= 0xf1 && b <= 0xf3:
		return utf8State{3, 0x80, 0xbf}, true, true
	}
	return u, false, false
}

// chars is the automaton of all strings of min to max characters (max < 0 = no limit), only of printable ASCII if so.
func chars(least, most int32, ascii bool) (*dfa, error) {
	type at struct {
		u utf8State
		n int32
	}
	return explore(at{}, func(s at, b byte) (at, bool) {
		if ascii && (b < ' ' || b > '~') {
			return s, false
		}
		u, began, ok := s.u.step(b)
		if !ok {
			return s, false
		}
		s.u = u
		if began {
			if most >= 0 && s.n >= most {
				return s, false
			}
			if s.n++; most < 0 {
				s.n = min(s.n, least)
			}
		}
		return s, true
	}, func(s at) bool { return s.u.left == 0 && s.n >= least })
}

// escaped is the automaton of how the words of another are written in JSON, in the way of quote, with the quotes if so.
func escaped(d *dfa, quotes bool) (*dfa, error) {
	const (
		open = iota
		inside
		escape
		u0
		u1
		u2
		u3
		closed
	)
	type at struct {
		mode, high byte
		q          int32
	}
	start := at{mode: inside}
	if quotes {
		start.mode = open
	}
	if d.empty() {
		return &dfa{width: 1}, nil
	}
	take := func(s at, b byte) (at, bool) {
		q := d.step(s.q, b)
		return at{mode: inside, q: q}, q != dead
	}
	return explore(start, func(s at, b byte) (at, bool) {
		switch s.mode {
		case open:
			return at{mode: inside}, b == '"'
		case inside:
			switch {
			case b == '"':
				return at{mode: closed}, quotes && d.accept[s.q]
			case b == '\\':
				s.mode = escape
				return s, true
			case b >= ' ':
				return take(s, b)
			}
		case escape:
			if b == '"' || b == '\\' {
				return take(s, b)
			}
			for c, letter := range short {
				if letter != 0 && letter == b {
					return take(s, byte(c))
				}
			}
			s.mode = u0
			return s, b == 'u'
		case u0, u1:
			s.mode++
			return s, b == '0'
		case u2:
			s.mode, s.high = u3, b-'0'
			return s, b == '0' || b == '1'
		case u3:
			low, ok := hex(b)
			if c := s.high<<4 | low; ok && short[c&31] == 0 {
				return take(s, c)
			}
		}
		return s, false
	}, func(s at) bool { return s.mode == closed || !quotes && s.mode == inside && d.accept[s.q] })
}

func hex(b byte) (byte, bool) {
	switch {
	case b >= '0' && b <= '9':
		return b - '0', true
	case b >= 'a' && b <= 'f':
		return b - 'a' + 10, true
	}
	return 0, false
}

// formats are the forms that strings of a known format have here. JSON Schema makes format a remark; the strings are
// held to it nevertheless, in a narrow form that no reader doubts.
var formats = map[string]string{
	"date":      dateForm,
	"time":      timeForm,
	"date-time": dateForm + "T" + timeForm,
	"duration":  `P(?:[1-9][0-9]{0,3}D|T[1-9][0-9]{0,3}[HMS])`,
	"uuid":      `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`,
	"ipv4":      octet + `\.` + octet + `\.` + octet + `\.` + octet,
	"ipv6":      `[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){7}`,
	"hostname":  label + `(?:\.` + label + `){0,3}`,
	"email":     `[a-z0-9]{1,20}(?:[._-][a-z0-9]{1,10}){0,2}@` + label + `(?:\.` + label + `){1,2}`,
	"uri":       `https?://` + label + `(?:\.` + label + `){1,2}(?:/[A-Za-z0-9._-]{1,20}){0,4}/?`,
}

const (
	dateForm = `[12][0-9]{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)`
	timeForm = `(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,3})?Z`
	octet    = `(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])`
	label    = `[a-z](?:[a-z0-9]{0,14}[a-z0-9])?`
)
