package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"github.com/pimoe/pimoe/sdk"
)

// fields reads one JSON object strictly: every key must be asked for, and a key that nobody asked for is an option
// that this reader does not know. The first error sticks; end returns it.
type fields struct {
	path string // where in the file, such as "pre_tokenizer.pretokenizers[1]"
	raw  map[string]json.RawMessage
	err  error
}

func newFields(path string, raw json.RawMessage) *fields {
	f := &fields{path: path}
	if err := json.Unmarshal(raw, &f.raw); err != nil {
		f.err = fmt.Errorf("%s: not an object: %v: %w", path, err, sdk.ErrInvalid)
	} else if f.raw == nil {
		f.err = fmt.Errorf("%s: null where an object must be: %w", path, sdk.ErrInvalid)
	}
	return f
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(f.path+": "+format, args...)
	}
}

// take removes a key. Absent and null are the same.
func (f *fields) take(key string) (json.RawMessage, bool) {
	v, ok := f.raw[key]
	delete(f.raw, key)
	if !ok || isNull(v) {
		return nil, false
	}
	return v, true
}

// into decodes an optional key into v and reports whether it was there.
func (f *fields) into(key string, v any) bool {
	raw, ok := f.take(key)
	if !ok {
		return false
	}
	if err := json.Unmarshal(raw, v); err != nil {
		f.fail("%s: %v: %w", key, err, sdk.ErrInvalid)
		return false
	}
	return true
}

// need is into for a key that must be there.
func (f *fields) need(key string, v any) {
	if _, ok := f.raw[key]; !ok || isNull(f.raw[key]) {
		f.fail("%s is missing: %w", key, sdk.ErrInvalid)
		return
	}
	f.into(key, v)
}

func (f *fields) str(key, def string) string {
	f.into(key, &def)
	return def
}

func (f *fields) flag(key string, def bool) bool {
	f.into(key, &def)
	return def
}

// rune1 is a key whose value is one character.
func (f *fields) rune1(key string, def rune) rune {
	s := f.str(key, string(def))
	r := []rune(s)
	if len(r) != 1 {
		f.fail("%s: %q is not one character: %w", key, s, sdk.ErrInvalid)
		return def
	}
	return r[0]
}

// oneOf is a string key with a closed set of values.
func (f *fields) oneOf(key, def string, values ...string) string {
	s := f.str(key, def)
	for _, v := range values {
		if s == v {
			return s
		}
	}
	f.fail("%s %q: %w", key, s, sdk.ErrUnsupported)
	return def
}

// list is a key whose value is an array; absent is empty.
func (f *fields) list(key string) []json.RawMessage {
	var l []json.RawMessage
	f.into(key, &l)
	return l
}

// end is the first error, or names the keys that were left over.
func (f *fields) end() error {
	if f.err == nil && len(f.raw) > 0 {
		var left []string
		for k := range f.raw {
			left = append(left, k)
		}
		sort.Strings(left)
		f.fail("unknown option %s: %w", strings.Join(left, ", "), sdk.ErrUnsupported)
	}
	return f.err
}

func isNull(raw json.RawMessage) bool {
	return len(raw) == 0 || bytes.Equal(bytes.TrimSpace(raw), []byte("null"))
}
