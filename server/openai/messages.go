package openai

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/pimoe/pimoe/server/strictjson"
)

// messages checks a conversation and rewrites it as chat templates expect it: contents are strings (text parts joined
// by newlines), the arguments of tool calls are objects, developer is system, and fields without content are gone. The
// order of fields is kept, since a template may print them.
func messages(r *Request, v strictjson.Value) error {
	list, err := v.Array()
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return v.Errorf("at least one message")
	}
	var out bytes.Buffer
	out.WriteByte('[')
	for i, e := range list {
		if i > 0 {
			out.WriteByte(',')
		}
		if err := message(&out, e); err != nil {
			return err
		}
	}
	out.WriteByte(']')
	r.Messages = out.Bytes()
	return nil
}

// A role's fields beside role, content and name.
var roleFields = map[string]string{
	"system": "", "developer": "", "user": "",
	"assistant": " refusal audio function_call tool_calls annotations ",
	"tool":      " tool_call_id ",
	"function":  "",
}

func message(out *bytes.Buffer, v strictjson.Value) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	byName := map[string]strictjson.Value{}
	for _, m := range members {
		byName[m.Name] = m.Value
	}
	role, err := readRole(v, byName["role"])
	if err != nil {
		return err
	}
	w := objectWriter{out: out}
	for _, m := range members {
		switch {
		case m.Name == "role":
			w.text("role", strings.Replace(role, "developer", "system", 1))
		case m.Name == "content":
			err = writeContent(&w, m.Value, role, byName)
		case m.Name == "name" || strings.Contains(roleFields[role], " "+m.Name+" "):
			err = writeExtra(&w, m)
		default:
			err = m.Unknown()
		}
		if err != nil {
			return err
		}
	}
	if !byName["content"].Exists() {
		if err := writeContent(&w, strictjson.Value{}, role, byName); err != nil {
			return strictjson.Missing(v.Path()+".content", "the text of the message")
		}
	}
	if role == "tool" && !byName["tool_call_id"].IsString() {
		return strictjson.Missing(v.Path()+".tool_call_id", "the id of the call that this answers")
	}
	w.close()
	return nil
}

func readRole(message, v strictjson.Value) (string, error) {
	if !v.Exists() {
		return "", strictjson.Missing(message.Path()+".role", "system, developer, user, assistant or tool")
	}
	role, err := v.Text()
	if err != nil {
		return "", err
	}
	if _, ok := roleFields[role]; !ok {
		return "", v.Errorf("system, developer, user, assistant or tool")
	}
	return role, nil
}

// writeContent takes a string or text parts; null only from an assistant that called tools or refused.
func writeContent(w *objectWriter, v strictjson.Value, role string, fields map[string]strictjson.Value) error {
	if v.Null() {
		if role == "assistant" && fields["refusal"].IsString() {
			s, err := fields["refusal"].Text()
			w.text("content", s)
			return err
		}
		if role == "assistant" && (!fields["tool_calls"].Null() || !fields["function_call"].Null()) {
			w.text("content", "")
			return nil
		}
		return v.Errorf("a string or an array of text parts")
	}
	s, err := contentText(v)
	if err == nil {
		w.text("content", s)
	}
	return err
}

func contentText(v strictjson.Value) (string, error) {
	if v.IsString() {
		return v.Text()
	}
	parts, err := v.Array()
	if err != nil {
		return "", v.Errorf("a string or an array of text parts")
	}
	if len(parts) == 0 {
		return "", v.Errorf("at least one text part")
	}
	texts := make([]string, len(parts))
	for i, p := range parts {
		if texts[i], err = partText(p); err != nil {
			return "", err
		}
	}
	return strings.Join(texts, "\n"), nil
}

// partText reads {"type":"text","text":...} or an assistant's {"type":"refusal","refusal":...}.
func partText(v strictjson.Value) (string, error) {
	members, err := v.Object()
	if err != nil {
		return "", err
	}
	var kind string
	var unknown error
	texts := map[string]string{}
	for _, m := range members {
		switch m.Name {
		case "type":
			if kind, err = m.Text(); err == nil && kind != "text" && kind != "refusal" {
				err = m.Unsupported("text: this model reads nothing else")
			}
		case "text", "refusal":
			texts[m.Name], err = m.Text()
		case "prompt_cache_breakpoint": // a hint about caching, honoured by reuse of any whole page
			if !m.Null() {
				_, err = m.Object()
			}
		default: // judged after the type, which may be what is really wrong
			unknown = m.Unknown()
		}
		if err != nil {
			return "", err
		}
	}
	s, ok := texts[kind]
	switch {
	case kind == "":
		return "", strictjson.Missing(v.Path()+".type", "text")
	case unknown != nil:
		return "", unknown
	case !ok:
		return "", strictjson.Missing(v.Path()+"."+kind, "a string")
	case len(texts) > 1:
		return "", v.Errorf("one of text and refusal")
	}
	return s, nil
}

// writeExtra copies a field beside role and content that a template may use.
func writeExtra(w *objectWriter, m strictjson.Member) error {
	if m.Null() {
		return nil
	}
	switch m.Name {
	case "name", "tool_call_id":
		s, err := m.Text()
		w.text(m.Name, s)
		return err
	case "refusal": // its text is the content
		_, err := m.Text()
		return err
	case "annotations":
		return neutral(`[]`)(nil, m.Value)
	case "tool_calls":
		return writeToolCalls(w, m.Value)
	case "function_call":
		f, err := function(m.Value)
		w.raw(m.Name, f)
		return err
	}
	return m.Unsupported("null: it has no other effect here")
}

func writeToolCalls(w *objectWriter, v strictjson.Value) error {
	list, err := v.Array()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for i, call := range list {
		if i > 0 {
			out.WriteByte(',')
		}
		if err := toolCall(&out, call); err != nil {
			return err
		}
	}
	if len(list) > 0 {
		w.raw("tool_calls", []byte("["+out.String()+"]"))
	}
	return nil
}

func toolCall(out *bytes.Buffer, v strictjson.Value) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	w := objectWriter{out: out}
	seen := false
	for _, m := range members {
		switch m.Name {
		case "id":
			var s string
			if s, err = m.Text(); err == nil {
				w.text("id", s)
			}
		case "type":
			if err = neutral(`"function"`)(nil, m.Value); err == nil {
				w.text("type", "function")
			}
		case "function":
			var f []byte
			f, err = function(m.Value)
			w.raw("function", f)
			seen = true
		default:
			err = m.Unknown()
		}
		if err != nil {
			return err
		}
	}
	if !seen {
		return strictjson.Missing(v.Path()+".function", "name and arguments")
	}
	w.close()
	return nil
}

// function rewrites {"name","arguments": "JSON text"} with the arguments as the object they describe.
func function(v strictjson.Value) ([]byte, error) {
	members, err := v.Object()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := objectWriter{out: &out}
	for _, m := range members {
		s, err := m.Text()
		if err != nil {
			return nil, err
		}
		switch m.Name {
		case "name":
			w.text("name", s)
		case "arguments":
			doc, err := strictjson.Parse([]byte(s))
			if err != nil || !doc.IsObject() {
				return nil, m.Errorf("a text that is one JSON object")
			}
			w.raw("arguments", doc.Raw())
		default:
			return nil, m.Unknown()
		}
	}
	w.close()
	return out.Bytes(), nil
}

// objectWriter writes an object's members in the order in which they are given.
type objectWriter struct {
	out *bytes.Buffer
	n   int
}

func (w *objectWriter) raw(name string, value []byte) {
	if w.n++; w.n == 1 {
		w.out.WriteByte('{')
	} else {
		w.out.WriteByte(',')
	}
	w.out.Write(marshal(name))
	w.out.WriteByte(':')
	w.out.Write(value)
}

func (w *objectWriter) text(name, value string) { w.raw(name, marshal(value)) }

func (w *objectWriter) close() {
	if w.n == 0 {
		w.out.WriteByte('{')
	}
	w.out.WriteByte('}')
}

// marshal encodes a value without escaping <, > and &, which templates would print as escapes.
func marshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("openai: value can't be encoded: " + err.Error()) // only own types come here
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}
