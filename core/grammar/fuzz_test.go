package grammar

import (
	"math/rand/v2"
	"testing"
)

// letters is a vocabulary of all bytes and some longer tokens; the last id ends a text.
func letters(t testing.TB) *Vocabulary {
	t.Helper()
	more := []string{`":`, `","`, `"}`, `{"`, "true", "false", "null", "ab", "}}", "]]", "12", ", ", `": "`}
	size := int32(256 + len(more) + 1)
	v, err := NewVocabulary(int(size), func(id int32) []byte {
		switch {
		case id < 256:
			return []byte{byte(id)}
		case id < size-1:
			return []byte(more[id-256])
		}
		return nil
	}, []int32{size - 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// FuzzSchema: whatever compiles, every walk ends within its tokens in a value that the validator, which knows nothing of
// the automata, takes.
func FuzzSchema(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"type":"object"}`, `{"type":"integer","minimum":3,"not":{"multipleOf":2}}`, `{"type":"string","maxLength":3,"pattern":"[^a]"}`,
		`{"type":"array","uniqueItems":true,"minItems":2,"items":{"type":"integer","maximum":9,"minimum":0}}`,
		`{"oneOf":[{"type":"integer"},{"minimum":3},{"const":"x"}]}`, `{"properties":{"a":{"$ref":"#"}},"maxProperties":2,"type":"object"}`,
		`{"type":"object","patternProperties":{"^a":{"type":"null"}},"minProperties":2,"not":{"required":["a"]}}`,
		`{"type":"array","contains":{"const":1},"items":{"enum":[1,2]},"maxContains":2}`, `{"if":{"required":["a"]},"then":{"required":["b"]},"type":"object"}`,
	} {
		f.Add([]byte(s), uint64(1))
	}
	v := letters(f)
	f.Fuzz(func(t *testing.T, source []byte, seed uint64) {
		if len(source) > 400 {
			return
		}
		s, _, err := parseSchema(source, 0)
		g, compiled := Schema(source, v)
		if err != nil || compiled != nil {
			return
		}
		m, rng := g.Matcher(), rand.New(rand.NewPCG(seed, 1))
		var out []byte
		for left := g.Least() + int(seed%50); left > 0 && !m.Done(); left-- {
			var ids []int32
			bits := m.Mask(left)
			for id := range int32(v.size) {
				if bits[id>>6]>>(id&63)&1 != 0 {
					ids = append(ids, id)
				}
			}
			if len(ids) == 0 {
				t.Fatalf("%s: nothing may follow %q with %d left", source, out, left)
			}
			id := ids[rng.IntN(len(ids))]
			if !m.Accept(id) {
				t.Fatalf("%s: %d behind %q is in the mask and not accepted", source, id, out)
			}
			if v.bytes[id] == nil {
				break
			}
			out = append(out, v.bytes[id]...)
		}
		value, err := parseValue(out)
		if err != nil || !m.Complete() || !s.holds(value) {
			t.Fatalf("%s: wrote %s: %v", source, out, err)
		}
	})
}
