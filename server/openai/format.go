package openai

import (
	"bytes"
	"encoding/json"

	"github.com/pimoe/pimoe/server/strictjson"
)

// Format is the form that an answer has by response_format.
type Format struct {
	Kind   FormatKind
	Schema json.RawMessage // of JSONSchema; nil = any object
	Text   string          // of Regex and Grammar
	Path   string          // the field that holds Schema or Text, for errors
}

// FormatKind is a type of response_format.
type FormatKind string

// The kinds beside text, which asks for no form. The last two are extensions.
const (
	JSONObject FormatKind = "json_object"
	JSONSchema FormatKind = "json_schema"
	Regex      FormatKind = "regex"
	Grammar    FormatKind = "grammar"
)

const formatKinds = "text, json_object, json_schema, regex or grammar"

// responseFormat reads {"type": ...}: json_schema with {"json_schema": {name, schema, strict, description}}, regex with
// {"regex": text} and grammar with {"grammar": text}. The answer is always held to the form, whatever strict says.
func responseFormat(r *Request, v strictjson.Value) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	byName := map[string]strictjson.Member{}
	for _, m := range members {
		byName[m.Name] = m
	}
	if !byName["type"].Exists() {
		return strictjson.Missing(v.Path()+".type", formatKinds)
	}
	kind, err := byName["type"].Text()
	if err != nil {
		return err
	}
	f := &Format{Kind: FormatKind(kind)}
	own := "" // the field that the kind has
	switch f.Kind {
	case "text", JSONObject:
	case JSONSchema, Regex, Grammar:
		own = kind
	default:
		return byName["type"].Errorf(formatKinds)
	}
	for _, m := range members {
		if m.Name != "type" && m.Name != own && !m.Null() {
			return m.Unknown()
		}
	}
	f.Path = v.Path()
	if own != "" {
		m, ok := byName[own]
		if !ok || m.Null() {
			return strictjson.Missing(v.Path()+"."+own, "what the answer has to match")
		}
		f.Path = m.Path()
		if f.Kind == JSONSchema {
			err = f.readSchema(m.Value)
		} else if f.Text, err = m.Text(); err == nil && f.Text == "" {
			err = m.Errorf("a text that is not empty")
		}
	}
	if f.Kind != "text" {
		r.Format = f
	}
	return err
}

func (f *Format) readSchema(v strictjson.Value) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	named := false
	for _, m := range members {
		named = named || m.Name == "name" && !m.Null()
		if err := f.readMember(m); err != nil {
			return err
		}
	}
	if !named {
		return strictjson.Missing(v.Path()+".name", "a name of the schema")
	}
	return nil
}

// readMember takes one member of what describes a schema.
func (f *Format) readMember(m strictjson.Member) (err error) {
	if m.Null() {
		return nil
	}
	switch m.Name {
	case "name", "description":
		_, err = m.Text()
	case "strict":
		_, err = m.Bool()
	case "schema":
		if !m.IsObject() && m.Raw()[0] != 't' && m.Raw()[0] != 'f' {
			return m.Errorf("a schema: an object or a boolean")
		}
		f.Schema, f.Path = bytes.Clone(m.Raw()), m.Path()
	default:
		err = m.Unknown()
	}
	return err
}
