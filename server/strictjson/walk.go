package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
)

// The functions before walker read bytes that it has accepted, so they look for structure only.

// skipSpace is the index of the first byte at or after i that is no space.
func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// skipComma is the index of the next element behind the one that ended at i, or of the closing bracket.
func skipComma(b []byte, i int) int {
	if i = skipSpace(b, i); b[i] == ',' {
		i = skipSpace(b, i+1)
	}
	return i
}

// end is the index behind the value that begins at i.
func end(b []byte, i int) int {
	switch b[i] {
	case '"':
		return endString(b, i)
	case '{', '[':
		for depth := 0; ; i++ {
			switch b[i] {
			case '"':
				i = endString(b, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	for ; i < len(b); i++ {
		switch b[i] {
		case ',', ']', '}', ' ', '\n', '\r', '\t':
			return i
		}
	}
	return i
}

func endString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// loneSurrogate reports whether an escape is half a character of UTF-16 without its other half. Readers make different
// texts of it.
func loneSurrogate(b []byte) bool {
	for i := 0; ; {
		at := bytes.IndexByte(b[i:], '\\') // outside strings there is none
		if at < 0 {
			return false
		}
		if i += at + 2; b[i-1] != 'u' {
			continue
		}
		unit := escaped(b[i:])
		if i += 4; !utf16.IsSurrogate(unit) {
			continue
		}
		if i+6 > len(b) || b[i] != '\\' || b[i+1] != 'u' || utf16.DecodeRune(unit, escaped(b[i+2:])) == unicode.ReplacementChar {
			return true
		}
		i += 6
	}
}

// escaped is the value of four hexadecimal digits.
func escaped(digits []byte) (unit rune) {
	for _, d := range digits[:4] {
		unit = unit<<4 | rune(d&0xf)
		if d > '9' {
			unit += 9 // a letter's lower half begins at 1
		}
	}
	return unit
}

// key decodes the quoted name of a member.
func key(quoted []byte) string {
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return string(quoted) // can't happen: the document is valid
	}
	return s
}

// walker checks a document in one pass: its grammar, duplicate keys and too deep nesting. A body of numbers is mostly
// what it looks at, so it does not ask json.Valid, which takes some nanoseconds a byte.
type walker struct{ b []byte }

// errSyntax is any breach of JSON's grammar; malformed finds its place.
var errSyntax = errors.New("a syntax error")

// value checks the value at i and returns the index behind it.
func (w walker) value(i int, path string, depth int) (int, error) {
	if i >= len(w.b) {
		return 0, errSyntax
	}
	switch w.b[i] {
	case '{', '[':
		if depth > maxDepth {
			return 0, &Error{Path: path, Expected: fmt.Sprintf("at most %d levels of nesting", maxDepth), Got: "more"}
		}
		if w.b[i] == '{' {
			return w.object(i, path, depth)
		}
		return w.array(i, path, depth)
	}
	e := w.scalar(i)
	switch {
	case e < 0:
		return 0, errSyntax
	case depth > maxDepth:
		return 0, &Error{Path: path, Expected: fmt.Sprintf("at most %d levels of nesting", maxDepth), Got: "more"}
	}
	return e, nil
}

// scalar is the index behind the string, number or word at i, -1 if there is none.
func (w walker) scalar(i int) int {
	switch w.b[i] {
	case '"':
		return w.text(i)
	case 't':
		return w.word(i, "true")
	case 'f':
		return w.word(i, "false")
	case 'n':
		return w.word(i, "null")
	}
	return w.number(i)
}

func (w walker) word(i int, word string) int {
	if e := i + len(word); e <= len(w.b) && string(w.b[i:e]) == word {
		return e
	}
	return -1
}

func (w walker) number(i int) int {
	b := w.b
	if b[i] == '-' {
		i++
	}
	start := i
	if i = w.digits(i); i == start || i > start+1 && b[start] == '0' {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		start = i + 1
		if i = w.digits(start); i == start {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '-' || b[i] == '+') {
			i++
		}
		start = i
		if i = w.digits(i); i == start {
			return -1
		}
	}
	return i
}

func (w walker) digits(i int) int {
	for i < len(w.b) && w.b[i]-'0' < 10 {
		i++
	}
	return i
}

// text is the index behind the string that begins at i, -1 if it is none or has no end.
func (w walker) text(i int) int {
	if w.b[i] != '"' {
		return -1
	}
	for i++; i < len(w.b); i++ {
		switch c := w.b[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c == '\\':
			if i++; i >= len(w.b) {
				return -1
			}
			if w.b[i] == 'u' {
				for range 4 {
					if i++; i >= len(w.b) || !hexDigit(w.b[i]) {
						return -1
					}
				}
			} else if strings.IndexByte(`"\/bfnrt`, w.b[i]) < 0 {
				return -1
			}
		}
	}
	return -1
}

func hexDigit(c byte) bool { return c-'0' < 10 || c|0x20 >= 'a' && c|0x20 <= 'f' }

func (w walker) object(i int, path string, depth int) (int, error) {
	seen := make(map[string]struct{}, 8)
	for i = skipSpace(w.b, i+1); ; {
		if i < len(w.b) && w.b[i] == '}' && len(seen) == 0 {
			return i + 1, nil
		}
		if i >= len(w.b) {
			return 0, errSyntax
		}
		e := w.text(i)
		if e < 0 {
			return 0, errSyntax
		}
		name := key(w.b[i:e])
		at := join(path, name)
		if _, twice := seen[name]; twice {
			return 0, &Error{Code: DuplicateField, Path: at, Expected: "each field once", Got: "a duplicate"}
		}
		if len(seen) == maxFields {
			return 0, &Error{Path: path, Expected: fmt.Sprintf("at most %d fields in an object", maxFields), Got: "more"}
		}
		seen[name] = struct{}{}
		if e = skipSpace(w.b, e); e >= len(w.b) || w.b[e] != ':' {
			return 0, errSyntax
		}
		e, err := w.value(skipSpace(w.b, e+1), at, depth+1)
		if err != nil {
			return 0, err
		}
		last := false
		if i, last = w.next(e, '}'); i < 0 {
			return 0, errSyntax
		}
		if last {
			return i, nil
		}
	}
}

func (w walker) array(i int, path string, depth int) (int, error) {
	if i = skipSpace(w.b, i+1); i < len(w.b) && w.b[i] == ']' {
		return i + 1, nil
	}
	for n := 0; ; n++ {
		e := 0
		if i < len(w.b) && w.b[i] != '{' && w.b[i] != '[' { // numbers and strings hold no keys: no path is built for them
			if e = w.scalar(i); e < 0 {
				return 0, errSyntax
			}
		} else {
			var err error
			if e, err = w.value(i, path+"["+strconv.Itoa(n)+"]", depth+1); err != nil {
				return 0, err
			}
		}
		last := false
		if i, last = w.next(e, ']'); i < 0 {
			return 0, errSyntax
		}
		if last {
			return i, nil
		}
	}
}

// next is the index of the element behind the one that ended at i, or behind the bracket that closes; -1 for neither.
func (w walker) next(i int, closing byte) (at int, last bool) {
	if i = skipSpace(w.b, i); i >= len(w.b) {
		return -1, false
	}
	switch w.b[i] {
	case ',':
		return skipSpace(w.b, i+1), false
	case closing:
		return i + 1, true
	}
	return -1, false
}
