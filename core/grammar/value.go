package grammar

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/sdk"
)

// Values of JSON are nil, bool, number, string, []any and *object.

// number is a number as it was written. A text with a fraction or an exponent means the nearest float64, as every reader
// of JSON takes it; another is exact.
type number struct {
	text string
	rat  *big.Rat
}

// object keeps the order of its members.
type object struct {
	keys []string
	vals map[string]any
}

// maxDepth bounds the nesting of a schema.
const maxDepth = 64

// parseValue reads a document.
func parseValue(b []byte) (any, error) {
	if len(b) > maxSource {
		return nil, fmt.Errorf("more than %d bytes: %w", maxSource, sdk.ErrInvalid)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := readValue(d, 0)
	if err != nil {
		return nil, err
	}
	if d.More() {
		return nil, fmt.Errorf("more than one JSON document: %w", sdk.ErrInvalid)
	}
	return v, nil
}

func readValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested more than %d deep: %w", maxDepth, sdk.ErrInvalid)
	}
	t, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("not a JSON document: %v: %w", err, sdk.ErrInvalid)
	}
	switch t := t.(type) {
	case json.Number:
		return parseNumber(string(t))
	case json.Delim:
		if t == '[' {
			out := []any{}
			for d.More() {
				v, err := readValue(d, depth+1)
				if err != nil {
					return nil, err
				}
				out = append(out, v)
			}
			return out, closing(d)
		}
		o := &object{vals: map[string]any{}}
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, fmt.Errorf("not a JSON document: %v: %w", err, sdk.ErrInvalid)
			}
			v, err := readValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			name, _ := k.(string)
			if _, twice := o.vals[name]; !twice {
				o.keys = append(o.keys, name)
			}
			o.vals[name] = v
		}
		return o, closing(d)
	}
	return t, nil
}

// closing reads the end of an array or object.
func closing(d *json.Decoder) error {
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("not a JSON document: %v: %w", err, sdk.ErrInvalid)
	}
	return nil
}

func parseNumber(text string) (number, error) {
	if !strings.ContainsAny(text, ".eE") {
		r, ok := new(big.Rat).SetString(text)
		if !ok || len(text) > 400 {
			return number{}, fmt.Errorf("the number %.40s has too many digits: %w", text, sdk.ErrInvalid)
		}
		return number{text, r}, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) {
		return number{}, fmt.Errorf("no float64 holds the number %.40s: %w", text, sdk.ErrInvalid)
	}
	return number{text, new(big.Rat).SetFloat64(f)}, nil
}

// equal is JSON Schema's equality.
func equal(a, b any) bool {
	switch a := a.(type) {
	case number:
		b, ok := b.(number)
		return ok && a.rat.Cmp(b.rat) == 0
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !equal(a[i], b[i]) {
				return false
			}
		}
		return true
	case *object:
		b, ok := b.(*object)
		if !ok || len(a.keys) != len(b.keys) {
			return false
		}
		for k, v := range a.vals {
			if w, ok := b.vals[k]; !ok || !equal(v, w) {
				return false
			}
		}
		return true
	}
	switch b.(type) {
	case []any, *object, number:
		return false
	}
	return a == b
}

// text writes a value without white space.
func text(v any) string {
	var b strings.Builder
	write(&b, v)
	return b.String()
}

func write(b *strings.Builder, v any) {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case number:
		b.WriteString(v.text)
	case string:
		b.WriteString(quote(v))
	case []any:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			write(b, e)
		}
		b.WriteByte(']')
	case *object:
		b.WriteByte('{')
		for i, k := range v.keys {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(quote(k) + ":")
			write(b, v.vals[k])
		}
		b.WriteByte('}')
	}
}

// quote writes a string as the automata of strings do: the short escapes where there are some, no other escape that is
// not needed, one way for each string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c >= ' ':
			b.WriteByte(c)
		case short[c] != 0:
			b.WriteByte('\\')
			b.WriteByte(short[c])
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// short are the escapes of control characters that have a letter.
var short = [32]byte{'\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}
