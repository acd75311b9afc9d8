package tokenizer

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
	"golang.org/x/text/cases"

	"github.com/pimoe/pimoe/sdk"
)

// matchTime bounds the search for one match. The expressions of tokenizers need microseconds; one that takes seconds
// is running away on a text made for it. The rest of that text then counts as one unmatched stretch.
const matchTime = 5 * time.Second

// span is a part of a text, by bytes, that either matched a pattern or lies between matches.
type span struct {
	start, end int
	match      bool
}

// pattern is a literal string or a regular expression in the syntax of Oniguruma, the library behind tokenizer.json.
type pattern struct {
	literal string
	re      *regexp2.Regexp
	scan    scanner // replaces re for the expressions that it is known to equal
}

// compilePattern translates an expression. The expressions of the known families get a scanner of their own.
func compilePattern(expr string) (*pattern, error) {
	source, err := translate(expr)
	if err != nil {
		return nil, err
	}
	re, err := regexp2.Compile(source, regexp2.None)
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %v: %w", clip(expr), err, sdk.ErrUnsupported)
	}
	re.MatchTimeout = matchTime
	return &pattern{re: re, scan: scanners[expr]}, nil
}

// spans covers the whole text, in order.
func (p *pattern) spans(text string) []span {
	switch {
	case p.scan != nil:
		return p.scan.spans(text)
	case p.re != nil:
		return p.regexSpans(text)
	}
	if p.literal == "" || text == "" {
		return []span{{0, len(text), false}}
	}
	var out []span
	done := 0
	for {
		i := strings.Index(text[done:], p.literal)
		if i < 0 {
			break
		}
		out = appendGap(out, done, done+i)
		out = append(out, span{done + i, done + i + len(p.literal), true})
		done += i + len(p.literal)
	}
	return appendGap(out, done, len(text))
}

func (p *pattern) regexSpans(text string) []span {
	runes := []rune(text)
	var out []span
	done, at, atRune := 0, 0, 0 // bytes given out; the same place counted in bytes and in characters
	to := func(r int) int {
		for ; atRune < r; atRune++ {
			at += utf8.RuneLen(runes[atRune])
		}
		return at
	}
	m, err := p.re.FindRunesMatch(runes)
	for err == nil && m != nil {
		start := to(m.Index)
		end := to(m.Index + m.Length)
		// Like the reference, take no empty match right after another match.
		if start < end || len(out) == 0 || start > done || !out[len(out)-1].match {
			out = appendGap(out, done, start)
			out = append(out, span{start, end, true})
			done = end
		}
		m, err = p.re.FindNextMatch(m)
	}
	return appendGap(out, done, len(text))
}

func appendGap(out []span, start, end int) []span {
	if start < end {
		out = append(out, span{start, end, false})
	}
	return out
}

// replaceAll puts content, taken literally, in place of every match.
func (p *pattern) replaceAll(text, content string) string {
	if p.re == nil {
		if p.literal == "" {
			return text
		}
		return strings.ReplaceAll(text, p.literal, content)
	}
	var b strings.Builder
	for _, s := range p.spans(text) {
		if s.match {
			b.WriteString(content)
		} else {
			b.WriteString(text[s.start:s.end])
		}
	}
	return b.String()
}

// translate rewrites an Oniguruma expression for regexp2, whose syntax is .NET's: case-insensitive groups become
// classes of all case forms (Oniguruma folds by Unicode: 's also matches its long s), possessive quantifiers become
// atomic groups, \h and \w get their Unicode meaning. Constructs that mean something else over there, or that this
// function does not know, are refused.
func translate(expr string) (string, error) {
	t := &translator{in: []rune(expr), expr: expr}
	t.alternatives(false, 0)
	if t.err == nil && t.pos < len(t.in) {
		t.fail("unbalanced )")
	}
	return string(t.out), t.err
}

type translator struct {
	in   []rune
	expr string
	pos  int
	out  []byte
	err  error
}

func (t *translator) fail(what string) {
	if t.err == nil {
		t.err = fmt.Errorf("regular expression %q: %s: %w", clip(t.expr), what, sdk.ErrUnsupported)
	}
}

func (t *translator) write(s string) { t.out = append(t.out, s...) }

func (t *translator) peek() rune {
	if t.pos < len(t.in) {
		return t.in[t.pos]
	}
	return -1
}

func (t *translator) next() rune {
	r := t.peek()
	if r < 0 {
		t.fail("ends too early")
		return r
	}
	t.pos++
	return r
}

// alternatives reads up to a closing parenthesis or the end.
func (t *translator) alternatives(fold bool, depth int) {
	if depth > 50 {
		t.fail("nested too deeply")
	}
	for t.err == nil {
		switch t.peek() {
		case -1, ')':
			return
		case '|':
			t.pos++
			t.write("|")
		default:
			t.quantified(fold, depth)
		}
	}
}

// quantified reads one atom and what repeats it.
func (t *translator) quantified(fold bool, depth int) {
	start := len(t.out)
	t.atom(fold, depth)
	atom := t.cut(start)
	q := t.quantifier()
	switch {
	case q == "":
		t.write(atom)
	case t.peek() == '?':
		t.pos++
		t.write(atom + q + "?")
	case t.peek() == '+':
		t.pos++
		if q[0] == '{' { // not possessive in Oniguruma, but one more quantifier
			t.write("(?:" + atom + q + ")+")
		} else {
			t.write("(?>" + atom + q + ")")
		}
	default:
		t.write(atom + q)
	}
	if q != "" && strings.ContainsRune("*+?{", t.peek()) {
		t.fail("quantifier on a quantifier")
	}
}

// cut takes back what was written from start on.
func (t *translator) cut(start int) string {
	s := string(t.out[start:])
	t.out = t.out[:start]
	return s
}

func (t *translator) quantifier() string {
	switch r := t.peek(); r {
	case '*', '+', '?':
		t.pos++
		return string(r)
	case '{':
		end := t.pos
		for end < len(t.in) && t.in[end] != '}' {
			end++
		}
		if end == len(t.in) {
			t.fail("{ without }")
			return ""
		}
		q := string(t.in[t.pos : end+1])
		if !intervalOK(q) {
			t.fail("interval " + q)
			return ""
		}
		t.pos = end + 1
		if strings.HasPrefix(q, "{,") { // Oniguruma: from zero
			q = "{0" + q[1:]
		}
		return q
	}
	return ""
}

func intervalOK(q string) bool {
	body := q[1 : len(q)-1]
	lo, hi, comma := strings.Cut(body, ",")
	for _, part := range []string{lo, hi} {
		if len(part) > 4 || strings.Trim(part, "0123456789") != "" {
			return false
		}
	}
	return lo != "" || comma && hi != ""
}

func (t *translator) atom(fold bool, depth int) {
	switch r := t.next(); r {
	case '(':
		t.group(fold, depth)
	case '[':
		t.class(fold)
	case '\\':
		t.escape(fold)
	case '.', '^', '$':
		// In Ruby's syntax . stops at line feeds only, and ^ and $ are always lines; regexp2 needs its options for it.
		switch r {
		case '.':
			t.write(`[^\n]`)
		case '^':
			t.write(`(?m:^)`)
		case '$':
			t.write(`(?m:$)`)
		}
	case '*', '+', '?':
		t.fail("quantifier on nothing")
	default:
		t.literal(r, fold)
		// Without regard to case Oniguruma lets ss match a sharp s and fi a ligature.
		if fold && ligature(r, t.peek()) {
			t.fail("letters that fold to one")
		}
	}
}

func ligature(a, b rune) bool {
	switch string([]rune{unicode.ToLower(a), unicode.ToLower(b)}) {
	case "ss", "st", "ff", "fi", "fl":
		return true
	}
	return a >= 0x80 && len([]rune(cases.Fold().String(string(a)))) > 1
}

func (t *translator) group(fold bool, depth int) {
	open := "("
	if t.peek() == '?' {
		t.pos++
		switch r := t.next(); r {
		case ':', '=', '!', '>':
			open = "(?" + string(r)
		case '<':
			switch s := t.next(); s {
			case '=', '!':
				open = "(?<" + string(s)
			default:
				t.fail("named group")
				return
			}
		case 'i':
			if t.next() != ':' {
				t.fail("option without a group")
				return
			}
			open, fold = "(?:", true
		default:
			t.fail("group (?" + string(r))
			return
		}
	}
	t.write(open)
	t.alternatives(fold, depth+1)
	if t.err == nil && t.next() == ')' {
		t.write(")")
	}
}

// literal writes one character, with all its case forms if fold is set.
func (t *translator) literal(r rune, fold bool) {
	if !fold || unicode.SimpleFold(r) == r {
		t.write(quote(r))
		return
	}
	t.write("[")
	for _, c := range orbit(r) {
		t.write(quote(c))
	}
	t.write("]")
}

// orbit is a character and all that differ from it in case only.
func orbit(r rune) []rune {
	out := []rune{r}
	for c := unicode.SimpleFold(r); c != r; c = unicode.SimpleFold(c) {
		out = append(out, c)
	}
	return out
}

// quote writes a character so that it means itself inside and outside of a class.
func quote(r rune) string {
	if r > 0xffff {
		return string(r)
	}
	if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9') {
		return string(r)
	}
	return fmt.Sprintf(`\u%04X`, r)
}

// wordClass is the inside of a class that equals Oniguruma's \w. Unlike isWord it has all numbers and no joiners.
const wordClass = `\p{L}\p{M}\p{N}\p{Pc}\p{Other_Alphabetic}`

// escape reads what follows a backslash outside of a class.
func (t *translator) escape(fold bool) {
	if r, ok := t.char(); ok {
		t.literal(r, fold)
		return
	}
	switch r := t.next(); r {
	case 's', 'S', 'd', 'D':
		t.write(`\` + string(r))
	case 'w':
		t.write("[" + wordClass + "]")
	case 'W':
		t.write("[^" + wordClass + "]")
	case 'h':
		t.write("[0-9a-fA-F]")
	case 'p', 'P':
		t.property(r)
	case 'A':
		t.write(`\A`)
	case 'z':
		t.write(`\z`)
	default:
		t.fail(`escape \` + string(r))
	}
}

// char reads an escape that stands for one character; the backslash is behind us. It reads nothing if it is another.
func (t *translator) char() (rune, bool) {
	r := t.peek()
	switch r {
	case 'n':
		r = '\n'
	case 'r':
		r = '\r'
	case 't':
		r = '\t'
	case 'f':
		r = '\f'
	case 'v':
		r = '\v'
	case 'x', 'u':
		return t.hex(r)
	default:
		if r < 0 || r >= 0x80 || unicode.IsLetter(r) || unicode.IsDigit(r) {
			return 0, false
		}
	}
	t.pos++
	return r, true
}

// hex reads \xHH, \x{H...} or \uHHHH from the letter on.
func (t *translator) hex(letter rune) (rune, bool) {
	digits := 2
	if letter == 'u' {
		digits = 4
	}
	i := t.pos + 1
	end := i + digits
	braced := letter == 'x' && i < len(t.in) && t.in[i] == '{'
	if braced {
		i++
		for end = i; end < len(t.in) && t.in[end] != '}'; end++ {
		}
	}
	if end > len(t.in) || end == i || end-i > 8 {
		t.fail(`escape \` + string(letter))
		return 0, true
	}
	v := rune(0)
	for _, c := range t.in[i:end] {
		d := strings.IndexRune("0123456789abcdef", unicode.ToLower(c))
		if d < 0 {
			t.fail(`escape \` + string(letter))
			return 0, true
		}
		v = v<<4 | rune(d)
	}
	if !utf8.ValidRune(v) || letter == 'x' && !braced && v >= 0x80 { // \xHH above 7F is a byte in Oniguruma
		t.fail(`escape \` + string(letter))
		return 0, true
	}
	t.pos = end
	if braced {
		t.pos++
	}
	return v, true
}

// property reads {Name} after \p or \P. Names that regexp2 lacks fail when it compiles.
func (t *translator) property(letter rune) {
	if t.next() != '{' {
		t.fail(`\p without {`)
		return
	}
	start := t.pos
	for t.peek() >= 0 && t.peek() != '}' {
		t.pos++
	}
	name := string(t.in[start:t.pos])
	t.next()
	if strings.HasPrefix(name, "^") {
		name = name[1:]
		if letter == 'p' {
			letter = 'P'
		} else {
			letter = 'p'
		}
	}
	t.write(`\` + string(letter) + "{" + name + "}")
}

// class reads a character class after its opening bracket.
func (t *translator) class(fold bool) {
	var b strings.Builder
	b.WriteByte('[')
	if t.peek() == '^' {
		t.pos++
		b.WriteByte('^')
	}
	inner := false // inside of a class in the class, which adds its members
	for first := true; t.err == nil; first = false {
		r := t.next()
		switch {
		case r == ']' && inner:
			inner = false
		case r == ']' && !first:
			b.WriteByte(']')
			t.write(b.String())
			return
		case r == '[' && !inner && t.peek() != '^' && t.peek() != ':' && t.peek() != ']':
			inner = true
		case r == '[' || r == '&' && t.peek() == '&':
			t.fail("class inside a class")
		case r == '\\':
			c, ok := t.char()
			if !ok {
				b.WriteString(t.classEscape())
				continue
			}
			t.member(&b, c, fold)
		default:
			t.member(&b, r, fold)
		}
	}
}

func (t *translator) classEscape() string {
	switch r := t.next(); r {
	case 's', 'S', 'd', 'D':
		return `\` + string(r)
	case 'w':
		return wordClass
	case 'h':
		return "0-9a-fA-F"
	case 'p', 'P':
		start := len(t.out)
		t.property(r)
		return t.cut(start)
	default:
		t.fail(`escape \` + string(r) + " in a class")
		return ""
	}
}

// member writes a character or the range that it starts.
func (t *translator) member(b *strings.Builder, lo rune, fold bool) {
	hi := lo
	if t.peek() == '-' && t.pos+1 < len(t.in) && t.in[t.pos+1] != ']' {
		t.pos++
		hi = t.next()
		if hi == '[' {
			t.fail("class inside a class")
		}
		if hi == '\\' {
			c, ok := t.char()
			if !ok {
				t.fail("range to a class")
			}
			hi = c
		}
	}
	if hi < lo {
		t.fail("range backwards")
		return
	}
	if !fold {
		b.WriteString(quote(lo))
		if hi > lo {
			b.WriteString("-" + quote(hi))
		}
		return
	}
	if hi-lo > 0x200 {
		t.fail("large range without regard to case")
		return
	}
	for c := lo; c <= hi; c++ {
		for _, o := range orbit(c) {
			b.WriteString(quote(o))
		}
	}
}

// clip shortens a string for an error message.
func clip(s string) string {
	if len(s) > 120 {
		return strings.ToValidUTF8(s[:120], "") + "..."
	}
	return s
}
