// Package jinja renders chat templates: the part of Jinja2 that transformers allows in them, with Python's values and
// messages, in a sandbox with hard limits.
//
// Package core/tokenizer uses it. It refuses everything that reaches out of the template (include, import, extends),
// everything it does not know (by name, sdk.ErrUnsupported), and a template that is too large, too deep, too slow or
// writes too much. It is an interpreter of its own because those limits must hold: each step, each byte built and each
// level of nesting is counted, so that an endless loop, an endless recursion or a string of a thousand million
// characters ends in an error and not in the end of the process.
//
// As in transformers, trim_blocks and lstrip_blocks are on, nothing is escaped, undefined variables print as nothing,
// the loop controls and {% generation %} are there, and values can't be modified (namespaces can).
package jinja

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// The limits. A large real template (30 kB) with a hundred messages takes ten thousand steps and a megabyte of work.
const (
	MaxSource = 1 << 20         // bytes of a template
	MaxOutput = 8 << 20         // bytes of one rendered text, and of every string in between
	MaxTime   = 5 * time.Second // of one rendering; less if the context says so
	maxSteps  = 20 << 20        // expressions and statements evaluated
	maxWork   = 512 << 20       // bytes of strings and lists built or searched
	maxDepth  = 1000            // of evaluation; a level takes about a kilobyte of stack
	maxNested = 200             // of source and of values
	maxRange  = 100_000         // length of a range, as in Jinja2's sandbox
)

// Template is a parsed template. It is safe for concurrent use.
type Template struct {
	body []node
}

// Parse reads a template.
func Parse(source string) (*Template, error) {
	if len(source) > MaxSource {
		return nil, fmt.Errorf("template of %d bytes, more than %d: %w", len(source), MaxSource, sdk.ErrInvalid)
	}
	tokens, err := lex(source)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens}
	body, err := p.template()
	if err != nil {
		return nil, err
	}
	return &Template{body: body}, nil
}

// Render runs the template with variables on top of the global functions. The time is what strftime_now shows.
func (t *Template) Render(ctx context.Context, vars map[string]Value, now time.Time) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, MaxTime)
	defer cancel()
	m := &machine{ctx: ctx, now: now}
	top := newScope(&scope{many: globalVars})
	for k, v := range vars {
		top.set(k, v)
	}
	var out strings.Builder
	m.out = &out
	err := m.block(t.body, top)
	if errors.Is(err, errBreak) || errors.Is(err, errContinue) {
		err = errorf("break or continue outside of a loop")
	}
	if err != nil {
		return "", err
	}
	return out.String(), nil
}

// scope is one level of variables. Most have a handful, which a short list holds best; loops make one for each turn.
type scope struct {
	few    []namedValue
	many   map[string]Value // instead of few, from fewVars on
	parent *scope
}

const fewVars = 12

func newScope(parent *scope) *scope { return &scope{few: make([]namedValue, 0, 4), parent: parent} }

func (s *scope) set(name string, v Value) {
	if s.many != nil {
		s.many[name] = v
		return
	}
	for i := range s.few {
		if s.few[i].name == name {
			s.few[i].value = v
			return
		}
	}
	if len(s.few) < fewVars {
		s.few = append(s.few, namedValue{name, v})
		return
	}
	s.many = make(map[string]Value, 2*fewVars)
	for _, x := range s.few {
		s.many[x.name] = x.value
	}
	s.many[name], s.few = v, nil
}

// own looks at this level only.
func (s *scope) own(name string) (Value, bool) {
	if s.many != nil {
		v, ok := s.many[name]
		return v, ok
	}
	for i := range s.few {
		if s.few[i].name == name {
			return s.few[i].value, true
		}
	}
	return nil, false
}

func (s *scope) lookup(name string) (Value, bool) {
	for ; s != nil; s = s.parent {
		if v, ok := s.own(name); ok {
			return v, true
		}
	}
	return nil, false
}

// machine is one rendering: where the text goes and what it has cost.
type machine struct {
	ctx   context.Context
	now   time.Time
	out   *strings.Builder
	steps int
	work  int
	next  int // work at which the context is looked at again
	depth int
}

// step counts one evaluation.
func (m *machine) step() error {
	m.steps++
	if m.steps > maxSteps {
		return errorf("more than %d steps", maxSteps)
	}
	if m.steps%256 == 0 {
		return m.alive()
	}
	return nil
}

// charge counts n bytes of work before they are done.
func (m *machine) charge(n int) error {
	if n < 0 || n > maxWork-m.work {
		return errorf("more than %d bytes of work", maxWork)
	}
	m.work += n
	if m.work >= m.next {
		m.next = m.work + 1<<20
		return m.alive()
	}
	return nil
}

// room charges for a string of n bytes and refuses one that is too long.
func (m *machine) room(n int) error {
	if n < 0 || n > MaxOutput {
		return errorf("a text of more than %d bytes", MaxOutput)
	}
	return m.charge(n)
}

// slots charges for a list of n values.
func (m *machine) slots(n int) error {
	if n < 0 || n > maxWork/32 {
		return errorf("a list of more than %d values", maxWork/32)
	}
	return m.charge(32 * n)
}

func (m *machine) alive() error {
	if err := m.ctx.Err(); err != nil {
		return fmt.Errorf("render template: %w: %w", err, sdk.ErrDeadline)
	}
	return nil
}

// write puts text out.
func (m *machine) write(s string) error {
	if len(s) > MaxOutput-m.out.Len() {
		return errorf("a text of more than %d bytes", MaxOutput)
	}
	if err := m.charge(len(s)); err != nil {
		return err
	}
	m.out.WriteString(s)
	return nil
}

// capture runs f and returns what it writes.
func (m *machine) capture(f func() error) (string, error) {
	outer := m.out
	var b strings.Builder
	m.out = &b
	err := f()
	m.out = outer
	return b.String(), err
}

// deeper guards a recursion; who calls it takes one off depth on the way back.
func (m *machine) deeper() error {
	if m.depth >= maxDepth {
		return errorf("more than %d levels deep", maxDepth)
	}
	m.depth++
	return nil
}

// Error is a failure of the template itself; it is sdk.ErrInvalid, or sdk.ErrUnsupported for what this package lacks.
type Error struct {
	Line  int // 0: not known
	Text  string
	class error
}

func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("template line %d: %s", e.Line, e.Text)
	}
	return "template: " + e.Text
}

func (e *Error) Unwrap() error { return e.class }

func errorf(format string, args ...any) error {
	return &Error{Text: fmt.Sprintf(format, args...), class: sdk.ErrInvalid}
}

func unsupported(format string, args ...any) error {
	return &Error{Text: fmt.Sprintf(format, args...), class: sdk.ErrUnsupported}
}

// at adds the line where an error has none yet.
func at(line int, err error) error {
	var e *Error
	if errors.As(err, &e) && e.Line == 0 {
		e.Line = line
	}
	return err
}
