package jinja

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/sdk"
)

// FromJSON reads one JSON value and keeps the order of keys; of a key that is there twice the last value counts.
// Numbers become integers or floats as Python's json module reads them.
func FromJSON(raw []byte) (Value, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := readValue(d, 0)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = fmt.Errorf("text after the value: %w", sdk.ErrInvalid)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	return v, nil
}

func readValue(d *json.Decoder, depth int) (Value, error) {
	if depth > maxNested {
		return nil, fmt.Errorf("nested more than %d levels deep: %w", maxNested, sdk.ErrInvalid)
	}
	t, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, sdk.ErrInvalid)
	}
	switch t := t.(type) {
	case json.Number:
		return readNumber(t.String())
	case json.Delim:
		if t == '[' {
			return readList(d, depth)
		}
		return readDict(d, depth)
	}
	return t, nil // nil, bool or string
}

func readList(d *json.Decoder, depth int) (Value, error) {
	l := NewList()
	for d.More() {
		v, err := readValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		l.items = append(l.items, v)
	}
	_, err := d.Token()
	return l, invalid(err)
}

func readDict(d *json.Decoder, depth int) (Value, error) {
	m := NewDict()
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return nil, invalid(err)
		}
		v, err := readValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		m.put(k, v)
	}
	_, err := d.Token()
	return m, invalid(err)
}

func invalid(err error) error {
	if err != nil {
		return fmt.Errorf("%v: %w", err, sdk.ErrInvalid)
	}
	return nil
}

func readNumber(s string) (Value, error) {
	if !strings.ContainsAny(s, ".eE") {
		if len(s) > 4300 { // Python's own limit
			return nil, fmt.Errorf("an integer of %d digits: %w", len(s), sdk.ErrInvalid)
		}
		n, ok := new(big.Int).SetString(s, 10)
		if !ok {
			return nil, fmt.Errorf("number %q: %w", s, sdk.ErrInvalid)
		}
		return fromBig(n), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return nil, fmt.Errorf("number %q: %w", s, sdk.ErrInvalid)
	}
	return f, nil
}

// jsonStyle is how tojson writes.
type jsonStyle struct {
	m      *machine
	ascii  bool
	item   string
	key    string
	indent string // of one level; used if pretty
	pretty bool
	sorted bool
}

// toJSON is json.dumps.
func toJSON(b *strings.Builder, v Value, st *jsonStyle, depth int) error {
	if depth > maxNested {
		return errorf("a value nested more than %d levels deep", maxNested)
	}
	if b.Len() > MaxOutput {
		return errorf("a text of more than %d bytes", MaxOutput)
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case int64, *big.Int:
		return writeRepr(b, v, 0)
	case float64:
		b.WriteString(jsonFloat(v))
	case string:
		jsonString(b, v, st.ascii)
	case *List:
		return jsonItems(b, "[", "]", len(v.items), st, depth, func(i int) error { return toJSON(b, v.items[i], st, depth+1) })
	case *Dict:
		at, err := jsonKeys(v, st)
		if err != nil {
			return err
		}
		return jsonItems(b, "{", "}", len(at), st, depth, func(i int) error {
			if err := jsonKey(b, v.keys[at[i]], st); err != nil {
				return err
			}
			b.WriteString(st.key)
			return toJSON(b, v.values[at[i]], st, depth+1)
		})
	default:
		return errorf("Object of type %s is not JSON serializable", typeName(v))
	}
	return nil
}

func jsonItems(b *strings.Builder, open, end string, n int, st *jsonStyle, depth int, item func(int) error) error {
	b.WriteString(open)
	line := func(depth int) {
		if st.pretty && n > 0 {
			b.WriteByte('\n')
			b.WriteString(strings.Repeat(st.indent, depth))
		}
	}
	for i := range n {
		if i > 0 {
			b.WriteString(st.item)
		}
		line(depth + 1)
		if err := item(i); err != nil {
			return err
		}
	}
	line(depth)
	b.WriteString(end)
	return nil
}

// jsonKeys is the order in which the keys are written.
func jsonKeys(d *Dict, st *jsonStyle) ([]int, error) {
	at := make([]int, len(d.keys))
	for i := range at {
		at[i] = i
	}
	if !st.sorted {
		return at, nil
	}
	return at, st.m.sortBy(at, d.keys, false)
}

func jsonKey(b *strings.Builder, k Value, st *jsonStyle) error {
	switch k := k.(type) {
	case string:
		jsonString(b, k, st.ascii)
		return nil
	case nil, bool, int64, *big.Int, float64:
		b.WriteByte('"')
		err := toJSON(b, k, st, 0)
		b.WriteByte('"')
		return err
	}
	return errorf("keys must be str, int, float, bool or None, not %s", typeName(k))
}

func jsonFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return floatText(f)
}

func jsonString(b *strings.Builder, s string, ascii bool) {
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\f':
			b.WriteString(`\f`)
		case r == '\b':
			b.WriteString(`\b`)
		case r < ' ' || ascii && r >= 0x7f && r < 0x10000 && r != 0x7f:
			b.WriteString(`\u` + hexPad(r, 4))
		case ascii && r >= 0x10000:
			r -= 0x10000
			b.WriteString(`\u` + hexPad(0xd800+r>>10, 4) + `\u` + hexPad(0xdc00+r&0x3ff, 4))
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}
