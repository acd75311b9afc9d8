package jinja

import (
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEnd tokenKind = iota
	tokData
	tokVarBegin
	tokVarEnd
	tokBlockBegin
	tokBlockEnd
	tokName
	tokString
	tokInt
	tokFloat
	tokOp
)

type token struct {
	kind tokenKind
	text string // the text of data, a name, an operator or a number; the value of a string
	line int
}

// lexer cuts a template into tokens. Its rules for white space around tags are those of Jinja2's lexer with
// trim_blocks and lstrip_blocks.
type lexer struct {
	src       string
	pos       int
	counted   int // place up to which lines are counted
	line      int
	lineStart bool // what came before ended with a line feed
	out       []token
}

// space is \s* as Python has it; it equals isSpace.
const space = `[\s\v\p{Z}\x{85}\x{1c}-\x{1f}]*`

var (
	rawBegin = regexp.MustCompile(`^\{%[-+]?` + space + `raw` + space + `(?:-%\}` + space + `|%\})`)
	rawEnd   = regexp.MustCompile(`\{%([-+]?)` + space + `endraw` + space + `(?:\+%\}|-%\}` + space + `|%\}\n?)`)
	tagBegin = regexp.MustCompile(`\{[%{#]`)
	floatLit = regexp.MustCompile(`^(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?[eE][+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)`)
	intLit   = regexp.MustCompile(`^(?:0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0[xX](?:_?[0-9a-fA-F])+|[1-9](?:_?\d)*|0(?:_?0)*)`)
)

// operators, longest first.
var operators = []string{"//", "**", "==", "!=", "<=", ">=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";"}

func lex(source string) ([]token, error) {
	source = strings.ReplaceAll(strings.ReplaceAll(source, "\r\n", "\n"), "\r", "\n")
	source = strings.TrimSuffix(source, "\n")
	l := &lexer{src: source, line: 1, lineStart: true}
	for l.pos < len(l.src) {
		loc := tagBegin.FindStringIndex(l.src[l.pos:])
		if loc == nil {
			l.add(tokData, l.src[l.pos:])
			break
		}
		if err := l.tag(l.pos + loc[0]); err != nil {
			return nil, at(l.lineAt(l.pos), err)
		}
	}
	l.lineAt(len(l.src))
	l.add(tokEnd, "")
	return l.out, nil
}

func (l *lexer) lineAt(pos int) int {
	if pos > l.counted {
		l.line += strings.Count(l.src[l.counted:pos], "\n")
		l.counted = pos
	}
	return l.line
}

func (l *lexer) add(kind tokenKind, text string) {
	l.out = append(l.out, token{kind, text, l.line})
}

// data gives out the text before a tag that starts at i.
func (l *lexer) data(i int, sign byte, variable bool) {
	text := l.src[l.pos:i]
	switch {
	case sign == '-':
		text = strings.TrimRightFunc(text, isSpace)
	case sign != '+' && !variable:
		start := strings.LastIndexByte(text, '\n') + 1
		if (start > 0 || l.lineStart) && strings.TrimFunc(text[start:], isSpace) == "" {
			text = text[:start]
		}
	}
	if text != "" {
		l.add(tokData, text)
	}
	l.lineAt(i)
}

// tag reads the tag that starts at i, and the text before it.
func (l *lexer) tag(i int) error {
	rest := l.src[i:]
	sign := byte(0)
	if len(rest) > 2 && (rest[2] == '-' || rest[2] == '+') {
		sign = rest[2]
	}
	if raw := rawBegin.FindString(rest); raw != "" {
		l.data(i, sign, false)
		return l.raw(i + len(raw))
	}
	l.data(i, sign, rest[1] == '{')
	l.pos = i + 2
	if sign != 0 {
		l.pos++
	}
	switch rest[1] {
	case '#':
		return l.comment()
	case '{':
		l.add(tokVarBegin, "")
		return l.inside(tokVarEnd)
	default:
		l.add(tokBlockBegin, "")
		return l.inside(tokBlockEnd)
	}
}

func (l *lexer) comment() error {
	j := strings.Index(l.src[l.pos:], "#}")
	if j < 0 {
		return errorf("comment without #}")
	}
	sign := byte(0)
	if j > 0 {
		sign = l.src[l.pos+j-1]
	}
	l.closeTag(l.pos+j+2, sign)
	return nil
}

// closeTag goes on after a block or comment that ends at end.
func (l *lexer) closeTag(end int, sign byte) {
	l.lineStart = false
	switch {
	case sign == '-':
		l.skipSpace(end)
		return
	case sign != '+' && end < len(l.src) && l.src[end] == '\n':
		end++
		l.lineStart = true
	}
	l.pos = end
	l.lineAt(end)
}

// skipSpace goes on after the white space at end.
func (l *lexer) skipSpace(end int) {
	n := len(l.src) - len(strings.TrimLeftFunc(l.src[end:], isSpace))
	l.lineStart = n > end && l.src[n-1] == '\n'
	l.pos = n
	l.lineAt(n)
}

func (l *lexer) raw(start int) error {
	l.pos = start
	l.lineStart = l.src[start-1] == '\n'
	loc := rawEnd.FindStringSubmatchIndex(l.src[start:])
	if loc == nil {
		if start == len(l.src) { // Jinja2 lets that pass
			return nil
		}
		return errorf("raw without endraw")
	}
	sign := byte(0)
	if loc[2] < loc[3] {
		sign = l.src[start+loc[2]]
	}
	l.data(start+loc[0], sign, false)
	l.pos = start + loc[1]
	l.lineStart = l.src[l.pos-1] == '\n'
	l.lineAt(l.pos)
	return nil
}

// inside reads the tokens of a tag up to its end.
func (l *lexer) inside(end tokenKind) error {
	var open []byte
	for {
		rest := strings.TrimLeftFunc(l.src[l.pos:], isSpace)
		l.pos = len(l.src) - len(rest)
		l.lineAt(l.pos)
		if rest == "" {
			return errorf("a tag is not closed")
		}
		if len(open) == 0 && l.end(rest, end) {
			return nil
		}
		n, err := l.item(rest)
		if err != nil {
			return err
		}
		if t := l.out[len(l.out)-1]; t.kind == tokOp {
			if open, err = balance(open, t.text[0]); err != nil {
				return err
			}
		}
		l.pos += n
	}
}

// end reads the end of a tag, if it is there.
func (l *lexer) end(rest string, kind tokenKind) bool {
	closing := "%}"
	if kind == tokVarEnd {
		closing = "}}"
	}
	sign := byte(0)
	if rest[0] == '-' || rest[0] == '+' && kind == tokBlockEnd {
		sign, rest = rest[0], rest[1:]
	}
	if !strings.HasPrefix(rest, closing) {
		return false
	}
	l.add(kind, "")
	after := len(l.src) - len(rest) + 2
	if kind == tokBlockEnd {
		l.closeTag(after, sign)
		return true
	}
	l.pos, l.lineStart = after, false
	if sign == '-' {
		l.skipSpace(after)
	}
	return true
}

func balance(open []byte, c byte) ([]byte, error) {
	switch c {
	case '(', '[', '{':
		return append(open, c), nil
	case ')', ']', '}':
		want := map[byte]byte{')': '(', ']': '[', '}': '{'}[c]
		if len(open) == 0 || open[len(open)-1] != want {
			return nil, errorf("unexpected %c", c)
		}
		return open[:len(open)-1], nil
	}
	return open, nil
}

// item reads one token and returns its length.
func (l *lexer) item(rest string) (int, error) {
	c := rest[0]
	switch {
	case c >= '0' && c <= '9':
		if f := floatLit.FindString(rest); f != "" && (l.pos == 0 || l.src[l.pos-1] != '.') {
			l.add(tokFloat, strings.ReplaceAll(f, "_", ""))
			return len(f), nil
		}
		i := intLit.FindString(rest)
		l.add(tokInt, strings.ReplaceAll(i, "_", ""))
		return len(i), nil
	case c == '\'' || c == '"':
		return l.quoted(rest)
	}
	n := 0
	for n < len(rest) {
		r, size := utf8.DecodeRuneInString(rest[n:])
		if r != '_' && !unicode.IsLetter(r) && (n == 0 || !unicode.In(r, unicode.M, unicode.Nd, unicode.Pc)) {
			break
		}
		n += size
	}
	if n > 0 {
		l.add(tokName, rest[:n])
		return n, nil
	}
	for _, op := range operators {
		if strings.HasPrefix(rest, op) {
			l.add(tokOp, op)
			return len(op), nil
		}
	}
	r, _ := utf8.DecodeRuneInString(rest)
	return 0, errorf("unexpected %q", r)
}

// quoted reads a string literal.
func (l *lexer) quoted(rest string) (int, error) {
	for i := 1; i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			i++
		case rest[0]:
			s, err := unescape(rest[1:i])
			if err != nil {
				return 0, err
			}
			l.add(tokString, s)
			return i + 1, nil
		}
	}
	return 0, errorf("a string is not closed")
}

var escapes = map[byte]string{'n': "\n", 't': "\t", 'r': "\r", '\\': "\\", '\'': "'", '"': "\"", 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v", '\n': ""}

// unescape resolves Python's escapes. Unknown ones stay as they are.
func unescape(s string) (string, error) {
	if !strings.Contains(s, "\\") {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if e, ok := escapes[s[i]]; ok {
			b.WriteString(e)
			continue
		}
		digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[i]]
		switch {
		case digits > 0:
			if i+digits >= len(s) {
				return "", errorf(`truncated \%c escape`, s[i])
			}
			v, err := strconv.ParseUint(s[i+1:i+1+digits], 16, 32)
			if err != nil || v > unicode.MaxRune {
				return "", errorf(`bad \%c escape`, s[i])
			}
			b.WriteRune(rune(v))
			i += digits
		case s[i] >= '0' && s[i] <= '7':
			v, n := 0, 0
			for n < 3 && i+n < len(s) && s[i+n] >= '0' && s[i+n] <= '7' {
				v = v*8 + int(s[i+n]-'0')
				n++
			}
			b.WriteRune(rune(v))
			i += n - 1
		case s[i] == 'N':
			return "", unsupported(`escape \N`)
		default:
			b.WriteByte('\\')
			b.WriteByte(s[i])
		}
	}
	return b.String(), nil
}

// isSpace is str.isspace of Python: Unicode's white space and the four information separators.
func isSpace(r rune) bool {
	return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f
}
