package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// reader turns YAML nodes into plain values of the types that Config has, and collects what is wrong with them.
type reader struct {
	source   string // file, variable or flag, for messages
	lines    bool   // the source is a file, so line numbers mean something
	problems []Problem
	nodes    int
}

// maxNodes bounds a configuration; one that places 64 experts of 100 layers one by one has fewer than this.
const maxNodes = 100_000

var durationType = reflect.TypeFor[time.Duration]()

// read returns the value of node for type t at a key, as map[string]any for structs. ok is false where there is
// nothing to set: an empty value, or a problem that has been noted.
func (r *reader) read(key string, node *yaml.Node, t reflect.Type) (any, bool) {
	if r.nodes++; r.nodes > maxNodes {
		if r.nodes == maxNodes+1 {
			r.note(key, node, "", "a configuration of at most "+strconv.Itoa(maxNodes)+" values")
		}
		return nil, false
	}
	switch {
	case node.Kind == yaml.AliasNode || node.Anchor != "":
		r.note(key, node, "", "plain values: anchors and aliases are not supported")
		return nil, false
	case node.Kind == yaml.ScalarNode && node.Tag == "!!null":
		return nil, false
	case t == durationType:
		return r.duration(key, node)
	}
	switch t.Kind() {
	case reflect.Struct:
		return r.object(key, node, t)
	case reflect.Slice:
		return r.list(key, node, t.Elem())
	case reflect.Map:
		return r.words(key, node)
	case reflect.Interface:
		return r.free(key, node)
	case reflect.Int:
		return r.integer(key, node)
	case reflect.Float64:
		return r.float(key, node)
	case reflect.Bool:
		return r.truth(key, node)
	default: // Config has no other scalars than strings
		if node.Kind != yaml.ScalarNode {
			r.note(key, node, kindOf(node), "a word or text")
			return nil, false
		}
		return node.Value, true
	}
}

func (r *reader) object(key string, node *yaml.Node, t reflect.Type) (any, bool) {
	if node.Kind != yaml.MappingNode {
		r.note(key, node, short(node.Value), "a map of "+strings.Join(fieldNames(t), ", "))
		return nil, false
	}
	out := map[string]any{}
	r.entries(key, node, func(name string, k, v *yaml.Node) {
		f, ok := field(t, name)
		if !ok {
			r.unknown(join(key, name), k, t, key)
			return
		}
		if val, ok := r.read(join(key, name), v, f.Type); ok {
			out[name] = val
		}
	})
	return out, true
}

// entries calls f for each key of a mapping once; repeated and unprintable keys are noted.
func (r *reader) entries(key string, node *yaml.Node, f func(name string, k, v *yaml.Node)) {
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		k, v := node.Content[i], node.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode:
			r.note(key, k, kindOf(k), "plain words as keys")
		case seen[k.Value]:
			r.note(join(key, k.Value), k, "", "to be given once")
		default:
			seen[k.Value] = true
			f(k.Value, k, v)
		}
	}
}

func (r *reader) list(key string, node *yaml.Node, elem reflect.Type) (any, bool) {
	if node.Kind != yaml.SequenceNode {
		r.note(key, node, short(node.Value), "a list")
		return nil, false
	}
	out := make([]any, 0, len(node.Content))
	for i, n := range node.Content {
		if v, ok := r.read(fmt.Sprintf("%s[%d]", key, i), n, elem); ok {
			out = append(out, v)
		}
	}
	return out, true
}

// words is a map of text to text; numbers and truth values are taken as they are written.
func (r *reader) words(key string, node *yaml.Node) (any, bool) {
	if node.Kind != yaml.MappingNode {
		r.note(key, node, short(node.Value), "a map of names to values")
		return nil, false
	}
	out := map[string]any{}
	r.entries(key, node, func(name string, _, v *yaml.Node) {
		if v.Kind != yaml.ScalarNode {
			r.note(join(key, name), v, kindOf(v), "a word, a number or text")
			return
		}
		out[name] = v.Value
	})
	return out, true
}

// free is a value whose form depends on the key (group, layers, experts): words, whole numbers, lists and maps.
func (r *reader) free(key string, node *yaml.Node) (any, bool) {
	if r.nodes++; r.nodes > maxNodes || node.Kind == yaml.AliasNode || node.Anchor != "" {
		r.note(key, node, "", "plain values: anchors and aliases are not supported")
		return nil, false
	}
	switch node.Kind {
	case yaml.ScalarNode:
		if n, err := strconv.Atoi(node.Value); err == nil {
			return n, true
		}
		return node.Value, true
	case yaml.SequenceNode:
		out := make([]any, 0, len(node.Content))
		for i, n := range node.Content {
			if v, ok := r.free(fmt.Sprintf("%s[%d]", key, i), n); ok {
				out = append(out, v)
			}
		}
		return out, true
	case yaml.MappingNode:
		out := map[string]any{}
		r.entries(key, node, func(name string, _, v *yaml.Node) {
			if val, ok := r.free(join(key, name), v); ok {
				out[name] = val
			}
		})
		return out, true
	}
	r.note(key, node, "", "a word, a number, a list or a map")
	return nil, false
}

func (r *reader) integer(key string, node *yaml.Node) (any, bool) {
	n, err := strconv.Atoi(strings.ReplaceAll(strings.TrimSpace(node.Value), "_", ""))
	if node.Kind != yaml.ScalarNode || err != nil {
		r.note(key, node, value(node), "a whole number"+boundsText(key))
		return nil, false
	}
	return n, true
}

func (r *reader) float(key string, node *yaml.Node) (any, bool) {
	f, err := strconv.ParseFloat(strings.TrimSpace(node.Value), 64)
	if node.Kind != yaml.ScalarNode || err != nil {
		r.note(key, node, value(node), "a number such as 0.25")
		return nil, false
	}
	return f, true
}

func (r *reader) truth(key string, node *yaml.Node) (any, bool) {
	b, err := strconv.ParseBool(strings.TrimSpace(node.Value))
	if node.Kind != yaml.ScalarNode || err != nil {
		r.note(key, node, value(node), "true or false")
		return nil, false
	}
	return b, true
}

func (r *reader) duration(key string, node *yaml.Node) (any, bool) {
	d, err := time.ParseDuration(strings.TrimSpace(node.Value))
	if node.Kind != yaml.ScalarNode || err != nil {
		r.note(key, node, value(node), "a duration with its unit, such as 30s or 2m")
		return nil, false
	}
	return d, true
}

func (r *reader) note(key string, node *yaml.Node, val, want string) {
	r.problems = append(r.problems, Problem{Key: key, Value: val, Want: want, Source: r.at(node)})
}

// unknown notes a key that does not exist, with the nearest one that does.
func (r *reader) unknown(key string, node *yaml.Node, t reflect.Type, parent string) {
	p := Problem{Key: key, Source: r.at(node), Unknown: true}
	if n := nearest(key, Names()); n != "" {
		p.Near = n
	} else {
		for _, f := range fieldNames(t) {
			p.Want += ", " + join(parent, f)
		}
		p.Want = "one of " + strings.TrimPrefix(p.Want, ", ")
	}
	r.problems = append(r.problems, p)
}

func (r *reader) at(node *yaml.Node) string {
	if r.lines && node != nil && node.Line > 0 {
		return fmt.Sprintf("%s:%d", r.source, node.Line)
	}
	return r.source
}

// tree is the opposite of read: a value of Config's types as plain values.
func tree(v reflect.Value) any {
	switch {
	case v.Kind() == reflect.Struct:
		out := map[string]any{}
		for i := range v.NumField() {
			out[v.Type().Field(i).Tag.Get("koanf")] = tree(v.Field(i))
		}
		return out
	case v.Kind() == reflect.Map:
		out := map[string]any{}
		for _, k := range v.MapKeys() {
			out[k.String()] = v.MapIndex(k).Interface()
		}
		return out
	case v.Kind() == reflect.Slice:
		out := make([]any, 0, v.Len())
		for i := range v.Len() {
			out = append(out, tree(v.Index(i)))
		}
		return out
	}
	return v.Interface()
}

func field(t reflect.Type, name string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("koanf") == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func fieldNames(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("koanf")
	}
	return names
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func kindOf(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	}
	return short(node.Value)
}

func value(node *yaml.Node) string {
	if node.Kind == yaml.ScalarNode {
		return short(node.Value)
	}
	return kindOf(node)
}

// short keeps a value that someone pasted by mistake from filling the screen.
func short(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "..."
	}
	return s
}

// nearest is the name with the smallest edit distance to key, if that is small enough to be a slip. A key given
// without its section is near the key that ends in it.
func nearest(key string, names []string) string {
	best, dist := "", 2+len(key)/6 // a slip or two in a word, a few in a long one
	for _, n := range names {
		if strings.HasSuffix(n, "."+key) {
			return n
		}
		if d := distance(key, n); d < dist {
			best, dist = n, d
		}
	}
	if best != "" {
		return best
	}
	last := key[strings.LastIndex(key, ".")+1:]
	for _, n := range names { // the right word in the wrong section
		if n == last || strings.HasSuffix(n, "."+last) {
			return n
		}
	}
	return ""
}

// distance is the edit distance of Levenshtein with swapped neighbours as one slip (optimal string alignment).
func distance(a, b string) int {
	older, old, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(old[j]+cost, old[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], older[j-1]+1)
			}
		}
		older, old, row = old, row, older
	}
	return old[len(b)]
}
