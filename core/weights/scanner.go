package weights

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads the little JSON that weight files hold, strictly: encoding/json would let duplicate keys, other
// spellings of a key and lone surrogates pass, and each of them makes two readers see two different files.
// The text must be valid UTF-8.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// peek is the next byte after white space; 0, which no JSON value begins with, at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.i == len(s.b) {
		return 0
	}
	return s.b[s.i]
}

func (s *scanner) take(c byte) error {
	if s.peek() != c {
		return s.unexpected(string(c))
	}
	s.i++
	return nil
}

func (s *scanner) unexpected(want string) error {
	if s.i == len(s.b) {
		return fmt.Errorf("byte %d: the text ends where %s is expected", s.i, want)
	}
	r, _ := utf8.DecodeRune(s.b[s.i:])
	return fmt.Errorf("byte %d: %s is expected, not %q", s.i, want, r)
}

// end checks that only white space, the format's padding, is left.
func (s *scanner) end() error {
	if s.peek() != 0 || s.i < len(s.b) {
		return s.unexpected("the end")
	}
	return nil
}

// object reads an object; each reads the value of a key. Two equal keys are an error.
func (s *scanner) object(each func(key string) error) error {
	if err := s.take('{'); err != nil {
		return err
	}
	if s.peek() == '}' {
		s.i++
		return nil
	}
	seen := map[string]struct{}{}
	for {
		s.space()
		key, err := s.text()
		if err != nil {
			return err
		}
		if _, twice := seen[key]; twice {
			return fmt.Errorf("duplicate key %s", quote(key))
		}
		seen[key] = struct{}{}
		if err := s.take(':'); err != nil {
			return err
		}
		if err := each(key); err != nil {
			return err
		}
		if s.peek() != ',' {
			return s.take('}')
		}
		s.i++
	}
}

// array reads an array; each reads one element.
func (s *scanner) array(each func() error) error {
	if err := s.take('['); err != nil {
		return err
	}
	if s.peek() == ']' {
		s.i++
		return nil
	}
	for {
		if err := each(); err != nil {
			return err
		}
		if s.peek() != ',' {
			return s.take(']')
		}
		s.i++
	}
}

// integers reads an array of at most most integers that are not negative.
func (s *scanner) integers(most int) ([]int64, error) {
	var list []int64
	err := s.array(func() error {
		if len(list) == most {
			return fmt.Errorf("more than %d numbers", most)
		}
		n, err := s.integer()
		list = append(list, n)
		return err
	})
	return list, err
}

func (s *scanner) integer() (int64, error) {
	if s.peek() == '-' {
		return 0, fmt.Errorf("byte %d: negative number", s.i)
	}
	from, n := s.i, int64(0)
	for ; s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9'; s.i++ {
		d := int64(s.b[s.i] - '0')
		if n > (math.MaxInt64-d)/10 {
			return 0, fmt.Errorf("byte %d: number overflows", from)
		}
		n = n*10 + d
	}
	if s.i == from {
		return 0, s.unexpected("an integer")
	}
	if s.b[from] == '0' && s.i > from+1 {
		return 0, fmt.Errorf("byte %d: number with a leading zero", from)
	}
	if s.i < len(s.b) && (s.b[s.i] == '.' || s.b[s.i] == 'e' || s.b[s.i] == 'E') {
		return 0, fmt.Errorf("byte %d: number is no integer", from)
	}
	return n, nil
}

// stringMap reads an object whose values are strings.
func (s *scanner) stringMap() (map[string]string, error) {
	m := map[string]string{}
	err := s.object(func(key string) error {
		if s.peek() != '"' {
			return fmt.Errorf("value of %s is no string", quote(key))
		}
		v, err := s.text()
		m[key] = v
		return err
	})
	return m, err
}

var errEscape = errors.New("broken escape in a string")

// text reads a string.
func (s *scanner) text() (string, error) {
	if s.peek() != '"' {
		return "", s.unexpected("a string")
	}
	s.i++
	from := s.i
	for ; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return string(s.b[from : s.i-1]), nil
		case c == '\\':
			return s.escaped(from)
		case c < 0x20:
			return "", s.unexpected("no control character")
		}
	}
	return "", s.unexpected("the end of a string")
}

// escaped goes on with a string that began at from and has its first escape at s.i.
func (s *scanner) escaped(from int) (string, error) {
	out := append([]byte(nil), s.b[from:s.i]...)
	for s.i < len(s.b) {
		c := s.b[s.i]
		switch {
		case c == '"':
			s.i++
			return string(out), nil
		case c < 0x20:
			return "", s.unexpected("no control character")
		case c != '\\':
			out = append(out, c)
			s.i++
		default:
			r, err := s.escape()
			if err != nil {
				return "", fmt.Errorf("byte %d: %w", s.i, err)
			}
			out = utf8.AppendRune(out, r)
		}
	}
	return "", s.unexpected("the end of a string")
}

var escapes = map[byte]rune{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// escape reads one escape, which may be a pair of surrogates; a lone surrogate is no character.
func (s *scanner) escape() (rune, error) {
	if s.i+1 >= len(s.b) {
		return 0, errEscape
	}
	if r, ok := escapes[s.b[s.i+1]]; ok {
		s.i += 2
		return r, nil
	}
	r, ok := s.hex()
	if !ok {
		return 0, errEscape
	}
	if !utf16.IsSurrogate(r) {
		return r, nil
	}
	low, ok := s.hex()
	if !ok {
		return 0, errEscape
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return 0, errEscape
	}
	return r, nil
}

// hex reads \uXXXX.
func (s *scanner) hex() (rune, bool) {
	if s.i+6 > len(s.b) || s.b[s.i] != '\\' || s.b[s.i+1] != 'u' {
		return 0, false
	}
	for _, c := range s.b[s.i+2 : s.i+6] {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F') {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(string(s.b[s.i+2:s.i+6]), 16, 16)
	s.i += 6
	return rune(n), err == nil
}

// skip reads over any value, at most depth levels deep.
func (s *scanner) skip(depth int) error {
	if depth == 0 {
		return fmt.Errorf("byte %d: nested too deeply", s.i)
	}
	switch c := s.peek(); {
	case c == '{':
		return s.object(func(string) error { return s.skip(depth - 1) })
	case c == '[':
		return s.array(func() error { return s.skip(depth - 1) })
	case c == '"':
		_, err := s.text()
		return err
	}
	from := s.i
	for s.i < len(s.b) && (s.b[s.i] >= 'a' && s.b[s.i] <= 'z' || s.b[s.i] >= '0' && s.b[s.i] <= '9' ||
		s.b[s.i] == 'E' || s.b[s.i] == '+' || s.b[s.i] == '-' || s.b[s.i] == '.') {
		s.i++
	}
	word := string(s.b[from:s.i])
	if word == "true" || word == "false" || word == "null" {
		return nil
	}
	if _, err := strconv.ParseFloat(word, 64); err != nil && !errors.Is(err, strconv.ErrRange) {
		s.i = from
		return s.unexpected("a value")
	}
	return nil
}
