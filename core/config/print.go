package config

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// YAML is the configuration as a file that Load accepts, in the order of the struct. A secret that is set is left out
// and said to be.
func (c Config) YAML() ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(node(reflect.ValueOf(c))); err != nil {
		return nil, err
	}
	return out.Bytes(), enc.Close()
}

// node is a value as YAML with the fields in order.
func node(v reflect.Value) *yaml.Node {
	if d, ok := v.Interface().(time.Duration); ok {
		return &yaml.Node{Kind: yaml.ScalarNode, Value: d.String()}
	}
	switch v.Kind() {
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			val := node(v.Field(i))
			if f.Tag.Get("secret") == "true" {
				val = masked(v.Field(i))
			}
			n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: f.Tag.Get("koanf")}, val)
		}
		return n
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if v.Len() == 0 {
			n.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			n.Content = append(n.Content, node(v.Index(i)))
		}
		return n
	}
	n := &yaml.Node{}
	if v.Kind() == reflect.Map && v.IsNil() { // not set, which an empty one is not
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	}
	if err := n.Encode(v.Interface()); err != nil {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"} // words, numbers, lists and maps of them always encode
	}
	return n
}

func masked(v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle}
	if v.String() != "" {
		n.LineComment = "set, not shown"
	}
	return n
}

// Names are all keys, dotted, in the order of the struct.
func Names() []string {
	var out []string
	walk(reflect.TypeFor[Config](), "", func(key string, _ reflect.Type) { out = append(out, key) })
	return out
}

// walk visits every setting; the fields of a list's elements have [] in their key.
func walk(t reflect.Type, key string, f func(key string, t reflect.Type)) {
	for i := range t.NumField() {
		name, ft := join(key, t.Field(i).Tag.Get("koanf")), t.Field(i).Type
		if ft.Kind() == reflect.Struct {
			walk(ft, name, f)
			continue
		}
		f(name, ft)
		if ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct {
			walk(ft.Elem(), name+"[]", f)
		}
	}
}

// Keys describes every setting.
func Keys() []Key {
	def := tree(reflect.ValueOf(Default())).(map[string]any)
	var out []Key
	walk(reflect.TypeFor[Config](), "", func(key string, _ reflect.Type) {
		k := Key{Name: key, About: about[key], Enum: enums[key], Min: bounds[key][0], Max: bounds[key][1], Secret: isSecret(key)}
		if !strings.Contains(key, "[]") {
			k.Env = envName(key)
			if !k.Secret {
				k.Default = at(def, strings.Split(key, "."))
			}
		}
		for name, target := range flat {
			if target == key {
				k.Flat = name
			}
		}
		out = append(out, k)
	})
	return out
}

func at(m map[string]any, path []string) any {
	for _, p := range path[:len(path)-1] {
		m = m[p].(map[string]any)
	}
	return m[path[len(path)-1]]
}

// Preset is what a mode changes, key by key, sorted.
func Preset(mode string) (keys []string, values map[string]any) {
	values = presets[mode]
	for k := range values {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys, values
}

// Modes are the names of the presets, the default first.
func Modes() []string { return slices.Clone(modes) }

// Schema is the JSON Schema (draft 2020-12) of a configuration file.
func Schema() ([]byte, error) {
	s := schemaOf(reflect.TypeFor[Config](), "", tree(reflect.ValueOf(Default())))
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "PiMoE configuration"
	return json.MarshalIndent(s, "", "  ")
}

func schemaOf(t reflect.Type, key string, def any) map[string]any {
	s := map[string]any{}
	if a := about[key]; a != "" {
		s["description"] = a
	}
	switch {
	case t == durationType:
		s["type"], s["pattern"] = "string", `^[0-9.]+(ns|us|ms|s|m|h)([0-9.]+(ns|us|ms|s|m|h))*$`
	case t.Kind() == reflect.Struct:
		props := map[string]any{}
		for i := range t.NumField() {
			name := t.Field(i).Tag.Get("koanf")
			var d any
			if m, ok := def.(map[string]any); ok {
				d = m[name]
			}
			props[name] = schemaOf(t.Field(i).Type, join(key, name), d)
		}
		s["type"], s["properties"], s["additionalProperties"] = "object", props, false
		return s
	case t.Kind() == reflect.Slice:
		s["type"], s["items"] = "array", schemaOf(t.Elem(), key+"[]", nil)
		return s
	case t.Kind() == reflect.Map:
		s["type"], s["additionalProperties"] = "object", map[string]any{"type": []string{"string", "number", "boolean"}}
		return s
	case t.Kind() == reflect.Int:
		s["type"], s["minimum"], s["maximum"] = "integer", bounds[key][0], bounds[key][1]
	case t.Kind() == reflect.Bool:
		s["type"] = "boolean"
	case t.Kind() == reflect.Interface && key == "experts.group":
		s["oneOf"] = []any{map[string]any{"enum": []string{"expert", "layer"}},
			map[string]any{"type": "object", "additionalProperties": groupSchema()}}
	case t.Kind() == reflect.Interface:
		s = selectionSchema()
		s["description"] = about[key]
	default:
		s["type"] = "string"
		if e := enums[key]; e != nil {
			s["enum"] = e
		}
	}
	if d, ok := def.(time.Duration); ok {
		def = d.String()
	}
	// Folders depend on the machine that prints the schema.
	if def != nil && !isSecret(key) && key != "home" && key != "plugins.dir" {
		s["default"] = def
	}
	return s
}

func groupSchema() map[string]any {
	return map[string]any{"type": "array", "minItems": 1, "items": map[string]any{
		"type": "object", "additionalProperties": false, "required": []string{"layers", "experts"},
		"properties": map[string]any{"layers": selectionSchema(), "experts": selectionSchema()}}}
}

func selectionSchema() map[string]any {
	number := map[string]any{"type": "integer", "minimum": 0}
	text := func(pattern string) map[string]any { return map[string]any{"type": "string", "pattern": pattern} }
	list := map[string]any{"type": "array", "minItems": 1, "items": map[string]any{"anyOf": []any{number, text(`^[0-9]+(-[0-9]+)?$`)}}}
	return map[string]any{"anyOf": []any{number, text(`^(all|[0-9]+(-[0-9]+)?)$`), list}}
}
