package grammar

import (
	"fmt"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Form describes texts. It is made by the functions of this file and compiled by Compile.
type Form struct {
	build func(b *builder) (*node, error)
}

// JSON is one JSON value that is valid under a schema (draft 2020-12, and the older drafts' forms of items, dependencies
// and definitions): members in the schema's order, at most one space behind a colon or comma and no other white space.
// Members that properties does not name appear only where the schema asks for them or speaks of them.
func JSON(schema []byte) Form {
	return Form{func(b *builder) (*node, error) {
		s, ids, err := parseSchema(schema, b.ids)
		if err != nil {
			return nil, fmt.Errorf("schema: %w", err)
		}
		b.ids = ids
		n, err := b.goal(goal{{s, false}})
		if err != nil {
			return nil, fmt.Errorf("schema: %w", err)
		}
		return n, nil
	}}
}

// Regex is a text that a regular expression matches as a whole, in Go's syntax (RE2: no look-around, no back references).
func Regex(expr string) Form {
	return Form{func(b *builder) (*node, error) {
		if len(expr) > maxSource {
			return nil, fmt.Errorf("regular expression: more than %d bytes: %w", maxSource, sdk.ErrInvalid)
		}
		d, err := compileRegex("(?:" + expr + ")")
		if err != nil {
			return nil, fmt.Errorf("regular expression: %w", err)
		}
		return b.terminal(d)
	}}
}

// Literal is one text.
func Literal(text string) Form {
	return Form{func(b *builder) (*node, error) { return b.word(text) }}
}

// Sequence is all forms, one behind the other.
func Sequence(forms ...Form) Form {
	return Form{func(b *builder) (*node, error) {
		kids, err := b.all(forms)
		if err != nil {
			return nil, err
		}
		return b.seq(kids...)
	}}
}

// Choice is one of the forms.
func Choice(forms ...Form) Form {
	return Form{func(b *builder) (*node, error) {
		kids, err := b.all(forms)
		if err != nil {
			return nil, err
		}
		return b.choice(kids)
	}}
}

// Many is a form at least once, at most most times (0 = no limit), with another between two of it.
func Many(form, between Form, most int) Form {
	return Form{func(b *builder) (*node, error) {
		kids, err := b.all([]Form{between, form})
		if err != nil {
			return nil, err
		}
		limit := int32(most)
		if most == 0 {
			limit = -1
		}
		return b.add(&node{kind: list, kids: kids, min: 1, max: limit})
	}}
}

func (b *builder) all(forms []Form) ([]*node, error) {
	kids := make([]*node, len(forms))
	for i, f := range forms {
		var err error
		if kids[i], err = f.build(b); err != nil {
			return nil, err
		}
	}
	return kids, nil
}

// maxCompile is the longest time that compiling may take: hundreds of times what usual schemas need.
const maxCompile = 5 * time.Second

// Compile compiles a form for a vocabulary.
func Compile(f Form, v *Vocabulary) (*Grammar, error) {
	b := &builder{vocab: v, goals: map[string]*node{}, until: time.Now().Add(maxCompile)}
	root, err := f.build(b)
	if err != nil {
		return nil, err
	}
	return finish(v, root, b.nodes)
}
