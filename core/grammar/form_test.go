package grammar_test

import (
	"errors"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/grammar"
	"github.com/pimoe/pimoe/sdk"
)

func compile(t testing.TB, f grammar.Form) *grammar.Grammar {
	t.Helper()
	v, err := tiny()
	if err != nil {
		t.Fatal(err)
	}
	g, err := grammar.Compile(f, v)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// schemas are schemas with texts that have their form and texts that do not, separated by spaces.
var schemas = []struct{ schema, takes, refuses string }{
	{`{"type":"integer","minimum":-5,"exclusiveMaximum":120}`, `-5 -1 0 7 99 119`, `-6 -0 00 120 1.0 1e1 "1"`},
	{`{"type":"integer","multipleOf":7}`, `0 7 -14 700`, `1 -15 7.0`},
	{`{"type":"number","minimum":0.5,"exclusiveMaximum":0.75}`, `0.5 0.7 0.749999`, `0.75 0.4999 1 0.50`},
	{`{"type":"number","multipleOf":0.1,"minimum":0,"maximum":1}`, `0 0.1 1`, `0.15 1.1`},
	{`{"type":"boolean"}`, `true false`, `null 0 "true"`},
	{`{"type":["null","string"],"maxLength":2}`, `null "" "ab" "\"\\" "\u0001" "é"`, `"abc" "\u0041" true`},
	{`{"type":"string","pattern":"^a+$","minLength":2}`, `"aa" "aaa"`, `"a" "ab" "baa"`},
	{`{"type":"string","pattern":"b"}`, `"b" "abc"`, `"" "a"`},
	{`{"type":"string","format":"date"}`, `"2026-11-29"`, `"2026-13-01" "x"`},
	{`{"enum":[1,"a",null,[1,{"b":2}]]}`, `1 "a" null [1,{"b":2}]`, `2 "b" [1]`},
	{`{"const":{"a":[]}}`, `{"a":[]}`, `{} {"a":[1]}`},
	{`{"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":3}`, `[1] [1,2,3]`, `[] [1,2,3,4] ["a"] [1,]`},
	{`{"prefixItems":[{"type":"null"},{"type":"boolean"}],"items":false,"type":"array"}`, `[] [null] [null,true]`, `[true] [null,true,1]`},
	{`{"type":"array","items":{"enum":[1,2,3]},"uniqueItems":true,"minItems":2}`, `[1,2] [3,1,2]`, `[1] [1,1] [1,2,3,1]`},
	{`{"type":"array","uniqueItems":true,"items":{"type":"string","maxLength":1}}`, `["a","b",""]`, `["a","a"] ["","b",""]`},
	{`{"type":"array","contains":{"const":1},"minContains":2,"maxContains":2,"items":{"type":"integer"}}`, `[1,1] [1,1,2]`, `[1] [1,1,1] []`},
	{`{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"null"}},"required":["b"]}`, `{"b":null} {"a":1,"b":null}`, `{} {"a":1} {"b":null,"b":null} {"b":1}`},
	{`{"type":"object","additionalProperties":{"type":"integer"},"minProperties":2,"maxProperties":2}`, `{"x":1,"y":2}`, `{"x":1} {"x":1,"x":2} {"x":1,"y":2,"z":3}`},
	{`{"type":"object","patternProperties":{"^n":{"type":"integer"}},"additionalProperties":false}`, `{} {"n":1} {"no":1,"na":2}`, `{"a":1} {"n":"x"}`},
	{`{"type":"object","propertyNames":{"maxLength":1}}`, `{} {"x":[]}`, `{"xy":1}`},
	{`{"type":"object","properties":{"a":{"const":1},"b":{"const":2}},"dependentRequired":{"a":["b"]}}`, `{} {"b":2} {"a":1,"b":2}`, `{"a":1}`},
	{`{"type":"object","properties":{"a":{"type":"null"},"b":{"type":"integer"}},"required":["z","b"],"maxProperties":2}`, `{"b":1,"z":[]}`, `{"a":null,"b":1,"z":1} {"a":null,"b":1}`},
	{`{"anyOf":[{"const":1},{"type":"boolean"}]}`, `1 true`, `2 null`},
	{`{"oneOf":[{"type":"integer","multipleOf":2},{"type":"integer","multipleOf":3}]}`, `2 3 4 9`, `0 6 5`},
	{`{"allOf":[{"type":"integer"},{"minimum":3},{"maximum":3}]}`, `3`, `2 4`},
	{`{"not":{"type":["array","object","string","null"]},"type":["integer","array"]}`, `1`, `[] "a"`},
	{`{"type":"integer","not":{"enum":[1,2]}}`, `0 3 12`, `1 2`},
	{`{"if":{"type":"integer"},"then":{"maximum":3},"else":{"const":"x"}}`, `1 "x"`, `4 "y" null`},
	{`{"$defs":{"n":{"type":"object","properties":{"next":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"null"}]}},"required":["next"],"additionalProperties":false}},"$ref":"#/$defs/n"}`,
		`{"next":null} {"next":{"next":{"next":null}}}`, `{} {"next":{}}`},
	{`{"$schema":"http://json-schema.org/draft-07/schema#","type":"array","items":[{"const":1}],"additionalItems":{"const":2}}`, `[] [1] [1,2,2]`, `[2] [1,1]`},
	{`true`, `1 "a" [[],{}] {"a":{"b":null}}`, `{]`},
}

// Texts have a form or not as JSON Schema says, in the one way of writing that is promised; what walks write has it.
func TestSchemas(t *testing.T) {
	for i, c := range schemas {
		g := compile(t, grammar.JSON([]byte(c.schema)))
		for _, text := range strings.Fields(c.takes) {
			if !g.Match(text) {
				t.Errorf("%s: %s is refused", c.schema, text)
			}
		}
		for _, text := range strings.Fields(c.refuses) {
			if g.Match(text) {
				t.Errorf("%s: %s is taken", c.schema, text)
			}
		}
		for seed := range uint64(6) {
			most := g.Least() + int(seed)*20
			if text := walk(t, g, most, rand.New(rand.NewPCG(seed, uint64(i)))); !g.Match(text) {
				t.Errorf("%s: a walk of %d tokens wrote %s", c.schema, most, text)
			}
		}
	}
	if g := compile(t, grammar.JSON([]byte(schemas[0].schema))); !g.Match("7") || g.Match("7 ") {
		t.Error("white space behind a value")
	}
	spaced := compile(t, grammar.JSON([]byte(`{"type":"array","items":{"type":"object","properties":{"a":{"type":"null"}},"required":["a"]}}`)))
	if !spaced.Match(`[{"a": null}, {"a":null}]`) || spaced.Match(`[{"a":  null}]`) || spaced.Match(`[ {"a":null}]`) {
		t.Error("white space: one space behind : and , is all")
	}
}

// Schemas that can't be held are refused by place.
func TestSchemaRefusals(t *testing.T) {
	v, err := tiny()
	if err != nil {
		t.Fatal(err)
	}
	for schema, want := range map[string]string{
		`{"type":"integer","minimum":2,"maximum":1}`:                  "no text has this form",
		`{"type":"object","properties":{"a":false},"required":["a"]}`: "no text has this form",
		`false`: "no text has this form",
		`{"$defs":{"a":{"type":"array","minItems":1,"items":{"$ref":"#/$defs/a"}}},"$ref":"#/$defs/a"}`: "no text has this form",
		`{"type":"array","minItems":3,"uniqueItems":true,"items":{"type":"boolean"}}`:                   "no text has this form",
		`{"properties":{"a":{"unevaluatedProperties":false}}}`:                                          "#/properties/a/unevaluatedProperties",
		`{"properties":{"a":{"type":"strin"}}}`:                                                         "#/properties/a/type",
		`{"$ref":"https://example.com/x"}`:                                                              "does not lead into this document",
		`{"$ref":"#/$defs/x"}`:                                                                          "leads nowhere",
		`{"pattern":"(?=a)"}`:                                                                           "#/pattern",
		`{"pattern":"\\ba"}`:                                                                            "#/pattern",
		`{"minLength":-1}`:                                                                              "#/minLength",
		`{"anyOf":[{"$ref":"#"},{"type":"null"}]}`:                                                      "refers to itself",
		`[]`:     "an object or a boolean",
		`{"a":1`: "not a JSON document",
		strings.Repeat(`{"not":`, 100) + `{}` + strings.Repeat(`}`, 100): "deep",
	} {
		_, err := grammar.Compile(grammar.JSON([]byte(schema)), v)
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, sdk.ErrInvalid) && !errors.Is(err, sdk.ErrUnsupported) {
			t.Errorf("%s: %v, want %q", schema, err, want)
		}
	}
}

// A mask is what trying every token gives, and with few tokens left those that can still end.
func TestMask(t *testing.T) {
	for i, c := range schemas {
		g := compile(t, grammar.JSON([]byte(c.schema)))
		rng := rand.New(rand.NewPCG(7, uint64(i)))
		text := walk(t, g, g.Least()+40, rng)
		m, rest := g.Matcher(), []byte(text)
		for step := 0; step < 12 && len(rest) > 0; step++ {
			left := 1 << 20
			bits := append([]uint64(nil), m.Mask(left)...)
			written := text[:len(text)-len(rest)]
			for id, b := range texts() {
				if len(b) == 0 || id == 0 || id == 2 || len(b) > 1 && rng.IntN(8) != 0 { // a sample will do
					continue
				}
				try := g.Matcher()
				follow(t, try, written)
				if want := try.Accept(int32(id)); want != (bits[id>>6]>>(id&63)&1 != 0) {
					t.Fatalf("%s: %q behind %q: %v by itself, not so in the mask", c.schema, b, written, want)
				}
			}
			n := min(1+rng.IntN(6), len(rest))
			follow(t, m, string(rest[:n]))
			rest = rest[n:]
		}
	}
}

// follow writes a text byte by byte.
func follow(t testing.TB, m *grammar.Matcher, text string) {
	t.Helper()
	for _, b := range []byte(text) {
		if !m.Accept(single(b)) {
			t.Fatalf("%q is not accepted", text)
		}
	}
}

func single(b byte) int32 {
	for id, w := range texts() {
		if len(w) == 1 && w[0] == b {
			return int32(id)
		}
	}
	return -1
}

// Golden: grammars as people have them, with texts.
func TestGBNF(t *testing.T) {
	for name, c := range map[string]struct{ source, takes, refuses string }{
		"arithmetic": {"root  ::= (expr \"=\" term \"\\n\")+\nexpr  ::= term ([-+*/] term)*\nterm  ::= num | \"(\" expr \")\"\nnum ::= [0-9]+ # digits\n",
			"1+2=3\n|(1*2)-4=7\n8=8\n", "1+=2\n|1=2"},
		"list":    {"root ::= item+\n\n# one a line\nitem ::= \"- \" [^\\r\\n]+ \"\\n\"", "- a\n|- a b\n- é\n", "-a\n|- \n"},
		"braces":  {`root ::= [a-c]{2} "x"{1,} "y"{,2} ("z" | "\x41\u00e9"){0,1}`, "abx|caxxyyz|aaxAé", "ax|abyy|abxyyy|abxzz"},
		"nested":  {"root ::= \"(\" root* \")\" |\n   \".\"", "()|(.())|.", "(|.."},
		"newline": {"root ::= (\n  \"a\" |\n  \"b\"\n)\n", "a|b", "c|ab"},
		"sets":    {`root ::= [\]a\-^]+ .`, "]a-^x|aé", "b|a"},
	} {
		g := compile(t, grammar.GBNF(c.source))
		for text := range strings.SplitSeq(c.takes, "|") {
			if !g.Match(text) {
				t.Errorf("%s: %q is refused", name, text)
			}
		}
		for text := range strings.SplitSeq(c.refuses, "|") {
			if g.Match(text) {
				t.Errorf("%s: %q is taken", name, text)
			}
		}
		for seed := range uint64(5) {
			if text := walk(t, g, g.Least()+int(seed)*9, rand.New(rand.NewPCG(seed, 3))); !g.Match(text) {
				t.Errorf("%s: a walk wrote %q", name, text)
			}
		}
	}
	v, err := tiny()
	if err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{
		"a ::= \"x\"": "no rule root", "root ::= b": "line 1: there is no rule b", "root ::= \"a": "line ends", "root ::= root \"a\" | \"b\"": "begin with itself",
		"root ::= a? root\na ::= \"a\"": "begin with itself", "a ::= \"\"\nroot ::= \"a\"\nroot ::= \"b\"": "line 3: the rule root is there twice", "root ::= [z-a]": "backwards",
		"root ::= (\"a\"": "expected )", "root ::= \"a\"{3,1}": "no repetition", "root ::= []": "empty", "root = x": "expected ::=", "root ::= \"a\" root": "no text has this form",
	} {
		if _, err := grammar.Compile(grammar.GBNF(source), v); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%q: %v, want %q", source, err, want)
		}
	}
}

// FuzzRegex: a text matches as Go's own engine says.
func FuzzRegex(f *testing.F) {
	for _, expr := range []string{`a+b?`, `(?i)fox|hen{2,3}`, `[^a-y]`, `^$`, `^a$|b`, `(a*)*c`, `\pL+é?`, `.`, `(?s).`, `x{0,3}$`, `\d+(\.\d{2})?`} {
		for _, text := range []string{"", "a", "ab", "FOX", "henn", "z", "é", "aac", "\n", "xx", "12.50", "世"} {
			f.Add(expr, text)
		}
	}
	f.Fuzz(func(t *testing.T, expr, text string) {
		if len(expr) > 60 || len(text) > 100 || strings.ToValidUTF8(text, "") != text {
			return
		}
		v, err := tiny()
		if err != nil {
			t.Fatal(err)
		}
		want, err := regexp.Compile(`\A(?:` + expr + `)\z`)
		g, ours := grammar.Compile(grammar.Regex(expr), v)
		if err != nil || ours != nil {
			return
		}
		if g.Match(text) != want.MatchString(text) {
			t.Errorf("%q on %q: %v, want %v", expr, text, !want.MatchString(text), want.MatchString(text))
		}
	})
}
