package strictjson

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestParseRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		doc       string
		malformed bool
		path, got string
	}{
		"empty":            {"", true, "", "an empty body"},
		"spaces":           {" \n ", true, "", "an empty body"},
		"syntax":           {`{"a":}`, true, "", "a syntax error at byte 6"},
		"nan":              {`{"a":NaN}`, true, "", "a syntax error at byte 6"},
		"trailing":         {`{"a":1} {"b":2}`, true, "", "a syntax error at byte 9"},
		"trailing comma":   {`[1,]`, true, "", "a syntax error at byte 4"},
		"broken utf-8":     {"{\"a\":\"\xff\"}", true, "", "broken bytes"},
		"truncated":        {`{"a":[1,2`, true, "", "a syntax error at byte 9"},
		"duplicate":        {`{"a":1,"b":2,"a":3}`, false, "a", "a duplicate"},
		"escaped twin":     {`{"a":1,"\u0061":3}`, false, "a", "a duplicate"},
		"nested duplicate": {`{"x":[{"y":{"k":1,"k":2}}]}`, false, "x[0].y.k", "a duplicate"},
		"deep":             {strings.Repeat("[", 80) + strings.Repeat("]", 80), false, strings.Repeat("[0]", 65), "more"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.doc))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("Parse(%q) = %v, want an Error", c.doc, err)
			}
			if e.Malformed != c.malformed || e.Path != c.path || e.Got != c.got {
				t.Errorf("Parse(%q): malformed %v path %q got %q; want %v %q %q", c.doc, e.Malformed, e.Path, e.Got, c.malformed, c.path, c.got)
			}
		})
	}
}

// Keys that differ in case are different fields; encoding/json would merge them.
func TestObjectKeepsCaseAndOrder(t *testing.T) {
	v, err := Parse([]byte("  { \"b\" : [1 , {\"x\":\"}]\\\"\"}] ,\n\"B\":null, \"a\" : -1.5e3 } \n"))
	if err != nil {
		t.Fatal(err)
	}
	members, err := v.Object()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range members {
		got = append(got, m.Name+"="+string(m.Raw()))
	}
	want := []string{`b=[1 , {"x":"}]\""}]`, `B=null`, `a=-1.5e3`}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	items, err := members[0].Array()
	if err != nil || len(items) != 2 || items[1].Path() != "b[1]" {
		t.Errorf("array: %v %v", items, err)
	}
}

func TestNumbers(t *testing.T) {
	for doc, want := range map[string]string{
		"1e999": "error", "3.5": "error", "2.0": "2", "1e2": "100", "-4": "-4", "9223372036854775807": "9223372036854775807",
		"9223372036854775808": "error", `"7"`: "error", "true": "error", "null": "error", "9.3e18": "error",
	} {
		v, err := Parse([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		n, err := v.Int(math.MinInt64, math.MaxInt64)
		got := "error"
		if err == nil {
			b, _ := json.Marshal(n)
			got = string(b)
		}
		if got != want {
			t.Errorf("Int(%s) = %s, want %s", doc, got, want)
		}
	}
	v, _ := Parse([]byte("1e999"))
	if f, err := v.Float(0, math.Inf(1)); err == nil {
		t.Errorf("Float(1e999) = %v, want an error", f)
	}
	v, _ = Parse([]byte("2.5"))
	if _, err := v.Float(0, 2); err == nil || err.Error() != "expected a number from 0 to 2, got 2.5" {
		t.Errorf("Float(2.5) out of [0,2]: %v", err)
	}
}

func TestTensor(t *testing.T) {
	read := func(doc string, most int) ([]float32, [3]int, error) {
		v, err := Parse([]byte(`{"t":` + doc + `}`))
		if err != nil {
			t.Fatal(err)
		}
		m, _ := v.Object()
		return m[0].Tensor(most)
	}
	data, shape, err := read("[ [[1,2], [3 ,4.5]] , [[-0.5,1e-3],[0,6]] ]", 8)
	if err != nil || shape != [3]int{2, 2, 2} {
		t.Fatal(shape, err)
	}
	if d := cmp.Diff([]float32{1, 2, 3, 4.5, -.5, 1e-3, 0, 6}, data); d != "" {
		t.Error(d)
	}
	for doc, want := range map[string]string{
		"[[[1,2],[3]]]":           "t[0][1]: expected 2 elements as in its neighbours, got 1",
		"[[[1,2]],[[1,2],[1,2]]]": "t[1]: expected 1 elements as in its neighbours, got 2",
		"[[[1,1e39]]]":            "t[0][0][1]: expected a number that float32 can hold, got 1e39",
		"[[[1,null]]]":            "t[0][0][1]: expected a number, got null",
		"[[1,2]]":                 "t[0][0]: expected an array, got 1",
		"[[[[1]]]]":               "t[0][0][0]: expected a number, got an array",
		"[[[]]]":                  "t[0][0]: expected at least one element, got an empty array",
		"[]":                      "t: expected at least one element, got an empty array",
		"[[[1,2,3,4,5,6,7,8,9]]]": "t: expected at most 8 numbers, got more",
		"7":                       "t: expected an array [batch][sequence][hidden] of numbers, got 7",
	} {
		if _, _, err := read(doc, 8); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", doc, err, want)
		}
	}
}

// Whatever encoding/json accepts without duplicates is walked to its end, and no input makes the walker panic.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,{"b":"c\\\""}],"d":null}`, `[[[1,2],[3]]]`, `"x"`, ` 1e5 `, `{"a":1,"a":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Parse(b)
		if err != nil {
			return
		}
		var direct any
		if err := json.Unmarshal(v.Raw(), &direct); err != nil {
			t.Fatalf("accepted %q, which encoding/json refuses: %v", b, err)
		}
		if v.IsObject() {
			members, err := v.Object()
			if err != nil || len(members) != len(direct.(map[string]any)) {
				t.Fatalf("%q: %d members, %v", b, len(members), err)
			}
		}
		_, _, _ = v.Tensor(100)
	})
}

// The walker takes and refuses what encoding/json does, but for depth and duplicates.
func FuzzGrammar(f *testing.F) {
	for _, doc := range []string{``, ` {} `, `[]`, `[1,]`, `[,1]`, `[1 2]`, `{"a":1,}`, `{"a" : [1, -2.5e+3, "x\u00e9\n", true, false, null]}`, `{"a"}`, `{1:2}`, `tru`, `nul`, `"`, `"\x"`, `"\u12g4"`, "\"\n\"",
		`01`, `-`, `1.`, `1e`, `[1]]`, `{"a":1}}`, `{"a":[}`, `"abc`, `[`, `{`, `{"a":`, `{"a":1`, `[[`, `1 2`, `-0`, `[1,2`, `{"a":{"b":[]},"c":{}}`, `{,}`, "\x00"} {
		f.Add(doc)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		_, err := Parse([]byte(doc))
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("Parse(%q): %v is no Error", doc, err)
		}
		if taken := e == nil || !e.Malformed; utf8.ValidString(doc) && taken != json.Valid([]byte(doc)) {
			t.Fatalf("Parse(%q) = %v, json.Valid says otherwise", doc, err)
		}
	})
}

func TestFloats(t *testing.T) {
	for doc, want := range map[string]string{
		`[1,2.5,-3]`: "", `[[1,2.5],[-3]]`: "", `[[[1]],[[2.5,-3]]]`: "", `[1,2]`: "v: expected 3 numbers for this shape, got 2", `[1,2,3,4]`: "v: expected 3 numbers for this shape, got more",
		`[1,"2",3]`: `v[1]: expected a number, got "2"`, `[1,2,1e39]`: "v[2]: expected a number that float32 can hold, got 1e39", `7`: "v: expected an array of 3 numbers, got 7", `[1,null,3]`: "v[1]: expected a number, got null", `[{"a":1},2,3]`: "v[0]: expected a number, got an object",
	} {
		v, err := Parse([]byte(`{"v":` + doc + `}`))
		if err != nil {
			t.Fatal(err)
		}
		members, err := v.Object()
		if err != nil {
			t.Fatal(err)
		}
		got, err := members[0].Floats(3)
		if want == "" {
			if err != nil || len(got) != 3 || got[0] != 1 || got[1] != 2.5 || got[2] != -3 {
				t.Errorf("%s: %v %v", doc, got, err)
			}
		} else if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", doc, err, want)
		}
	}
}

// Escapes of half a character are refused; whole pairs, and what only looks like an escape, are not.
func TestSurrogates(t *testing.T) {
	for text, fine := range map[string]bool{
		`"\ud83d\ude00"`: true, `"\uD83D\uDE00x"`: true, `"\\ud83d"`: true, `"a\n\u0041\""`: true, `["\ud83d\ude00","\ud7ff\ue000"]`: true,
		`"\ud83d"`: false, `"\ude00"`: false, `"\ude00\ud83d"`: false, `"\ud83dx"`: false, `"\ud83d\n"`: false, `"\ud83d\u0041"`: false, `{"\ud83d":1}`: false, `"\ud83d\\ude00"`: false, `"\ud83d\ud83d\ude00"`: false,
	} {
		if _, err := Parse([]byte(text)); (err == nil) != fine {
			t.Errorf("%s: %v", text, err)
		}
	}
}
