package grammar_test

import (
	"math/rand/v2"
	"testing"

	"github.com/pimoe/pimoe/core/grammar"
)

func TestTryout(t *testing.T) {
	v, err := tiny()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		`{"type":"object"}`, `{}`, `{"type":"integer","minimum":3,"maximum":1200}`,
		`{"type":"object","properties":{"name":{"type":"string","maxLength":10},"age":{"type":"integer"},"tags":{"type":"array","items":{"enum":["a","b","c"]},"uniqueItems":true,"minItems":2}},"required":["name","tags"]}`,
		`{"type":"array","uniqueItems":true,"minItems":3,"items":{"type":"string","maxLength":2}}`,
		`{"type":"array","contains":{"type":"string"},"maxContains":1,"maxItems":4}`,
		`{"oneOf":[{"type":"integer","multipleOf":3},{"type":"integer","multipleOf":5}]}`,
		`{"type":"number","multipleOf":0.1,"maximum":3}`,
		`{"type":"number","exclusiveMinimum":0.5,"maximum":0.75}`,
		`{"type":"string","pattern":"^[a-f]+\\d{2,3}$"}`,
		`{"type":"object","minProperties":3,"patternProperties":{"^x":{"type":"integer"}},"additionalProperties":{"type":"boolean"}}`,
		`{"not":{"type":["string","number","object"]}}`,
		`{"$defs":{"n":{"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"null"}]}},"required":["v","next"],"additionalProperties":false}},"$ref":"#/$defs/n"}`,
		`{"type":"array","uniqueItems":true,"minItems":2,"items":{"type":"object","properties":{"a":{"type":"boolean"}},"required":["a"]}}`,
	} {
		g, err := grammar.Schema([]byte(s), v)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		for seed := range uint64(5) {
			t.Logf("%d %.60s: %.100s", g.Least(), s, walk(t, g, max(80, g.Least()), rand.New(rand.NewPCG(seed, 1))))
		}
	}
}
