package grammar

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pimoe/pimoe/sdk"
)

// GBNF is a grammar as llama.cpp writes it, with the rule root as its start:
//
//	root  ::= item ("," item)*     # rules; a line that ends inside of parentheses or after | goes on
//	item  ::= [a-z]+ | "0x" [^g-z\x00-\x1f]{1,8} | . ?
//
// Literals and sets know \n \r \t \\ \" \] \[ \xHH \uHHHH \UHHHHHHHH. Repetitions are ? * + {n} {n,} {,m} {n,m}. A rule
// must not begin with itself.
func GBNF(source string) Form {
	return Form{func(b *builder) (*node, error) {
		if len(source) > maxSource || !utf8.ValidString(source) {
			return nil, fmt.Errorf("grammar: not UTF-8 text of at most %d bytes: %w", maxSource, sdk.ErrInvalid)
		}
		p := &gbnf{b: b, src: source, rules: map[string]*node{}, line: 1}
		root, err := p.parse()
		if err != nil {
			return nil, fmt.Errorf("grammar: line %d: %w", p.line, err)
		}
		return root, nil
	}}
}

// gbnf parses a grammar.
type gbnf struct {
	b     *builder
	src   string
	at    int
	line  int
	depth int
	rules map[string]*node // choices; without kids until the rule is read
	names []string
	used  map[string]int // rule to the line that uses it first
}

func (p *gbnf) fail(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), sdk.ErrInvalid)
}

func (p *gbnf) peek() byte {
	if p.at < len(p.src) {
		return p.src[p.at]
	}
	return 0
}

// space skips spaces and comments, and lines if so.
func (p *gbnf) space(lines bool) {
	for p.at < len(p.src) {
		switch c := p.src[p.at]; {
		case c == '#':
			for p.at < len(p.src) && p.src[p.at] != '\n' {
				p.at++
			}
		case c == '\n' && !lines, c != ' ' && c != '\t' && c != '\r' && c != '\n':
			return
		default:
			if c == '\n' {
				p.line++
			}
			p.at++
		}
	}
}

func (p *gbnf) name() string {
	from := p.at
	for p.at < len(p.src) {
		c := p.src[p.at]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			break
		}
		p.at++
	}
	return p.src[from:p.at]
}

// rule is the node of a rule's name.
func (p *gbnf) rule(name string) (*node, error) {
	if n, ok := p.rules[name]; ok {
		return n, nil
	}
	n, err := p.b.add(&node{kind: choice})
	p.rules[name] = n
	p.names = append(p.names, name)
	return n, err
}

func (p *gbnf) parse() (*node, error) {
	p.used = map[string]int{}
	defined := map[string]bool{}
	for p.space(true); p.at < len(p.src); p.space(true) {
		name := p.name()
		if name == "" {
			return nil, p.fail("expected the name of a rule, found %.20q", p.src[p.at:])
		}
		if p.space(false); !strings.HasPrefix(p.src[p.at:], "::=") {
			return nil, p.fail("expected ::= behind %s", name)
		}
		p.at += 3
		if defined[name] {
			return nil, p.fail("the rule %s is there twice", name)
		}
		defined[name] = true
		p.space(true)
		n, err := p.rule(name)
		if err != nil {
			return nil, err
		}
		body, err := p.alternatives(false)
		if err != nil {
			return nil, err
		}
		n.kids = []*node{body}
		if c := p.peek(); c != 0 && c != '\n' {
			return nil, p.fail("expected the end of the rule %s, found %.20q", name, p.src[p.at:])
		}
	}
	if !defined["root"] {
		return nil, p.fail("there is no rule root")
	}
	for _, name := range p.names {
		if !defined[name] {
			p.line = p.used[name]
			return nil, p.fail("there is no rule %s", name)
		}
	}
	return p.rules["root"], p.leftRecursive()
}

// alternatives reads a | b | c.
func (p *gbnf) alternatives(nested bool) (*node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail("nested more than %d deep", maxDepth)
	}
	defer func() { p.depth-- }()
	var kids []*node
	for {
		n, err := p.sequence(nested)
		if err != nil {
			return nil, err
		}
		kids = append(kids, n)
		if p.peek() != '|' {
			return p.b.choice(kids)
		}
		p.at++
		p.space(true)
	}
}

func (p *gbnf) sequence(nested bool) (*node, error) {
	var kids []*node
	for {
		p.space(nested)
		n, err := p.element()
		if err != nil {
			return nil, err
		}
		if n == nil {
			return p.b.seq(kids...)
		}
		if n, err = p.repeated(n); err != nil {
			return nil, err
		}
		kids = append(kids, n)
	}
}

// element reads a literal, a set, a rule or a group; nil if there is none.
func (p *gbnf) element() (*node, error) {
	switch c := p.peek(); {
	case c == '"':
		p.at++
		return p.literal()
	case c == '[':
		p.at++
		return p.set()
	case c == '.':
		p.at++
		d, err := chars(1, 1, false)
		if err != nil {
			return nil, err
		}
		return p.b.terminal(d)
	case c == '(':
		p.at++
		n, err := p.alternatives(true)
		if err != nil {
			return nil, err
		}
		if p.peek() != ')' {
			return nil, p.fail("expected ), found %.20q", p.src[p.at:])
		}
		p.at++
		return n, nil
	}
	if name := p.name(); name != "" {
		if p.used[name] == 0 {
			p.used[name] = p.line
		}
		return p.rule(name)
	}
	return nil, nil
}

// char reads one character or escape of a literal or set.
func (p *gbnf) char() (rune, error) {
	r, n := utf8.DecodeRuneInString(p.src[p.at:])
	if p.at >= len(p.src) || r == '\n' {
		return 0, p.fail("the line ends inside of a literal or set")
	}
	p.at += n
	if r != '\\' {
		return r, nil
	}
	c := p.peek()
	p.at++
	digits := 0
	switch c {
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case '\\', '"', '[', ']', '-', '^':
		return rune(c), nil
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		return 0, p.fail("unknown escape \\%c", c)
	}
	if p.at+digits > len(p.src) {
		return 0, p.fail("an escape is cut off")
	}
	v, err := strconv.ParseUint(p.src[p.at:p.at+digits], 16, 32)
	if err != nil || !utf8.ValidRune(rune(v)) {
		return 0, p.fail("\\%c%s is no character", c, p.src[p.at:p.at+digits])
	}
	p.at += digits
	return rune(v), nil
}

func (p *gbnf) literal() (*node, error) {
	var out strings.Builder
	for p.peek() != '"' {
		r, err := p.char()
		if err != nil {
			return nil, err
		}
		out.WriteRune(r)
	}
	p.at++
	return p.b.word(out.String())
}

// set reads the rest of [...].
func (p *gbnf) set() (*node, error) {
	not := p.peek() == '^'
	if not {
		p.at++
	}
	var ranges [][2]rune
	for p.peek() != ']' {
		lo, err := p.char()
		if err != nil {
			return nil, err
		}
		hi := lo
		if p.peek() == '-' && p.at+1 < len(p.src) && p.src[p.at+1] != ']' {
			p.at++
			if hi, err = p.char(); err != nil {
				return nil, err
			}
		}
		if lo > hi {
			return nil, p.fail("a range runs backwards")
		}
		ranges = append(ranges, [2]rune{lo, hi})
	}
	p.at++
	var expr strings.Builder
	expr.WriteString("[")
	if not {
		expr.WriteString("^")
	}
	for _, r := range ranges {
		fmt.Fprintf(&expr, `\x{%x}-\x{%x}`, r[0], r[1])
	}
	expr.WriteString("]")
	if len(ranges) == 0 {
		return nil, p.fail("a set is empty")
	}
	d, err := compileRegex(expr.String())
	if err != nil {
		return nil, err
	}
	return p.b.terminal(d)
}

// repeated reads the signs of repetition behind an element.
func (p *gbnf) repeated(n *node) (*node, error) {
	for {
		least, most := int32(0), int32(-1)
		switch p.peek() {
		case '?':
			most = 1
		case '*':
		case '+':
			least = 1
		case '{':
			inside, _, ok := strings.Cut(p.src[p.at+1:], "}")
			if !ok {
				return nil, p.fail("a { is not closed")
			}
			var err error
			if least, most, err = p.times(inside); err != nil {
				return nil, err
			}
			p.at += len(inside) + 1
		default:
			return n, nil
		}
		p.at++
		var err error
		if n, err = p.b.add(&node{kind: repeat, kids: []*node{n}, min: least, max: most}); err != nil {
			return nil, err
		}
	}
}

// times reads what is between braces.
func (p *gbnf) times(s string) (least, most int32, err error) {
	number := func(s string, none int32) int32 {
		if s = strings.TrimSpace(s); s == "" {
			return none
		}
		n, e := strconv.ParseUint(s, 10, 20)
		if e != nil {
			err = p.fail("{%.20s} is no repetition", s)
		}
		return int32(n)
	}
	low, high, both := strings.Cut(s, ",")
	if least, most = number(low, 0), -1; !both {
		most = least
	} else {
		most = number(high, -1)
	}
	if err == nil && most >= 0 && most < least {
		err = p.fail("{%.20s} is no repetition", s)
	}
	return least, most, err
}

// leftRecursive refuses rules that can begin with themselves: nothing would end them.
func (p *gbnf) leftRecursive() error {
	empty := map[*node]bool{}
	for changed := true; changed; {
		changed = false
		for _, n := range p.b.nodes {
			if !empty[n] && n.mayBeEmpty(empty) {
				empty[n], changed = true, true
			}
		}
	}
	const open, closed = 1, 2
	seen := map[*node]int{}
	var visit func(n *node) bool
	visit = func(n *node) bool {
		switch seen[n] {
		case open:
			return true
		case closed:
			return false
		}
		seen[n] = open
		for _, k := range n.kids {
			if visit(k) {
				return true
			}
			if n.kind == sequence && !empty[k] {
				break
			}
		}
		seen[n] = closed
		return false
	}
	for _, name := range p.names {
		if visit(p.rules[name]) {
			return p.fail("the rule %s can begin with itself", name)
		}
	}
	return nil
}

// mayBeEmpty reports whether a node can write nothing, as far as is known of its parts.
func (n *node) mayBeEmpty(known map[*node]bool) bool {
	switch n.kind {
	case terminal:
		return !n.dfa.empty() && n.dfa.accept[0]
	case sequence:
		for _, k := range n.kids {
			if !known[k] {
				return false
			}
		}
		return true
	case choice:
		for _, k := range n.kids {
			if known[k] {
				return true
			}
		}
	case repeat:
		return n.min == 0 || known[n.kids[0]]
	}
	return false
}
