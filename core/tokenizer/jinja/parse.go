package jinja

import (
	"math"
	"math/big"
	"slices"
	"strconv"
)

// The nodes of a template. Expressions:
type (
	expr    any
	literal struct{ value Value }
	name    struct{ name string }
	list    struct {
		items []expr
		tuple bool
	}
	dictLit struct{ keys, values []expr }
	attr    struct {
		of   expr
		name string
	}
	index  struct{ of, key expr }
	sliced struct{ of, start, stop, step expr }
	call   struct {
		of   expr
		args arguments
	}
	filter struct {
		of   expr // nil: the text of a filter block
		name string
		args arguments
	}
	test struct {
		of   expr
		name string
		args arguments
		not  bool
	}
	unary struct {
		op string
		of expr
	}
	binary struct {
		op          string
		left, right expr
	}
	logic struct {
		and         bool
		left, right expr
	}
	concat  struct{ parts []expr }
	compare struct {
		first expr
		ops   []string
		rest  []expr
	}
	ternary   struct{ cond, yes, no expr } // no may be nil
	arguments struct {
		pos    []expr
		kw     []keyword
		star   expr // *args
		double expr // **kwargs
	}
	keyword struct {
		name  string
		value expr
	}
)

// Statements:
type (
	node    any
	textOut string
	output  struct {
		line int
		e    expr
	}
	ifStmt struct {
		line  int
		conds []expr
		body  [][]node
		other []node
	}
	forStmt struct {
		line        int
		target      expr
		iter, where expr // where may be nil
		body, other []node
		recursive   bool
	}
	setStmt struct {
		line   int
		target expr
		value  expr
	}
	setBlock struct {
		line    int
		target  expr
		filters expr // around a nil innermost filter; nil: none
		body    []node
	}
	macroStmt struct {
		line int
		m    *macro
	}
	callBlock struct {
		line int
		call *call
		m    *macro
	}
	filterBlock struct {
		line    int
		filters expr
		body    []node
	}
	withStmt struct {
		line    int
		targets []expr
		values  []expr
		body    []node
	}
	scoped      struct{ body []node } // generation and block: a scope of its own
	breakStmt   struct{}
	continueStm struct{}
)

// macro is a template function.
type macro struct {
	name     string
	params   []string
	defaults []expr // of the last params
	body     []node
	varargs  bool // the body names varargs
	kwargs   bool
	caller   bool
}

// parser is a parser by recursive descent that follows Jinja2's grammar.
type parser struct {
	tokens []token
	pos    int
	depth  int
	loops  int
	macro  *macro // the innermost macro being read
}

func (p *parser) peek() token { return p.tokens[p.pos] }

func (p *parser) next() token {
	t := p.tokens[p.pos]
	if t.kind != tokEnd {
		p.pos++
	}
	return t
}

func (p *parser) isOp(op string) bool    { t := p.peek(); return t.kind == tokOp && t.text == op }
func (p *parser) isName(s string) bool   { t := p.peek(); return t.kind == tokName && t.text == s }
func (p *parser) fail(what string) error { return at(p.peek().line, errorf("%s", what)) }

func (p *parser) takeOp(op string) bool {
	if p.isOp(op) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) takeName(s string) bool {
	if p.isName(s) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) expectOp(op string) error {
	if !p.takeOp(op) {
		return p.fail("expected " + op + ", got " + p.describe())
	}
	return nil
}

func (p *parser) expect(kind tokenKind, what string) (token, error) {
	if p.peek().kind != kind {
		return token{}, p.fail("expected " + what + ", got " + p.describe())
	}
	return p.next(), nil
}

func (p *parser) describe() string {
	switch t := p.peek(); t.kind {
	case tokEnd:
		return "the end of the template"
	case tokVarEnd, tokBlockEnd:
		return "the end of the tag"
	case tokData:
		return "text"
	default:
		return strconv.Quote(t.text)
	}
}

// enter guards a recursion of the parser.
func (p *parser) enter() error {
	if p.depth >= maxNested {
		return p.fail("nested more than " + strconv.Itoa(maxNested) + " levels deep")
	}
	p.depth++
	return nil
}

func (p *parser) leave() { p.depth-- }

func (p *parser) template() ([]node, error) {
	body, _, err := p.body()
	if err != nil {
		return nil, err
	}
	if p.peek().kind != tokEnd {
		return nil, p.fail("unexpected " + p.describe())
	}
	return body, nil
}

// body reads up to one of the named tags and returns its name; the tag's name is consumed, not the rest of it. Without
// names it reads to the end of the template.
func (p *parser) body(until ...string) ([]node, string, error) {
	if err := p.enter(); err != nil {
		return nil, "", err
	}
	defer p.leave()
	var out []node
	for {
		t := p.next()
		switch t.kind {
		case tokEnd:
			if len(until) > 0 {
				return nil, "", p.fail("expected " + until[len(until)-1] + ", got the end of the template")
			}
			return out, "", nil
		case tokData:
			out = append(out, textOut(t.text))
		case tokVarBegin:
			e, err := p.tuple(true, "")
			if err != nil {
				return nil, "", err
			}
			if _, err := p.expect(tokVarEnd, "the end of the tag"); err != nil {
				return nil, "", err
			}
			out = append(out, &output{t.line, e})
		case tokBlockBegin:
			tag, err := p.expect(tokName, "the name of a tag")
			if err != nil {
				return nil, "", err
			}
			if slices.Contains(until, tag.text) {
				return out, tag.text, nil
			}
			n, err := p.statement(tag)
			if err != nil {
				return nil, "", err
			}
			out = append(out, n)
		default:
			return nil, "", p.fail("unexpected " + p.describe())
		}
	}
}

func (p *parser) blockEnd() error {
	_, err := p.expect(tokBlockEnd, "the end of the tag")
	return err
}

// block is body for a tag with one end, whose own end is still to be read.
func (p *parser) block(end string) ([]node, error) {
	if err := p.blockEnd(); err != nil {
		return nil, err
	}
	body, _, err := p.body(end)
	if err != nil {
		return nil, err
	}
	return body, p.blockEnd()
}

func (p *parser) statement(tag token) (node, error) {
	switch tag.text {
	case "if":
		return p.ifTag(tag.line)
	case "for":
		return p.forTag(tag.line)
	case "set":
		return p.setTag(tag.line)
	case "macro":
		return p.macroTag(tag.line)
	case "call":
		return p.callTag(tag.line)
	case "filter":
		f, err := p.filters(nil)
		if err != nil {
			return nil, err
		}
		body, err := p.block("endfilter")
		return &filterBlock{tag.line, f, body}, err
	case "with":
		return p.withTag(tag.line)
	case "generation":
		body, err := p.block("endgeneration")
		return &scoped{body}, err
	case "break", "continue":
		if p.loops == 0 {
			return nil, at(tag.line, errorf("%s outside of a loop", tag.text))
		}
		if tag.text == "break" {
			return breakStmt{}, p.blockEnd()
		}
		return continueStm{}, p.blockEnd()
	case "include", "import", "from", "extends", "block", "do", "autoescape", "trans", "debug":
		return nil, at(tag.line, unsupported("tag %q", tag.text))
	}
	return nil, at(tag.line, errorf("unknown tag %q", tag.text))
}

func (p *parser) ifTag(line int) (node, error) {
	s := &ifStmt{line: line}
	for {
		cond, err := p.tuple(false, "")
		if err != nil {
			return nil, err
		}
		if err := p.blockEnd(); err != nil {
			return nil, err
		}
		body, end, err := p.body("elif", "else", "endif")
		if err != nil {
			return nil, err
		}
		s.conds, s.body = append(s.conds, cond), append(s.body, body)
		switch end {
		case "else":
			s.other, err = p.block("endif")
			return s, err
		case "endif":
			return s, p.blockEnd()
		}
	}
}

func (p *parser) forTag(line int) (node, error) {
	s := &forStmt{line: line}
	var err error
	if s.target, err = p.target(true); err != nil {
		return nil, err
	}
	if !p.takeName("in") {
		return nil, p.fail("expected in, got " + p.describe())
	}
	if s.iter, err = p.tuple(false, "recursive"); err != nil {
		return nil, err
	}
	if p.takeName("if") {
		if s.where, err = p.expression(true); err != nil {
			return nil, err
		}
	}
	s.recursive = p.takeName("recursive")
	if err := p.blockEnd(); err != nil {
		return nil, err
	}
	p.loops++
	body, end, err := p.body("else", "endfor")
	p.loops--
	if err != nil {
		return nil, err
	}
	s.body = body
	if end == "else" {
		s.other, err = p.block("endfor")
		return s, err
	}
	return s, p.blockEnd()
}

// target reads what is assigned to: a name, a name's attribute, or several.
func (p *parser) target(tuples bool) (expr, error) {
	var items []expr
	comma := false
	for {
		var e expr
		var err error
		if p.takeOp("(") {
			if err := p.enter(); err != nil {
				return nil, err
			}
			e, err = p.target(true)
			p.leave()
			if err == nil {
				err = p.expectOp(")")
			}
		} else {
			e, err = p.targetName()
		}
		if err != nil {
			return nil, err
		}
		items = append(items, e)
		if !tuples || !p.takeOp(",") {
			break
		}
		comma = true
		if t := p.peek(); !p.isOp("(") && (t.kind != tokName || t.text == "in") {
			break
		}
	}
	if !comma {
		return items[0], nil
	}
	return &list{items, true}, nil
}

func (p *parser) targetName() (expr, error) {
	t, err := p.expect(tokName, "a name")
	if err != nil {
		return nil, err
	}
	switch t.text {
	case "true", "false", "none", "True", "False", "None":
		return nil, at(t.line, errorf("can't assign to %q", t.text))
	}
	if p.takeOp(".") {
		a, err := p.expect(tokName, "a name")
		return &attr{&name{t.text}, a.text}, err
	}
	return &name{t.text}, nil
}

func (p *parser) setTag(line int) (node, error) {
	target, err := p.target(true)
	if err != nil {
		return nil, err
	}
	if p.takeOp("=") {
		value, err := p.tuple(true, "")
		if err != nil {
			return nil, err
		}
		return &setStmt{line, target, value}, p.blockEnd()
	}
	s := &setBlock{line: line, target: target}
	if p.isOp("|") {
		if s.filters, err = p.filters(nil); err != nil {
			return nil, err
		}
	}
	s.body, err = p.block("endset")
	return s, err
}

func (p *parser) macroTag(line int) (node, error) {
	t, err := p.expect(tokName, "the name of the macro")
	if err != nil {
		return nil, err
	}
	m := &macro{name: t.text}
	if err := p.expectOp("("); err != nil {
		return nil, err
	}
	if err := p.macroRest(m, "endmacro", nil); err != nil {
		return nil, err
	}
	return &macroStmt{line, m}, nil
}

// macroRest reads parameters after an opening parenthesis (none if signed is false), then, after what middle reads,
// the body.
func (p *parser) macroRest(m *macro, end string, middle func() error) error {
	outer, loops := p.macro, p.loops
	p.macro, p.loops = m, 0
	defer func() { p.macro, p.loops = outer, loops }()
	for !p.takeOp(")") {
		if len(m.params) > 0 {
			if err := p.expectOp(","); err != nil {
				return err
			}
			if p.takeOp(")") {
				break
			}
		}
		t, err := p.expect(tokName, "a parameter")
		if err != nil {
			return err
		}
		m.params = append(m.params, t.text)
		if p.takeOp("=") {
			d, err := p.expression(true)
			if err != nil {
				return err
			}
			m.defaults = append(m.defaults, d)
		} else if len(m.defaults) > 0 {
			return p.fail("a parameter without a default after one with")
		}
	}
	if middle != nil {
		if err := middle(); err != nil {
			return err
		}
	}
	var err error
	m.body, err = p.block(end)
	return err
}

func (p *parser) callTag(line int) (node, error) {
	s := &callBlock{line: line, m: &macro{name: "caller"}}
	middle := func() error {
		e, err := p.expression(true)
		if err != nil {
			return err
		}
		c, ok := e.(*call)
		if !ok {
			return p.fail("expected a call")
		}
		s.call = c
		return nil
	}
	if p.takeOp("(") {
		return s, p.macroRest(s.m, "endcall", middle)
	}
	if err := middle(); err != nil {
		return nil, err
	}
	outer, loops := p.macro, p.loops
	p.macro, p.loops = s.m, 0
	defer func() { p.macro, p.loops = outer, loops }()
	var err error
	s.m.body, err = p.block("endcall")
	return s, err
}

func (p *parser) withTag(line int) (node, error) {
	s := &withStmt{line: line}
	for p.peek().kind != tokBlockEnd {
		if len(s.targets) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
		}
		target, err := p.target(false)
		if err != nil {
			return nil, err
		}
		if err := p.expectOp("="); err != nil {
			return nil, err
		}
		value, err := p.expression(true)
		if err != nil {
			return nil, err
		}
		s.targets, s.values = append(s.targets, target), append(s.values, value)
	}
	var err error
	s.body, err = p.block("endwith")
	return s, err
}

// tuple reads expressions with commas between them; more than one, or a comma at the end, make a tuple. Stop is a
// name that ends the tuple.
func (p *parser) tuple(cond bool, stop string) (expr, error) {
	var items []expr
	comma := false
	for {
		if len(items) > 0 {
			if !p.takeOp(",") {
				break
			}
			comma = true
		}
		if p.tupleEnd(stop) {
			break
		}
		e, err := p.expression(cond)
		if err != nil {
			return nil, err
		}
		items = append(items, e)
	}
	if len(items) == 0 {
		return nil, p.fail("expected an expression, got " + p.describe())
	}
	if !comma {
		return items[0], nil
	}
	return &list{items, true}, nil
}

func (p *parser) tupleEnd(stop string) bool {
	t := p.peek()
	return t.kind == tokVarEnd || t.kind == tokBlockEnd || p.isOp(")") || stop != "" && p.isName(stop)
}

// expression is one value; without cond, "if" ends it.
func (p *parser) expression(cond bool) (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	e, err := p.or()
	for err == nil && cond && p.takeName("if") {
		t := &ternary{yes: e}
		if t.cond, err = p.or(); err != nil {
			return nil, err
		}
		if p.takeName("else") {
			if t.no, err = p.expression(true); err != nil {
				return nil, err
			}
		}
		e = t
	}
	return e, err
}

func (p *parser) or() (expr, error) {
	left, err := p.and()
	for err == nil && p.takeName("or") {
		var right expr
		right, err = p.and()
		left = &logic{false, left, right}
	}
	return left, err
}

func (p *parser) and() (expr, error) {
	left, err := p.not()
	for err == nil && p.takeName("and") {
		var right expr
		right, err = p.not()
		left = &logic{true, left, right}
	}
	return left, err
}

func (p *parser) not() (expr, error) {
	if !p.takeName("not") {
		return p.comparison()
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	e, err := p.not()
	return &unary{"not", e}, err
}

func (p *parser) comparison() (expr, error) {
	first, err := p.sum()
	if err != nil {
		return nil, err
	}
	c := &compare{first: first}
	for {
		op := ""
		t := p.peek()
		switch {
		case t.kind == tokOp && slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, t.text):
			op = t.text
			p.pos++
		case p.takeName("in"):
			op = "in"
		case p.isName("not") && p.tokens[p.pos+1].kind == tokName && p.tokens[p.pos+1].text == "in":
			op = "not in"
			p.pos += 2
		}
		if op == "" {
			break
		}
		e, err := p.sum()
		if err != nil {
			return nil, err
		}
		c.ops, c.rest = append(c.ops, op), append(c.rest, e)
	}
	if len(c.ops) == 0 {
		return first, nil
	}
	return c, nil
}

// chain reads operands with operators of one rank between them.
func (p *parser) chain(operand func() (expr, error), ops ...string) (expr, error) {
	left, err := operand()
	for err == nil && p.peek().kind == tokOp && slices.Contains(ops, p.peek().text) {
		op := p.next().text
		var right expr
		right, err = operand()
		left = &binary{op, left, right}
	}
	return left, err
}

func (p *parser) sum() (expr, error) { return p.chain(p.tilde, "+", "-") }

func (p *parser) tilde() (expr, error) {
	first, err := p.product()
	if err != nil || !p.isOp("~") {
		return first, err
	}
	c := &concat{[]expr{first}}
	for p.takeOp("~") {
		e, err := p.product()
		if err != nil {
			return nil, err
		}
		c.parts = append(c.parts, e)
	}
	return c, nil
}

func (p *parser) product() (expr, error) { return p.chain(p.power, "*", "/", "//", "%") }
func (p *parser) power() (expr, error) {
	return p.chain(func() (expr, error) { return p.unary(true) }, "**")
}

func (p *parser) unary(withFilter bool) (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	var e expr
	var err error
	switch {
	case p.takeOp("-"):
		if e, err = p.unary(false); err == nil {
			e = &unary{"-", e}
		}
	case p.takeOp("+"):
		if e, err = p.unary(false); err == nil {
			e = &unary{"+", e}
		}
	default:
		e, err = p.primary()
	}
	if err == nil {
		e, err = p.postfix(e)
	}
	if err == nil && withFilter {
		e, err = p.filterAndTests(e)
	}
	return e, err
}

func (p *parser) primary() (expr, error) {
	t := p.peek()
	switch t.kind {
	case tokName:
		p.pos++
		return p.nameOrConst(t.text), nil
	case tokString:
		s := ""
		for p.peek().kind == tokString {
			s += p.next().text
		}
		return &literal{s}, nil
	case tokInt:
		p.pos++
		n, ok := new(big.Int).SetString(t.text, 0)
		if !ok {
			return nil, at(t.line, errorf("bad integer %q", t.text))
		}
		return &literal{fromBig(n)}, nil
	case tokFloat:
		p.pos++
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil && !math.IsInf(f, 0) {
			return nil, at(t.line, errorf("bad number %q", t.text))
		}
		return &literal{f}, nil
	}
	switch {
	case p.takeOp("("):
		if p.takeOp(")") {
			return &list{nil, true}, nil
		}
		e, err := p.tuple(true, "")
		if err != nil {
			return nil, err
		}
		return e, p.expectOp(")")
	case p.takeOp("["):
		return p.listLit()
	case p.takeOp("{"):
		return p.dictLit()
	}
	return nil, p.fail("unexpected " + p.describe())
}

func (p *parser) nameOrConst(s string) expr {
	switch s {
	case "true", "True":
		return &literal{true}
	case "false", "False":
		return &literal{false}
	case "none", "None":
		return &literal{nil}
	}
	if p.macro != nil {
		switch s {
		case "varargs":
			p.macro.varargs = true
		case "kwargs":
			p.macro.kwargs = true
		case "caller":
			p.macro.caller = true
		}
	}
	return &name{s}
}

func (p *parser) listLit() (expr, error) {
	l := &list{}
	for !p.takeOp("]") {
		if len(l.items) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
			if p.takeOp("]") {
				break
			}
		}
		e, err := p.expression(true)
		if err != nil {
			return nil, err
		}
		l.items = append(l.items, e)
	}
	return l, nil
}

func (p *parser) dictLit() (expr, error) {
	d := &dictLit{}
	for !p.takeOp("}") {
		if len(d.keys) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
			if p.takeOp("}") {
				break
			}
		}
		k, err := p.expression(true)
		if err != nil {
			return nil, err
		}
		if err := p.expectOp(":"); err != nil {
			return nil, err
		}
		v, err := p.expression(true)
		if err != nil {
			return nil, err
		}
		d.keys, d.values = append(d.keys, k), append(d.values, v)
	}
	return d, nil
}

func (p *parser) postfix(e expr) (expr, error) {
	for {
		var err error
		switch {
		case p.takeOp("."):
			t := p.next()
			switch t.kind {
			case tokName:
				e = &attr{e, t.text}
			case tokInt:
				n, convErr := strconv.ParseInt(t.text, 10, 64)
				if convErr != nil {
					return nil, at(t.line, errorf("bad index %q", t.text))
				}
				e = &index{e, &literal{n}}
			default:
				return nil, at(t.line, errorf("expected a name after the point"))
			}
		case p.takeOp("["):
			e, err = p.subscript(e)
		case p.takeOp("("):
			var args arguments
			args, err = p.arguments()
			e = &call{e, args}
		default:
			return e, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// subscript reads an index or a slice after its bracket.
func (p *parser) subscript(of expr) (expr, error) {
	var parts [3]expr
	n, colons := 0, 0
	for !p.takeOp("]") {
		if p.takeOp(":") {
			if colons++; colons > 2 {
				return nil, p.fail("too many colons")
			}
			n = colons
			continue
		}
		if p.isOp(",") {
			return nil, at(p.peek().line, unsupported("index with a comma"))
		}
		if parts[n] != nil {
			return nil, p.fail("expected ], got " + p.describe())
		}
		e, err := p.expression(true)
		if err != nil {
			return nil, err
		}
		parts[n] = e
	}
	if colons > 0 {
		return &sliced{of, parts[0], parts[1], parts[2]}, nil
	}
	if parts[0] == nil {
		return nil, p.fail("expected an index")
	}
	return &index{of, parts[0]}, nil
}

// arguments reads the arguments of a call after its parenthesis.
func (p *parser) arguments() (arguments, error) {
	var a arguments
	for first := true; !p.takeOp(")"); first = false {
		if !first {
			if err := p.expectOp(","); err != nil {
				return a, err
			}
			if p.takeOp(")") {
				break
			}
		}
		if err := p.argument(&a); err != nil {
			return a, err
		}
	}
	return a, nil
}

func (p *parser) argument(a *arguments) error {
	var err error
	switch {
	case p.takeOp("*"):
		a.star, err = p.expression(true)
		return err
	case p.takeOp("**"):
		a.double, err = p.expression(true)
		return err
	case p.peek().kind == tokName && p.tokens[p.pos+1].kind == tokOp && p.tokens[p.pos+1].text == "=":
		k := keyword{name: p.next().text}
		p.pos++
		k.value, err = p.expression(true)
		a.kw = append(a.kw, k)
		return err
	}
	if len(a.kw) > 0 || a.star != nil || a.double != nil {
		return p.fail("a positional argument after named ones")
	}
	e, err := p.expression(true)
	a.pos = append(a.pos, e)
	return err
}

func (p *parser) filterAndTests(e expr) (expr, error) {
	for {
		var err error
		switch {
		case p.isOp("|"):
			e, err = p.filters(e)
		case p.takeName("is"):
			e, err = p.test(e)
		case p.takeOp("("): // calls are valid both after postfix and after filters
			var args arguments
			args, err = p.arguments()
			e = &call{e, args}
		default:
			return e, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// filters reads |name(args)|name... Without a value (a filter block) the first bar is left out.
func (p *parser) filters(e expr) (expr, error) {
	bare := e == nil && !p.isOp("|")
	for bare || p.takeOp("|") {
		bare = false
		f := &filter{of: e}
		line := p.peek().line
		var err error
		if f.name, err = p.dotted(); err != nil {
			return nil, err
		}
		if filters[f.name] == nil {
			return nil, at(line, unsupported("filter %q", f.name))
		}
		if p.takeOp("(") {
			if f.args, err = p.arguments(); err != nil {
				return nil, err
			}
		}
		e = f
	}
	return e, nil
}

func (p *parser) dotted() (string, error) {
	t, err := p.expect(tokName, "a name")
	s := t.text
	for err == nil && p.takeOp(".") {
		t, err = p.expect(tokName, "a name")
		s += "." + t.text
	}
	return s, err
}

// test reads what follows "is".
func (p *parser) test(e expr) (expr, error) {
	t := &test{of: e, not: p.takeName("not")}
	line := p.peek().line
	var err error
	if t.name, err = p.dotted(); err != nil {
		return nil, err
	}
	if tests[t.name] == nil {
		return nil, at(line, unsupported("test %q", t.name))
	}
	if p.takeOp("(") {
		t.args, err = p.arguments()
		return t, err
	}
	next := p.peek()
	operand := next.kind == tokString || next.kind == tokInt || next.kind == tokFloat || p.isOp("(") || p.isOp("[") || p.isOp("{")
	if next.kind == tokName && !slices.Contains([]string{"else", "or", "and"}, next.text) {
		// Jinja2 takes any other name for an argument; "if", "is", "in" and "not" can't be one here.
		if next.text == "is" {
			return nil, p.fail("a test of a test")
		}
		operand = !slices.Contains([]string{"if", "in", "not", "recursive"}, next.text)
	}
	if operand {
		arg, err := p.primary()
		if err == nil {
			arg, err = p.postfix(arg)
		}
		if err != nil {
			return nil, err
		}
		t.args.pos = []expr{arg}
	}
	return t, nil
}
