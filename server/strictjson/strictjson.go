// Package strictjson reads JSON from strangers: it refuses what encoding/json lets pass (duplicate keys, keys that
// differ in case, trailing data, broken UTF-8, deep nesting) and says of every refusal which field it is about, what
// was expected and what was found.
//
// server and server/openai use it at the edge. It refuses to fill structs by reflection: a caller asks each Value for
// the one type that its field has, and so no field is taken by accident.
package strictjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds nesting. A chat message with tool schemas needs about 12; the reader recurses once a level.
const maxDepth = 64

const (
	// maxNumber is the longest number, in bytes, that is read: float64 has 17 digits, and those behind would be dropped in silence.
	maxNumber = 64
	// maxFields bounds the fields of one object, which are all remembered to find duplicates. The largest that make sense are
	// biases for some thousand tokens.
	maxFields = 1 << 14
)

// Error says what is wrong with a document.
type Error struct {
	Malformed bool   // the bytes are not one JSON document; otherwise a field has a wrong shape or value
	Code      Code   // what kind of refusal; empty means InvalidValue
	Path      string // field, such as messages[0].role; empty for the document itself
	Expected  string // what would have been right
	Got       string // what was found, never a long text
}

// Code is a stable name of a kind of refusal.
type Code string

// The codes, in the words of OpenAI's API where it has them.
const (
	InvalidValue     Code = "invalid_value"
	UnknownField     Code = "unknown_parameter"
	MissingField     Code = "missing_required_parameter"
	DuplicateField   Code = "duplicate_parameter"
	UnsupportedValue Code = "unsupported_value" // a documented value that this server can't honour
)

// Unknown refuses a field that its object does not have.
func (m Member) Unknown() *Error {
	return &Error{Code: UnknownField, Path: m.Path(), Expected: "a documented field", Got: "an unknown one"}
}

// Missing refuses an object without one of its fields.
func Missing(path, expected string) *Error {
	return &Error{Code: MissingField, Path: path, Expected: expected, Got: "nothing"}
}

// Unsupported refuses a documented value that can't be honoured.
func (v Value) Unsupported(expected string) *Error {
	return &Error{Code: UnsupportedValue, Path: v.Path(), Expected: expected, Got: v.describe()}
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString("expected " + e.Expected)
	if e.Got != "" {
		b.WriteString(", got " + e.Got)
	}
	return b.String()
}

// Value is one JSON value inside a document that Parse has accepted. The zero value is an absent field: its Exists is
// false and its readers refuse.
type Value struct {
	raw  []byte
	path string
	at   int // place in the array at path, from 1; 0 = path is the value's own. Nobody asks for most elements' paths
}

// Member is one field of an object.
type Member struct {
	Name string
	Value
}

// Parse checks a whole document and returns its value, which keeps b.
func Parse(b []byte) (Value, error) {
	if !utf8.Valid(b) {
		return Value{}, &Error{Malformed: true, Expected: "UTF-8 text", Got: "broken bytes"}
	}
	if len(strings.TrimLeft(string(b[:min(len(b), 64)]), " \t\r\n")) == 0 && len(b) <= 64 {
		return Value{}, &Error{Malformed: true, Expected: "a JSON document", Got: "an empty body"}
	}
	start := skipSpace(b, 0)
	w := walker{b: b}
	e, err := w.value(start, "", 0)
	if err == nil && skipSpace(b, e) != len(b) {
		err = errSyntax
	}
	if err != nil {
		if err == errSyntax || !json.Valid(b) { // a syntax error anywhere comes before what else is wrong
			err = malformed(b)
		}
		return Value{}, err
	}
	if loneSurrogate(b) {
		return Value{}, &Error{Malformed: true, Expected: "whole characters", Got: "half a surrogate pair"}
	}
	return Value{raw: b[start:e]}, nil
}

// ParseObject is Parse for a document that has to be an object; it returns the members.
func ParseObject(b []byte) ([]Member, error) {
	doc, err := Parse(b)
	if err != nil {
		return nil, err
	}
	return doc.Object()
}

// Fields read the members of an object by their names.
type Fields map[string]func(Value) error

// Read reads a document that has to be an object, in the order of its members. One that nobody reads is refused.
func (f Fields) Read(b []byte) error {
	members, err := ParseObject(b)
	if err != nil {
		return err
	}
	for _, m := range members {
		read, known := f[m.Name]
		if !known {
			return m.Unknown()
		}
		if err := read(m.Value); err != nil {
			return err
		}
	}
	return nil
}

// malformed finds the place of a syntax error.
func malformed(b []byte) error {
	e := &Error{Malformed: true, Expected: "one JSON document", Got: "a syntax error"}
	var syntax *json.SyntaxError
	var whole json.RawMessage
	if err := json.Unmarshal(b, &whole); errors.As(err, &syntax) {
		e.Got = fmt.Sprintf("a syntax error at byte %d", syntax.Offset)
	}
	return e
}

// Exists is false for a field that was not given.
func (v Value) Exists() bool { return len(v.raw) > 0 }

// Null is true for null and for an absent field.
func (v Value) Null() bool { return !v.Exists() || v.raw[0] == 'n' }

// Raw is the value's text.
func (v Value) Raw() json.RawMessage { return json.RawMessage(v.raw) }

// Path names the value within its document.
func (v Value) Path() string {
	if v.at == 0 {
		return v.path
	}
	return v.path + "[" + strconv.Itoa(v.at-1) + "]"
}

// Errorf is an Error about this value.
func (v Value) Errorf(expected string, args ...any) *Error {
	return &Error{Path: v.Path(), Expected: fmt.Sprintf(expected, args...), Got: v.describe()}
}

// IsString, IsArray, IsObject and IsNumber ask for the value's type.
func (v Value) IsString() bool { return v.first() == '"' }

// IsArray is true for [...].
func (v Value) IsArray() bool { return v.first() == '[' }

// IsObject is true for {...}.
func (v Value) IsObject() bool { return v.first() == '{' }

// IsNumber is true for a number.
func (v Value) IsNumber() bool { c := v.first(); return c == '-' || c >= '0' && c <= '9' }

func (v Value) first() byte {
	if !v.Exists() {
		return 0
	}
	return v.raw[0]
}

// describe names what a value is, without quoting a long text.
func (v Value) describe() string {
	switch c := v.first(); {
	case c == 0:
		return "nothing"
	case c == 'n':
		return "null"
	case c == 't' || c == 'f':
		return string(v.raw)
	case v.IsNumber():
		if len(v.raw) > 32 {
			return "a number of " + strconv.Itoa(len(v.raw)) + " digits"
		}
		return string(v.raw)
	case c == '"':
		if len(v.raw) <= 34 {
			return string(v.raw)
		}
		return fmt.Sprintf("a string of %d bytes", len(v.raw)-2)
	case c == '[':
		return "an array"
	}
	return "an object"
}

// Text reads a string.
func (v Value) Text() (string, error) {
	if !v.IsString() {
		return "", v.Errorf("a string")
	}
	var s string
	if err := json.Unmarshal(v.raw, &s); err != nil {
		return "", v.Errorf("a string")
	}
	return s, nil
}

// Bool reads true or false.
func (v Value) Bool() (bool, error) {
	switch v.first() {
	case 't':
		return true, nil
	case 'f':
		return false, nil
	}
	return false, v.Errorf("true or false")
}

// Float reads a number in [low, high]. Numbers that float64 can't hold are refused.
func (v Value) Float(low, high float64) (float64, error) {
	if !v.IsNumber() {
		return 0, v.Errorf("a number %s", between(low, high))
	}
	f, err := strconv.ParseFloat(string(v.raw), 64)
	if err != nil || f < low || f > high || len(v.raw) > maxNumber {
		return 0, v.Errorf("a number %s", between(low, high))
	}
	return f, nil
}

// Int reads a whole number in [low, high]; 2.0 is whole.
func (v Value) Int(low, high int64) (int64, error) {
	bad := func() (int64, error) {
		if low == math.MinInt64 && high == math.MaxInt64 {
			return 0, v.Errorf("a whole number of 64 bits")
		}
		return 0, v.Errorf("a whole number from %d to %d", low, high)
	}
	if !v.IsNumber() || len(v.raw) > maxNumber {
		return bad()
	}
	n, err := strconv.ParseInt(string(v.raw), 10, 64)
	if err != nil {
		f, ferr := strconv.ParseFloat(string(v.raw), 64)
		if ferr != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 || !strings.ContainsAny(string(v.raw), ".eE") {
			return bad()
		}
		n = int64(f)
	}
	if n < low || n > high {
		return bad()
	}
	return n, nil
}

// Array reads the elements of an array.
func (v Value) Array() ([]Value, error) { return v.ArrayUpTo(math.MaxInt) }

// ArrayUpTo reads the elements of an array that has so many at most; a longer one is refused before it takes memory.
func (v Value) ArrayUpTo(most int) ([]Value, error) {
	if !v.IsArray() {
		return nil, v.Errorf("an array")
	}
	path := v.Path()
	n := 0
	for i := skipSpace(v.raw, 1); v.raw[i] != ']'; n++ {
		if n == most {
			return nil, &Error{Path: path, Expected: fmt.Sprintf("at most %d elements", most), Got: "more"}
		}
		i = skipComma(v.raw, end(v.raw, i))
	}
	out := make([]Value, 0, n)
	for i := skipSpace(v.raw, 1); v.raw[i] != ']'; {
		e := end(v.raw, i)
		out = append(out, Value{raw: v.raw[i:e], path: path, at: len(out) + 1})
		i = skipComma(v.raw, e)
	}
	return out, nil
}

// Object reads the members of an object, in their order.
func (v Value) Object() ([]Member, error) {
	if !v.IsObject() {
		return nil, v.Errorf("an object")
	}
	var out []Member
	for i := skipSpace(v.raw, 1); v.raw[i] != '}'; {
		e := end(v.raw, i)
		name := key(v.raw[i:e])
		i = skipSpace(v.raw, skipSpace(v.raw, e)+1) // the colon
		e = end(v.raw, i)
		out = append(out, Member{Name: name, Value: Value{raw: v.raw[i:e], path: join(v.Path(), name)}})
		i = skipComma(v.raw, e)
	}
	return out, nil
}

func between(low, high float64) string {
	switch {
	case math.IsInf(low, -1) && math.IsInf(high, 1):
		return "that float64 can hold"
	case math.IsInf(high, 1):
		return fmt.Sprintf("of at least %g", low)
	}
	return fmt.Sprintf("from %g to %g", low, high)
}

// join appends a field name to a path. Long and odd names are cut and quoted, so that a path is safe to print.
func join(path, name string) string {
	if len(name) > 64 {
		name = strings.ToValidUTF8(name[:64], "") + "..."
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || r == '.' || r == '[' {
			name = strconv.Quote(name)
			break
		}
	}
	if path == "" {
		return name
	}
	return path + "." + name
}
