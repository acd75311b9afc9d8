package server

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/core/grammar"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/server/openai"
)

// Calls are read from each family's texts, however these are cut into pieces; what is no call is text.
func TestCallParser(t *testing.T) {
	tools := []openai.Tool{{Name: "feed"}, {Name: "sleep"}}
	for name, c := range map[string]struct {
		family     family
		text, want string // want: the text, then name and arguments of each call
	}{
		"text":             {hermes, "Just <tool> text\n\n", "Just <tool> text\n\n"},
		"one":              {hermes, "<tool_call>\n{\"name\": \"feed\", \"arguments\": {\"a\": [1, \"}\\\"\"]}}\n</tool_call>", "|feed {\"a\": [1, \"}\\\"\"]}"},
		"text before":      {hermes, "I'll do it.\n<tool_call>{\"name\":\"feed\",\"arguments\":{}}</tool_call>", "I'll do it.|feed {}"},
		"two":              {hermes, "<tool_call>\n{\"name\": \"feed\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"sleep\", \"arguments\": {\"h\":1}}\n</tool_call>", "|feed {}|sleep {\"h\":1}"},
		"unknown function": {hermes, "<tool_call>{\"name\": \"fly\", \"arguments\": {}}</tool_call>", "<tool_call>{\"name\": \"fly\", \"arguments\": {}}</tool_call>"},
		"no call":          {hermes, "<tool_call>oh " + strings.Repeat("x", 300), "<tool_call>oh " + strings.Repeat("x", 300)},
		"cut short":        {hermes, "<tool_call>{\"name\": \"feed\", \"arguments\": {\"a\":", "|feed {\"a\":"},
		"cut head":         {hermes, "so <tool_call>{\"name\": \"fe", "so <tool_call>{\"name\": \"fe"},
		"llama":            {llama, "{\"name\": \"feed\", \"parameters\": {\"a\": 1}}; {\"name\": \"sleep\", \"parameters\": {}}", "|feed {\"a\": 1}|sleep {}"},
		"llama text":       {llama, "The {\"name\": \"feed\", \"parameters\": {}}", "The {\"name\": \"feed\", \"parameters\": {}}"},
		"llama json":       {llama, "{\"x\": 1}", "{\"x\": 1}"},
		"mistral":          {mistral, "[{\"name\": \"feed\", \"arguments\": {\"a\": 1}}, {\"name\": \"sleep\", \"arguments\": {}}]", "|feed {\"a\": 1}|sleep {}"},
		"mistral marker":   {mistral, "[TOOL_CALLS] [{\"name\": \"feed\", \"arguments\": {}}]", "|feed {}"},
		"mistral list":     {mistral, "[1, 2]", "[1, 2]"},
	} {
		for _, size := range []int{1, 2, 3, 7, len(c.text)} {
			p := newCallParser(c.family, tools)
			var text strings.Builder
			var calls []openai.Call
			for at := 0; at < len(c.text); at += size {
				end := min(at+size, len(c.text))
				s, more := p.push(c.text[at:end], end == len(c.text))
				text.WriteString(s)
				calls = joinCalls(calls, more)
			}
			got := text.String()
			for _, call := range calls {
				got += "|" + call.Name + " " + call.Arguments
				if call.ID == "" {
					t.Errorf("%s: a call has no id", name)
				}
			}
			if got != c.want {
				t.Errorf("%s in pieces of %d: %q, want %q", name, size, got, c.want)
			}
		}
	}
}

// The template tells the family, and one that knows no tools is told of them by the system message.
func TestToolFamilies(t *testing.T) {
	for source, want := range map[string]string{
		"{% for t in tools %}<tool_call>{% endfor %}": "hermes true", "[TOOL_CALLS]{{ tools }}": "mistral true",
		`<|python_tag|> {{ tools }}`: "llama true", "{{ tools }}": "hermes true", "{{ messages }}": "hermes false",
	} {
		p, err := tokenizer.ParseTemplate(source, nil)
		if err != nil {
			t.Fatal(err)
		}
		f, knows := familyOf(p)
		if got := f.name + map[bool]string{true: " true", false: " false"}[knows]; got != want {
			t.Errorf("%q: %s, want %s", source, got, want)
		}
	}
	messages := `[{"role":"system","content":"Be kind."},{"role":"assistant","content":"","tool_calls":[{"id":"1","type":"function","function":{"name":"feed","arguments":{"a":1}}}]},{"role":"tool","tool_call_id":"1","content":"fed"}]`
	got, err := withoutTools(json.RawMessage(messages), json.RawMessage(`[{"type":"function"}]`))
	if err != nil {
		t.Fatal(err)
	}
	var list []map[string]string
	if err := json.Unmarshal(got, &list); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(list[0]["content"], "Be kind.\n\n") || !strings.Contains(list[0]["content"], `[{"type":"function"}]`) {
		t.Errorf("system message: %q", list[0]["content"])
	}
	want := []map[string]string{
		{"role": "assistant", "content": "<tool_call>\n{\"name\":\"feed\",\"arguments\":{\"a\":1}}\n</tool_call>"},
		{"role": "user", "content": "<tool_response>\nfed\n</tool_response>"},
	}
	if d := cmp.Diff(want, list[1:]); d != "" {
		t.Error(d)
	}
}

// Each family's enforced calls are what its parser reads.
func TestEnforcedCalls(t *testing.T) {
	inst := openShared(t)
	svc := serviceOf(inst)
	v, err := svc.vocabulary()
	if err != nil {
		t.Fatal(err)
	}
	f := forms{vocabulary: func() (*grammar.Vocabulary, error) { return v, nil }}
	tools := []openai.Tool{{Name: "feed", Parameters: json.RawMessage(`{"properties":{"a":{"type":"integer"}},"required":["a"]}`)}, {Name: "sleep"}}
	for _, fam := range []family{hermes, llama, mistral} {
		g, err := f.get(fam.name, fam.form(tools, "", false))
		if err != nil {
			t.Fatal(err)
		}
		call := func(name, args string) string {
			return fam.open + `{"name": "` + name + `", "` + fam.arguments + `": ` + args + "}" + fam.close
		}
		wrap := func(s string) string {
			if fam.list {
				return "[" + s + "]"
			}
			return s
		}
		text := wrap(call("feed", `{"a":1}`) + fam.between + call("sleep", `{}`))
		if !g.Match(text) || g.Match(wrap(call("feed", `{}`))) || g.Match(wrap(call("fly", `{}`))) {
			t.Errorf("%s: the form does not take what it should: %q", fam.name, text)
		}
		p := newCallParser(fam, tools)
		if rest, calls := p.push(text, true); rest != "" || p.calls != 2 || len(calls) < 2 {
			t.Errorf("%s: %q and %v", fam.name, rest, calls)
		}
		one, err := f.get(fam.name+" one", fam.form(tools, "feed", false))
		if err != nil {
			t.Fatal(err)
		}
		if one.Match(text) || !one.Match(wrap(call("feed", `{"a":2}`))) {
			t.Errorf("%s: a named function is one call of it", fam.name)
		}
	}
}
