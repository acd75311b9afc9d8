package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/sdk"
)

// maxNodes bounds a file of values; one that names a hundred expert groups has a tenth of it.
const maxNodes = 10_000

// Problems is all that is wrong with values, each with its field.
type Problems []string

// Error is one line with every problem.
func (p Problems) Error() string { return "values: " + strings.Join(p, "; ") }

// Unwrap makes it sdk.ErrInvalid.
func (p Problems) Unwrap() error { return sdk.ErrInvalid }

// Load reads a file of values: what it does not say is as For has it for its environment and profile. Those that are given
// here win over the file's; empty ones do not. name is for messages, and data may be empty. The values are valid.
func Load(name string, data []byte, e Environment, p Profile) (Values, error) {
	node, err := document(name, data)
	if err != nil {
		return Values{}, err
	}
	chosen := Defaults()
	if problems := decode(name, node, &chosen); len(problems) > 0 {
		return Values{}, Problems(problems)
	}
	if e != "" {
		chosen.Environment = e
	}
	if p != "" {
		chosen.Profile = p
	}
	v := For(chosen.Environment, chosen.Profile)
	decode(name, node, &v) // without problems, as before
	v.Environment, v.Profile = chosen.Environment, chosen.Profile
	return v, v.Validate()
}

// YAML is the values as a file that Load reads.
func (v Values) YAML() ([]byte, error) {
	b, err := yaml.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write values: %w", err)
	}
	return append([]byte(Note+"\n"), b...), nil
}

// document is the one mapping of a file; nil of an empty one.
func document(name string, data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read values %s: %v: %w", name, err, sdk.ErrInvalid)
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read values %s: want one YAML document: %w", name, sdk.ErrInvalid)
	}
	return doc.Content[0], nil
}

// decode puts a node's values over into's. What is wrong is named by file, line and field.
func decode(name string, node *yaml.Node, into *Values) []string {
	if node == nil {
		return nil
	}
	r := reader{name: name}
	r.read("", node, reflect.ValueOf(into).Elem())
	return r.problems
}

// reader decodes strictly: a field that does not exist or is given twice is a problem, and so are anchors, aliases and
// empty values, which would change nothing.
type reader struct {
	name     string
	nodes    int
	problems []string
}

func (r *reader) note(field string, n *yaml.Node, want string) {
	if field != "" {
		field += ": "
	}
	r.problems = append(r.problems, fmt.Sprintf("%s:%d: %s%s", r.name, n.Line, field, want))
}

func (r *reader) read(field string, n *yaml.Node, v reflect.Value) {
	if r.nodes++; r.nodes > maxNodes {
		if r.nodes == maxNodes+1 {
			r.note(field, n, fmt.Sprintf("more than %d values", maxNodes))
		}
		return
	}
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		r.note(field, n, "anchors and aliases are not taken")
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		r.note(field, n, "empty; leave the field out to keep its default")
	case v.Kind() == reflect.Struct:
		r.object(field, n, v)
	case v.Kind() == reflect.Slice:
		r.list(field, n, v)
	case n.Kind != yaml.ScalarNode && v.Kind() != reflect.Map:
		r.note(field, n, "want "+wanted(v))
	default:
		if err := n.Decode(v.Addr().Interface()); err != nil {
			r.note(field, n, fmt.Sprintf("want %s, have %.40q", wanted(v), n.Value))
		}
	}
}

func wanted(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Int:
		return "a whole number"
	case reflect.Bool:
		return "true or false"
	case reflect.Map:
		return "a map of names to values"
	}
	return "a word or text"
}

func (r *reader) object(field string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		r.note(field, n, "want a map of "+strings.Join(fields(v.Type()), ", "))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := strings.TrimPrefix(field+"."+key.Value, ".")
		at := slices.Index(fields(v.Type()), key.Value)
		switch {
		case at < 0:
			r.note(name, key, "unknown field; want one of "+strings.Join(fields(v.Type()), ", "))
		case seen[key.Value]:
			r.note(name, key, "given twice")
		default:
			seen[key.Value] = true
			r.read(name, value, v.Field(at))
		}
	}
}

// list replaces a list; the groups in it begin as newGroup has them.
func (r *reader) list(field string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		r.note(field, n, "want a list")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		if g, ok := out.Index(i).Addr().Interface().(*Group); ok {
			*g = newGroup()
		}
		r.read(fmt.Sprintf("%s[%d]", field, i), item, out.Index(i))
	}
	v.Set(out)
}

// newGroup is a group of which the file says no more than its name.
func newGroup() Group {
	return Group{Backend: "cpu", Replicas: 1, Scale: Scale{Min: 1, Max: 1, CPUPercent: 70}, Resources: Resources{CPUs: 1, MemoryMB: 1024}}
}

// fields are the names of a struct's fields, in order.
func fields(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("yaml")
	}
	return names
}
