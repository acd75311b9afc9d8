package openai

import (
	"bytes"
	"strings"

	"github.com/pimoe/pimoe/server/strictjson"
)

// turn is one message of a conversation, as a chat template gets it.
type turn struct {
	role, content string
	calls         [][]byte // of an assistant, each as a template expects it
	call          string   // the id of the call that a tool answers
}

// input reads a text, or a list of messages, calls of tools and their outputs.
func input(r *ResponseRequest, v strictjson.Value) error {
	if v.IsString() {
		s, err := v.Text()
		r.turns = []turn{{role: "user", content: s}}
		return err
	}
	list, err := v.Array()
	if err != nil {
		return v.Errorf("a string or an array of items")
	}
	if len(list) == 0 {
		return v.Errorf("at least one item")
	}
	for _, e := range list {
		if err := item(r, e); err != nil {
			return err
		}
	}
	return nil
}

// item reads one item of an input by its type, which a message need not have.
func item(r *ResponseRequest, v strictjson.Value) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	byName := map[string]strictjson.Value{}
	for _, m := range members {
		if !m.Null() {
			byName[m.Name] = m.Value
		}
	}
	kind := "message"
	if t := byName["type"]; t.Exists() {
		if kind, err = t.Text(); err != nil {
			return err
		}
	}
	fields, ok := itemFields[kind]
	if !ok {
		return byName["type"].Unsupported("message, function_call or function_call_output")
	}
	for _, m := range members {
		if !strings.Contains(fields, " "+m.Name+" ") {
			return m.Unknown()
		}
	}
	switch kind {
	case "function_call":
		return callItem(r, v, byName)
	case "function_call_output":
		return outputItem(r, v, byName)
	}
	return messageItem(r, v, byName)
}

// itemFields are the fields of each type of item. id and status come back with the items of an earlier answer; nothing is
// kept that they could name.
var itemFields = map[string]string{
	"message":              " type role content id status phase ",
	"function_call":        " type call_id name arguments id status namespace caller ",
	"function_call_output": " type call_id output id status caller ",
}

func messageItem(r *ResponseRequest, v strictjson.Value, byName map[string]strictjson.Value) error {
	role, err := readRole(v, byName["role"])
	if err != nil {
		return err
	}
	if role == "tool" || role == "function" {
		return byName["role"].Errorf("system, developer, user or assistant; a tool's output is an item of type function_call_output")
	}
	content := byName["content"]
	if !content.Exists() {
		return strictjson.Missing(v.Path()+".content", "the text of the message")
	}
	s, err := itemText(content)
	r.turns = append(r.turns, turn{role: strings.Replace(role, "developer", "system", 1), content: s})
	return err
}

// itemText reads a text, or parts of type input_text, output_text, text or refusal.
func itemText(v strictjson.Value) (string, error) {
	if v.IsString() {
		return v.Text()
	}
	parts, err := v.Array()
	if err != nil || len(parts) == 0 {
		return "", v.Errorf("a string or an array of text parts")
	}
	texts := make([]string, len(parts))
	for i, p := range parts {
		if texts[i], err = itemPart(p); err != nil {
			return "", err
		}
	}
	return strings.Join(texts, "\n"), nil
}

func itemPart(v strictjson.Value) (string, error) {
	members, err := v.Object()
	if err != nil {
		return "", err
	}
	kind, found, texts := "", false, map[string]string{}
	var unknown error
	for _, m := range members {
		switch m.Name {
		case "type":
			if kind, err = m.Text(); err == nil && kind != "input_text" && kind != "output_text" && kind != "text" && kind != "refusal" {
				err = m.Unsupported("input_text, output_text or refusal: this model reads nothing else")
			}
		case "text", "refusal":
			texts[m.Name], err = m.Text()
		case "annotations", "logprobs": // of an answer that comes back
			if !m.Null() {
				_, err = m.Array()
			}
		case "prompt_cache_breakpoint": // a hint about caching, honoured by reuse of any whole page
		default: // judged after the type, which may be what is really wrong
			unknown = m.Unknown()
		}
		if err != nil {
			return "", err
		}
	}
	name := "text"
	if kind == "refusal" {
		name = kind
	}
	s, found := texts[name]
	switch {
	case kind == "":
		return "", strictjson.Missing(v.Path()+".type", "input_text")
	case unknown != nil:
		return "", unknown
	case !found:
		return "", strictjson.Missing(v.Path()+"."+name, "a string")
	}
	return s, nil
}

// callItem adds a call to the assistant's turn that it belongs to.
func callItem(r *ResponseRequest, v strictjson.Value, byName map[string]strictjson.Value) error {
	var texts [3]string
	for i, name := range []string{"call_id", "name", "arguments"} {
		f := byName[name]
		if !f.Exists() {
			return strictjson.Missing(v.Path()+"."+name, "a string")
		}
		s, err := f.Text()
		if err != nil {
			return err
		}
		texts[i] = s
	}
	arguments, err := strictjson.Parse([]byte(texts[2]))
	if err != nil || !arguments.IsObject() {
		return byName["arguments"].Errorf("a text that is one JSON object")
	}
	var call, function bytes.Buffer
	w := objectWriter{out: &function}
	w.text("name", texts[1])
	w.raw("arguments", arguments.Raw())
	w.close()
	w = objectWriter{out: &call}
	w.text("id", texts[0])
	w.text("type", "function")
	w.raw("function", function.Bytes())
	w.close()
	if n := len(r.turns); n == 0 || r.turns[n-1].role != "assistant" {
		r.turns = append(r.turns, turn{role: "assistant"})
	}
	last := &r.turns[len(r.turns)-1]
	last.calls = append(last.calls, call.Bytes())
	return nil
}

func outputItem(r *ResponseRequest, v strictjson.Value, byName map[string]strictjson.Value) error {
	id, output := byName["call_id"], byName["output"]
	switch {
	case !id.Exists():
		return strictjson.Missing(v.Path()+".call_id", "the id of the call that this answers")
	case !output.Exists():
		return strictjson.Missing(v.Path()+".output", "what the tool has answered")
	}
	call, err := id.Text()
	if err != nil {
		return err
	}
	s, err := itemText(output)
	r.turns = append(r.turns, turn{role: "tool", content: s, call: call})
	return err
}

// conversation writes turns as chat templates expect messages.
func conversation(instructions string, turns []turn) []byte {
	if instructions != "" {
		turns = append([]turn{{role: "system", content: instructions}}, turns...)
	}
	var out bytes.Buffer
	out.WriteByte('[')
	for i, t := range turns {
		if i > 0 {
			out.WriteByte(',')
		}
		w := objectWriter{out: &out}
		w.text("role", t.role)
		w.text("content", t.content)
		if len(t.calls) > 0 {
			w.raw("tool_calls", append(append([]byte{'['}, bytes.Join(t.calls, []byte{','})...), ']'))
		}
		if t.call != "" {
			w.text("tool_call_id", t.call)
		}
		w.close()
	}
	out.WriteByte(']')
	return out.Bytes()
}
