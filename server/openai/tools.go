package openai

import (
	"bytes"
	"encoding/json"
	"regexp"

	"github.com/pimoe/pimoe/server/strictjson"
)

// Tool is a function that the model may call.
type Tool struct {
	Name       string
	Parameters json.RawMessage // JSON Schema of the arguments; nil = any object
	Path       string          // the field that holds Parameters, for errors
}

// ToolMode is how free the model is to call tools.
type ToolMode string

// The modes of tool_choice.
const (
	ToolsNone     ToolMode = "none"
	ToolsAuto     ToolMode = "auto"
	ToolsRequired ToolMode = "required"
	ToolNamed     ToolMode = "named" // ToolChoice.Name alone
)

// ToolChoice is tool_choice; its zero value is that it was not given.
type ToolChoice struct {
	Mode ToolMode
	Name string
}

// Call is a call of a tool, or a piece of one in a stream: the first piece has ID and Name.
type Call struct {
	Index     int
	ID, Name  string
	Arguments string
}

// maxTools is OpenAI's limit.
const maxTools = 128

var toolName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// tools reads [{"type":"function","function":{name,description,parameters,strict}}]. Arguments are held to their schema
// wherever a call is enforced, whatever strict says.
func tools(r *Request, v strictjson.Value) error {
	list, err := v.Array()
	if err != nil {
		return err
	}
	if len(list) > maxTools {
		return v.Errorf("at most %d tools", maxTools)
	}
	seen := map[string]bool{}
	for _, e := range list {
		t, err := tool(e)
		if err != nil {
			return err
		}
		if seen[t.Name] {
			return e.Errorf("names that differ")
		}
		seen[t.Name] = true
		r.Tools = append(r.Tools, t)
	}
	if len(list) > 0 {
		r.ToolsJSON = bytes.Clone(v.Raw())
	}
	return nil
}

func tool(v strictjson.Value) (Tool, error) {
	members, err := v.Object()
	if err != nil {
		return Tool{}, err
	}
	var t Tool
	kind := false
	for _, m := range members {
		switch m.Name {
		case "type":
			kind = true
			err = neutral(`"function"`)(nil, m.Value)
		case "function":
			t, err = toolFunction(m.Value)
		default:
			err = m.Unknown()
		}
		if err != nil {
			return t, err
		}
	}
	switch {
	case !kind:
		return t, strictjson.Missing(v.Path()+".type", "function")
	case t.Name == "":
		return t, strictjson.Missing(v.Path()+".function", "a function with a name")
	}
	return t, nil
}

func toolFunction(v strictjson.Value) (t Tool, err error) {
	members, err := v.Object()
	if err != nil {
		return t, err
	}
	t.Path = v.Path()
	for _, m := range members {
		if err := t.read(m); err != nil {
			return t, err
		}
	}
	return t, nil
}

// read takes one member of a function.
func (t *Tool) read(m strictjson.Member) (err error) {
	if m.Null() {
		return nil
	}
	switch m.Name {
	case "name":
		if t.Name, err = m.Text(); err == nil && !toolName.MatchString(t.Name) {
			err = m.Errorf("1 to 64 letters, digits, _ and -")
		}
	case "description":
		_, err = m.Text()
	case "strict":
		_, err = m.Bool()
	case "parameters":
		if !m.IsObject() {
			return m.Errorf("a JSON Schema of an object")
		}
		t.Parameters, t.Path = bytes.Clone(m.Raw()), m.Path()
	default:
		err = m.Unknown()
	}
	return err
}

// toolChoice reads none, auto, required or {"type":"function","function":{"name":...}}.
func toolChoice(r *Request, v strictjson.Value) error {
	const expected = "none, auto, required or a function by name"
	if v.IsString() {
		s, err := v.Text()
		if err != nil {
			return err
		}
		switch r.ToolChoice.Mode = ToolMode(s); r.ToolChoice.Mode {
		case ToolsNone, ToolsAuto, ToolsRequired:
			return nil
		}
		return v.Errorf(expected)
	}
	members, err := v.Object()
	if err != nil {
		return v.Errorf(expected)
	}
	for _, m := range members {
		switch m.Name {
		case "type":
			err = neutral(`"function"`)(nil, m.Value)
		case "function":
			err = r.ToolChoice.readName(m.Value)
		default:
			err = m.Unknown()
		}
		if err != nil {
			return err
		}
	}
	if r.ToolChoice.Name == "" {
		return strictjson.Missing(v.Path()+".function.name", "the name of a tool")
	}
	r.ToolChoice.Mode = ToolNamed
	return nil
}

func (c *ToolChoice) readName(v strictjson.Value) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Name != "name" {
			return m.Unknown()
		}
		if c.Name, err = m.Text(); err != nil {
			return err
		}
	}
	return nil
}

// checkTools holds tool_choice to the tools that there are, and fills in its default.
func (r *Request) checkTools() error {
	c := &r.ToolChoice
	if c.Mode == "" {
		c.Mode = ToolsAuto
	}
	if len(r.Tools) == 0 {
		if c.Mode == ToolsRequired || c.Mode == ToolNamed {
			return &strictjson.Error{Path: "tool_choice", Expected: "none or auto without tools", Got: string(c.Mode)}
		}
		c.Mode = ToolsNone
		return nil
	}
	if c.Mode == ToolNamed {
		for _, t := range r.Tools {
			if t.Name == c.Name {
				return nil
			}
		}
		return &strictjson.Error{Path: "tool_choice.function.name", Expected: "the name of one of the tools", Got: "another"}
	}
	return nil
}
