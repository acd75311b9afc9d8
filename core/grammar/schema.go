package grammar

import (
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/sdk"
)

// types is a set of JSON's types. A number is whole or not: 1.0 is whole.
type types uint8

const (
	tNull types = 1 << iota
	tBool
	tWhole
	tFraction
	tString
	tArray
	tObject

	tAll = tObject<<1 - 1
)

var typeNames = map[string]types{
	"null": tNull, "boolean": tBool, "integer": tWhole, "number": tWhole | tFraction, "string": tString, "array": tArray, "object": tObject,
}

func typeOf(v any) types {
	switch v := v.(type) {
	case nil:
		return tNull
	case bool:
		return tBool
	case number:
		if v.rat.IsInt() {
			return tWhole
		}
		return tFraction
	case string:
		return tString
	case []any:
		return tArray
	}
	return tObject
}

// schema is one schema of a document. What a keyword leaves out is nil, or -1 for counts.
type schema struct {
	id    int
	path  string
	never bool // false as a schema

	types types // 0 = any
	enum  []any
	fixed []any // const

	num        bounds
	multipleOf []*big.Rat

	minLength, maxLength             int32
	minItems, maxItems               int32
	minProperties, maxProperties     int32
	minContains, maxContains         int32
	pattern                          *dfa
	format                           string
	prefix                           []*schema
	items, contains                  *schema
	unique                           bool
	properties, dependents           []property
	patterns                         []patterned
	additional, names                *schema
	required                         []string
	needs                            []need // dependentRequired
	allOf, anyOf, oneOf              []*schema
	not, condition, consequence, alt *schema
	ref                              *schema
	refText                          string
}

type property struct {
	name string
	s    *schema
}

type patterned struct {
	expr string
	d    *dfa
	s    *schema
}

type need struct {
	name   string
	others []string
}

// reader turns a document into schemas.
type reader struct {
	root   any
	old    bool // draft 7 or before
	byPath map[string]*schema
	refs   []*schema
	n      int
	exprs  map[string]*dfa
}

// maxSchemas bounds the schemas of one document.
const maxSchemas = 5000

// parseSchema reads a document and resolves its references. ids is the last id that is taken, and is returned.
func parseSchema(b []byte, ids int) (*schema, int, error) {
	v, err := parseValue(b)
	if err != nil {
		return nil, 0, err
	}
	r := &reader{root: v, byPath: map[string]*schema{}, exprs: map[string]*dfa{}, n: ids}
	if o, ok := v.(*object); ok {
		s, _ := o.vals["$schema"].(string)
		r.old = strings.Contains(s, "draft-0")
	}
	root, err := r.schema(v, "#")
	if err != nil {
		return nil, 0, err
	}
	for i := 0; i < len(r.refs); i++ { // resolving may read more
		if err := r.resolve(r.refs[i]); err != nil {
			return nil, 0, err
		}
	}
	open := map[*schema]bool{}
	for _, s := range r.refs {
		if err := s.endless(open); err != nil {
			return nil, 0, err
		}
	}
	return root, r.n, nil
}

// endless refuses a schema that says of a value only that it is valid under itself. done has what is known: true while
// it is looked at, false when it is fine.
func (s *schema) endless(done map[*schema]bool) error {
	if open, known := done[s]; known {
		if open {
			return bad(s.path, "the schema refers to itself for the same value")
		}
		return nil
	}
	done[s] = true
	same := slices.Concat(s.allOf, s.anyOf, s.oneOf, []*schema{s.ref, s.not, s.condition, s.consequence, s.alt})
	for _, d := range s.dependents {
		same = append(same, d.s)
	}
	for _, next := range same {
		if next == nil {
			continue
		}
		if err := next.endless(done); err != nil {
			return err
		}
	}
	done[s] = false
	return nil
}

// bad is an error about a place of the schema.
func bad(path, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", path, fmt.Sprintf(format, args...), sdk.ErrInvalid)
}

// schema reads one schema; the same place gives the same one.
func (r *reader) schema(v any, path string) (*schema, error) {
	if s, ok := r.byPath[path]; ok {
		return s, nil
	}
	if r.n++; r.n > maxSchemas {
		return nil, bad(path, "more than %d schemas", maxSchemas)
	}
	s := &schema{id: r.n, path: path, minLength: -1, maxLength: -1, minItems: -1, maxItems: -1, minProperties: -1, maxProperties: -1, minContains: -1, maxContains: -1}
	r.byPath[path] = s
	switch v := v.(type) {
	case bool:
		s.never = !v
		return s, nil
	case *object:
		if ref, ok := v.vals["$ref"]; ok && r.old { // its neighbours mean nothing
			text, _ := ref.(string)
			s.refText = text
			r.refs = append(r.refs, s)
			return s, nil
		}
		for _, k := range v.keys {
			if err := r.keyword(s, k, v.vals[k], path+"/"+escapePointer(k), v); err != nil {
				return nil, err
			}
		}
		return s, nil
	}
	return nil, bad(path, "a schema is an object or a boolean")
}

func (r *reader) keyword(s *schema, k string, v any, path string, all *object) (err error) {
	switch k {
	case "type":
		s.types, err = readTypes(v, path)
	case "enum":
		list, ok := v.([]any)
		if !ok {
			return bad(path, "a list of values")
		}
		s.enum = list
		if list == nil {
			s.enum = []any{}
		}
	case "const":
		s.fixed = []any{v}
	case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf":
		err = s.number(k, v, path)
	case "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains":
		*s.count(k), err = count(v, path)
	case "uniqueItems":
		b, ok := v.(bool)
		if !ok {
			return bad(path, "true or false")
		}
		s.unique = b
	case "pattern":
		expr, ok := v.(string)
		if !ok {
			return bad(path, "a regular expression")
		}
		s.pattern, err = r.expression(expr, path)
	case "format":
		s.format, _ = v.(string)
	case "required":
		s.required, err = texts(v, path)
	case "properties":
		s.properties, err = r.named(v, path)
	case "patternProperties":
		s.patterns, err = r.patterned(v, path)
	case "additionalProperties":
		s.additional, err = r.schema(v, path)
	case "propertyNames":
		s.names, err = r.schema(v, path)
	case "dependentSchemas":
		s.dependents, err = r.named(v, path)
	case "dependentRequired", "dependencies":
		err = r.dependencies(s, v, path, k == "dependencies")
	case "items":
		if list, ok := v.([]any); ok {
			s.prefix, err = r.schemas(list, path)
			return err
		}
		s.items, err = r.schema(v, path)
	case "prefixItems":
		s.prefix, err = r.schemas(v, path)
	case "additionalItems":
		if _, tuple := all.vals["items"].([]any); tuple {
			s.items, err = r.schema(v, path)
		}
	case "contains":
		s.contains, err = r.schema(v, path)
	case "allOf":
		s.allOf, err = r.schemas(v, path)
	case "anyOf":
		s.anyOf, err = r.schemas(v, path)
	case "oneOf":
		s.oneOf, err = r.schemas(v, path)
	case "not":
		s.not, err = r.schema(v, path)
	case "if":
		s.condition, err = r.schema(v, path)
	case "then":
		s.consequence, err = r.schema(v, path)
	case "else":
		s.alt, err = r.schema(v, path)
	case "$ref":
		text, ok := v.(string)
		if !ok {
			return bad(path, "a reference")
		}
		s.refText = text
		r.refs = append(r.refs, s)
	case "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef":
		return fmt.Errorf("%s: the keyword %s is not supported: %w", path, k, sdk.ErrUnsupported)
	}
	return err // any other keyword is a remark, as JSON Schema has it
}

// number reads a bound of numbers.
func (s *schema) number(k string, v any, path string) error {
	n, ok := v.(number)
	switch {
	case !ok:
		return bad(path, "a number")
	case k == "multipleOf" && n.rat.Sign() <= 0:
		return bad(path, "a number above 0")
	case k == "multipleOf":
		s.multipleOf = []*big.Rat{n.rat}
	case strings.HasSuffix(strings.ToLower(k), "minimum"):
		s.num.atLeast(n.rat, k[0] == 'e')
	default:
		s.num.atMost(n.rat, k[0] == 'e')
	}
	return nil
}

// count is where a keyword that counts something goes.
func (s *schema) count(k string) *int32 {
	return map[string]*int32{
		"minLength": &s.minLength, "maxLength": &s.maxLength, "minItems": &s.minItems, "maxItems": &s.maxItems,
		"minProperties": &s.minProperties, "maxProperties": &s.maxProperties, "minContains": &s.minContains, "maxContains": &s.maxContains,
	}[k]
}

// patterned reads schemas of properties whose names match an expression.
func (r *reader) patterned(v any, path string) ([]patterned, error) {
	list, err := r.named(v, path)
	if err != nil {
		return nil, err
	}
	out := make([]patterned, 0, len(list))
	for _, p := range list {
		d, err := r.expression(p.name, path+"/"+escapePointer(p.name))
		if err != nil {
			return nil, err
		}
		out = append(out, patterned{p.name, d, p.s})
	}
	return out, nil
}

// dependencies reads what a property asks for: names of others, or, where a draft before 2019-09 allows it, a schema.
func (r *reader) dependencies(s *schema, v any, path string, schemas bool) error {
	o, ok := v.(*object)
	switch {
	case !ok && schemas:
		return bad(path, "an object of lists of names and schemas")
	case !ok:
		return bad(path, "an object of lists of names")
	}
	for _, name := range o.keys {
		at := path + "/" + escapePointer(name)
		if _, list := o.vals[name].([]any); list || !schemas {
			others, err := texts(o.vals[name], at)
			if err != nil {
				return err
			}
			s.needs = append(s.needs, need{name, others})
			continue
		}
		d, err := r.schema(o.vals[name], at)
		if err != nil {
			return err
		}
		s.dependents = append(s.dependents, property{name, d})
	}
	return nil
}

func readTypes(v any, path string) (types, error) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	var t types
	for _, e := range list {
		name, _ := e.(string)
		one, ok := typeNames[name]
		if !ok {
			return 0, bad(path, "null, boolean, integer, number, string, array or object")
		}
		t |= one
	}
	if t == 0 {
		return 0, bad(path, "at least one type")
	}
	return t, nil
}

// maxCount stands for every larger count: nobody waits for so many characters or items.
const maxCount = 1 << 24

func count(v any, path string) (int32, error) {
	n, ok := v.(number)
	if !ok || !n.rat.IsInt() || n.rat.Sign() < 0 {
		return 0, bad(path, "a whole number that is not negative")
	}
	if n.rat.Num().Cmp(big.NewInt(maxCount)) > 0 {
		return maxCount, nil
	}
	return int32(n.rat.Num().Int64()), nil
}

func texts(v any, path string) ([]string, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, bad(path, "a list of names")
	}
	out := []string{}
	for _, e := range list {
		s, ok := e.(string)
		if !ok {
			return nil, bad(path, "a list of names")
		}
		out = append(out, s)
	}
	return out, nil
}

func (r *reader) schemas(v any, path string) ([]*schema, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, bad(path, "a list of schemas")
	}
	out := []*schema{}
	for i, e := range list {
		s, err := r.schema(e, path+"/"+strconv.Itoa(i))
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (r *reader) named(v any, path string) ([]property, error) {
	o, ok := v.(*object)
	if !ok {
		return nil, bad(path, "an object of schemas")
	}
	out := []property{}
	for _, k := range o.keys {
		s, err := r.schema(o.vals[k], path+"/"+escapePointer(k))
		if err != nil {
			return nil, err
		}
		out = append(out, property{k, s})
	}
	return out, nil
}

// expression compiles the expression of a pattern once.
func (r *reader) expression(expr, path string) (*dfa, error) {
	if d, ok := r.exprs[expr]; ok {
		return d, nil
	}
	d, err := search(expr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r.exprs[expr] = d
	return d, nil
}

func escapePointer(k string) string {
	if len(k) > 64 {
		k = k[:64]
	}
	return strings.ReplaceAll(strings.ReplaceAll(k, "~", "~0"), "/", "~1")
}

// resolve finds what a reference means. References lead into the same document.
func (r *reader) resolve(s *schema) error {
	text := s.refText
	pointer, ok := strings.CutPrefix(text, "#")
	if !ok || pointer != "" && pointer[0] != '/' {
		return fmt.Errorf("%s: the reference %.80q does not lead into this document by a JSON pointer: %w", s.path, text, sdk.ErrUnsupported)
	}
	at, path := r.root, "#"
	for _, step := range strings.Split(pointer, "/")[1:] {
		if plain, err := url.PathUnescape(step); err == nil {
			step = plain
		}
		step = strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
		path += "/" + escapePointer(step)
		switch v := at.(type) {
		case *object:
			next, ok := v.vals[step]
			if !ok {
				return bad(s.path, "the reference %.80q leads nowhere", text)
			}
			at = next
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(v) {
				return bad(s.path, "the reference %.80q leads nowhere", text)
			}
			at = v[i]
		default:
			return bad(s.path, "the reference %.80q leads nowhere", text)
		}
	}
	target, err := r.schema(at, path)
	s.ref = target
	return err
}
