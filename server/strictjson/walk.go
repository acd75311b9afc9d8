package strictjson

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// The functions below read bytes that json.Valid has accepted, so they look for structure only.

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

// key decodes the quoted name of a member.
func key(quoted []byte) string {
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return string(quoted) // can't happen: the document is valid
	}
	return s
}

// walker looks for duplicate keys and too deep nesting in one pass over the document.
type walker struct{ b []byte }

// value checks the value at i and returns the index behind it.
func (w walker) value(i int, path string, depth int) (int, error) {
	if depth > maxDepth {
		return 0, &Error{Path: path, Expected: fmt.Sprintf("at most %d levels of nesting", maxDepth), Got: "more"}
	}
	switch w.b[i] {
	case '{':
		return w.object(i, path, depth)
	case '[':
		return w.array(i, path, depth)
	}
	return end(w.b, i), nil
}

func (w walker) object(i int, path string, depth int) (int, error) {
	seen := make(map[string]struct{}, 8)
	for i = skipSpace(w.b, i+1); w.b[i] != '}'; {
		e := endString(w.b, i)
		name := key(w.b[i:e])
		at := join(path, name)
		if _, twice := seen[name]; twice {
			return 0, &Error{Code: DuplicateField, Path: at, Expected: "each field once", Got: "a duplicate"}
		}
		seen[name] = struct{}{}
		var err error
		if e, err = w.value(skipSpace(w.b, skipSpace(w.b, e)+1), at, depth+1); err != nil {
			return 0, err
		}
		i = skipComma(w.b, e)
	}
	return i + 1, nil
}

func (w walker) array(i int, path string, depth int) (int, error) {
	n := 0
	for i = skipSpace(w.b, i+1); w.b[i] != ']'; n++ {
		e := 0
		if c := w.b[i]; c != '{' && c != '[' { // numbers and strings hold no keys: no path is built for them
			e = end(w.b, i)
		} else {
			var err error
			if e, err = w.value(i, path+"["+strconv.Itoa(n)+"]", depth+1); err != nil {
				return 0, err
			}
		}
		i = skipComma(w.b, e)
	}
	return i + 1, nil
}
