package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/pimoe/pimoe/core/grammar"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/server/openai"
)

// family is how a model writes calls of tools, which its chat template tells.
type family struct {
	name        string
	open, close string // around each call; empty = the answer begins with the calls
	between     string
	arguments   string // the member beside name
	list        bool   // the calls are one JSON list
	idLength    int    // of a call's id behind call_; 0 = nine letters and digits alone, which some templates ask for
}

// The families. Hermes is also what templates that know no tools are given.
var (
	hermes  = family{name: "hermes", open: "<tool_call>\n", close: "\n</tool_call>", between: "\n", arguments: "arguments", idLength: 24}
	llama   = family{name: "llama", between: "; ", arguments: "parameters", idLength: 24}
	mistral = family{name: "mistral", between: ", ", arguments: "arguments", list: true}
)

// familyOf reads a template's markers. knows is false for a template without tools.
func familyOf(t *tokenizer.Template) (f family, knows bool) {
	switch {
	case t.Mentions("[TOOL_CALLS]"):
		return mistral, true
	case t.Mentions("<tool_call>"):
		return hermes, true
	case t.Mentions("<|python_tag|>") || t.Mentions(`"parameters": `):
		return llama, true
	}
	return hermes, t.Mentions("tools")
}

// maxCalls bounds the calls of one enforced answer.
const maxCalls = 16

// form is the form of an answer that calls tools. named, if not empty, is the only one.
func (f family) form(tools []openai.Tool, named string, one bool) grammar.Form {
	var calls []grammar.Form
	for _, t := range tools {
		if named != "" && t.Name != named {
			continue
		}
		head := fmt.Sprintf(`{"name": %q, %q: `, t.Name, f.arguments)
		calls = append(calls, grammar.Sequence(grammar.Literal(f.open+head), grammar.JSON(argumentSchema(t.Parameters)), grammar.Literal("}"+f.close)))
	}
	most := maxCalls
	if one || named != "" {
		most = 1
	}
	many := grammar.Many(grammar.Choice(calls...), grammar.Literal(f.between), most)
	if f.list {
		return grammar.Sequence(grammar.Literal("["), many, grammar.Literal("]"))
	}
	return many
}

// argumentSchema is the schema of a tool's arguments, which are an object even where it does not say so.
func argumentSchema(s json.RawMessage) []byte {
	var members map[string]json.RawMessage
	if json.Unmarshal(s, &members) != nil || len(members) == 0 {
		return []byte(`{"type":"object"}`)
	}
	if _, ok := members["type"]; ok {
		return s
	}
	return append([]byte(`{"type":"object",`), bytes.TrimSpace(s)[1:]...)
}

// newID makes the id of a call.
func (f family) newID() string {
	id := strings.ReplaceAll(uuid.NewString(), "-", "")
	if f.idLength == 0 {
		return id[:9]
	}
	return "call_" + id[:f.idLength]
}

// callParser finds calls of tools in an answer that comes in pieces. What is no call is text.
type callParser struct {
	family
	names map[string]bool
	buf   string
	state parserState
	calls int

	depth           int // of the arguments
	inside, escaped bool
}

type parserState uint8

const (
	atStart   parserState = iota // of the whole answer
	inText                       // calls may come
	inHead                       // of a call: up to the arguments
	inArgs                       // of a call
	behindArg                    // up to the end of the call
	plainText                    // no call comes any more
)

func newCallParser(f family, tools []openai.Tool) *callParser {
	p := &callParser{family: f, names: map[string]bool{}}
	for _, t := range tools {
		p.names[t.Name] = true
	}
	return p
}

// head is a call up to its arguments, in the order in which models write it.
var head = regexp.MustCompile(`^\s*\{\s*"name"\s*:\s*"([a-zA-Z0-9_-]{1,64})"\s*,\s*"(?:arguments|parameters)"\s*:\s*\{`)

// maxHead is where a head that does not match is given up: names have 64 characters at most.
const maxHead = 256

// push takes a piece and returns the text and the pieces of calls that are certain now.
func (p *callParser) push(piece string, end bool) (text string, calls []openai.Call) {
	p.buf += piece
	var out strings.Builder
	for p.step(end, &out, &calls) {
	}
	if end && p.state != inArgs && p.state != behindArg {
		out.WriteString(p.buf)
		p.buf = ""
	}
	return out.String(), calls
}

// step does what the state asks for and reports whether the next state has something to do.
func (p *callParser) step(end bool, out *strings.Builder, calls *[]openai.Call) bool {
	switch p.state {
	case atStart:
		return p.start()
	case inText:
		return p.find(end, out)
	case inHead:
		return p.head(end, out, calls)
	case inArgs:
		return p.args(calls)
	case behindArg:
		return p.behind()
	}
	out.WriteString(p.buf)
	p.buf = ""
	return false
}

// start tells whether an answer of a family without markers begins with calls.
func (p *callParser) start() bool {
	if p.open != "" {
		p.state = inText
		return true
	}
	rest := strings.TrimLeft(p.buf, " \t\r\n")
	const marker = "[TOOL_CALLS]"
	switch {
	case rest == "" || p.list && len(rest) < len(marker) && strings.HasPrefix(marker, rest):
		return false
	case p.list && strings.HasPrefix(rest, marker):
		p.buf = rest[len(marker):]
		return true
	case p.list && rest[0] == '[':
		p.buf, p.state = rest[1:], inHead
	case !p.list && rest[0] == '{':
		p.buf, p.state = rest, inHead
	default:
		p.state = plainText
	}
	return true
}

// find looks for the marker of a call and gives out the text before it.
func (p *callParser) find(end bool, out *strings.Builder) bool {
	marker := strings.TrimSpace(p.open)
	if before, rest, ok := strings.Cut(p.buf, marker); ok {
		if p.calls > 0 {
			before = strings.TrimSpace(before)
		}
		out.WriteString(strings.TrimRight(before, "\n"))
		p.buf, p.state = rest, inHead
		return true
	}
	keep := 0
	if !end { // what may become the marker, with the line ends before it
		for n := min(len(marker)-1, len(p.buf)); n > 0 && keep == 0; n-- {
			if strings.HasSuffix(p.buf, marker[:n]) {
				keep = n
			}
		}
		keep = len(p.buf) - len(strings.TrimRight(p.buf[:len(p.buf)-keep], "\n"))
	}
	out.WriteString(p.buf[:len(p.buf)-keep])
	p.buf = p.buf[len(p.buf)-keep:]
	return false
}

// head reads a call up to its arguments. What is no call of a known tool is text.
func (p *callParser) head(end bool, out *strings.Builder, calls *[]openai.Call) bool {
	m := head.FindStringSubmatchIndex(p.buf)
	if m == nil {
		if len(p.buf) < maxHead && !end {
			return false
		}
		return p.giveUp(out)
	}
	name := p.buf[m[2]:m[3]]
	if !p.names[name] {
		return p.giveUp(out)
	}
	*calls = append(*calls, openai.Call{Index: p.calls, ID: p.newID(), Name: name})
	p.calls++
	p.buf = p.buf[m[1]-1:]
	p.state, p.depth, p.inside, p.escaped = inArgs, 0, false, false
	return true
}

func (p *callParser) giveUp(out *strings.Builder) bool {
	switch {
	case p.calls > 0:
	case p.list:
		out.WriteString("[")
	default:
		out.WriteString(strings.TrimSpace(p.open))
	}
	p.state = plainText
	return true
}

// args gives out arguments up to their end.
func (p *callParser) args(calls *[]openai.Call) bool {
	n := 0
	for n < len(p.buf) && p.state == inArgs {
		c := p.buf[n]
		n++
		switch {
		case p.escaped:
			p.escaped = false
		case p.inside:
			p.escaped = c == '\\'
			p.inside = c != '"'
		case c == '"':
			p.inside = true
		case c == '{' || c == '[':
			p.depth++
		case c == '}' || c == ']':
			if p.depth--; p.depth == 0 {
				p.state = behindArg
			}
		}
	}
	if n > 0 {
		*calls = append(*calls, openai.Call{Index: p.calls - 1, Arguments: p.buf[:n]})
	}
	p.buf = p.buf[n:]
	return p.state == behindArg
}

// behind skips the end of a call.
func (p *callParser) behind() bool {
	if p.open != "" {
		if _, rest, ok := strings.Cut(p.buf, strings.TrimSpace(p.close)); ok {
			p.buf, p.state = rest, inText
			return true
		}
		return false
	}
	p.buf = strings.TrimLeft(p.buf, " \t\r\n},;]")
	if p.buf == "" {
		return false
	}
	p.state = plainText
	if p.buf[0] == '{' {
		p.state = inHead
	}
	return true
}

// withoutTools rewrites a conversation for a template that knows no tools: the system message describes them, calls and
// their answers are text.
func withoutTools(messages, tools json.RawMessage) (json.RawMessage, error) {
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(messages, &list); err != nil {
		return nil, fmt.Errorf("read the messages: %w", err)
	}
	content := func(m map[string]json.RawMessage) string {
		var s string
		if json.Unmarshal(m["content"], &s) != nil {
			return ""
		}
		return s
	}
	var out []map[string]string
	for _, m := range list {
		var role string
		if err := json.Unmarshal(m["role"], &role); err != nil {
			return nil, fmt.Errorf("read the messages: %w", err)
		}
		text := content(m)
		if role == "tool" {
			role, text = "user", "<tool_response>\n"+text+"\n</tool_response>"
		}
		var calls []struct {
			Function json.RawMessage `json:"function"`
		}
		if err := json.Unmarshal(m["tool_calls"], &calls); err == nil {
			for _, c := range calls {
				if text != "" {
					text += "\n"
				}
				text += hermes.open + string(c.Function) + hermes.close
			}
		}
		out = append(out, map[string]string{"role": role, "content": text})
	}
	if len(tools) > 0 {
		text := "You can call these functions, described by JSON Schema:\n<tools>\n" + string(tools) + "\n</tools>\n" +
			"To call one, write <tool_call>, then {\"name\": its name, \"arguments\": an object}, then </tool_call>."
		if len(out) > 0 && out[0]["role"] == "system" {
			out[0]["content"] += "\n\n" + text
		} else {
			out = append([]map[string]string{{"role": "system", "content": text}}, out...)
		}
	}
	return json.Marshal(out)
}
