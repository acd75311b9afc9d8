package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/pimoe/pimoe/sdk"
)

// normalizer rewrites a stretch of text between added tokens.
type normalizer interface {
	apply(text string) string
}

func parseNormalizer(path string, raw json.RawMessage, depth int) (normalizer, error) {
	f, typ, err := kind(path, raw, depth)
	if err != nil {
		return nil, err
	}
	var n normalizer
	switch typ {
	case "Sequence":
		var seq normSequence
		for i, part := range f.list("normalizers") {
			m, err := parseNormalizer(fmt.Sprintf("%s.normalizers[%d]", path, i), part, depth+1)
			if err != nil {
				return nil, err
			}
			seq = append(seq, m)
		}
		n = seq
	case "NFC":
		n = unicodeForm(norm.NFC)
	case "NFD":
		n = unicodeForm(norm.NFD)
	case "NFKC":
		n = unicodeForm(norm.NFKC)
	case "NFKD":
		n = unicodeForm(norm.NFKD)
	case "Prepend":
		var s string
		f.need("prepend", &s)
		n = prepend(s)
	case "Replace":
		p := parsePattern(f)
		var content string
		f.need("content", &content)
		n = replace{p, content}
	case "Strip":
		n = strip{f.flag("strip_left", true), f.flag("strip_right", true)}
	case "StripAccents":
		n = mapText(stripAccents)
	case "Lowercase":
		n = mapText(lowercase)
	case "ByteLevel":
		n = mapText(toByteAlphabet)
	default:
		return nil, unknown(path, typ)
	}
	return n, f.end()
}

// removesHead reports whether a normalizer may drop the first characters of a text. Whether a piece still counts as
// the start of the text is then not known here, and Metaspace "first" asks for it.
func removesHead(n normalizer) bool {
	switch n := n.(type) {
	case normSequence:
		for _, m := range n {
			if removesHead(m) {
				return true
			}
		}
	case strip:
		return n.left
	case replace:
		return n.content == ""
	}
	return false
}

func normalizePiece(n normalizer, p piece) piece {
	p.text = n.apply(p.text)
	return p
}

type normSequence []normalizer

func (s normSequence) apply(text string) string {
	for _, n := range s {
		text = n.apply(text)
	}
	return text
}

type prepend string

func (p prepend) apply(text string) string {
	if text == "" {
		return ""
	}
	return string(p) + text
}

type replace struct {
	pattern *pattern
	content string
}

func (r replace) apply(text string) string { return r.pattern.replaceAll(text, r.content) }

type strip struct{ left, right bool }

func (s strip) apply(text string) string {
	if s.left {
		text = strings.TrimLeftFunc(text, unicode.IsSpace)
	}
	if s.right {
		text = strings.TrimRightFunc(text, unicode.IsSpace)
	}
	return text
}

type mapText func(string) string

func (m mapText) apply(text string) string { return m(text) }

func stripAccents(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.M, r) {
			return -1
		}
		return r
	}, text)
}

// lowercase maps each character by itself, so that a final sigma stays as it is.
func lowercase(text string) string {
	var b strings.Builder
	b.Grow(len(text))
	for _, r := range text {
		if r == '\u0130' { // the one character whose full lower-case form is two
			b.WriteString("i\u0307")
			continue
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// unicodeForm is NFC, NFD, NFKC or NFKD. The library follows the Stream-Safe Text Format: it puts U+034F into runs of
// more than thirty combining marks. The plain normal forms don't, so such a run goes through the definition instead.
type unicodeForm norm.Form

func (u unicodeForm) apply(text string) string {
	if longMarks(text) {
		return u.slow(text)
	}
	return norm.Form(u).String(text)
}

// longMarks reports whether a run of characters may hold too many marks for the library once it is decomposed. Six is
// enough to ask: a character decomposes to at most four marks or so, and a wrong yes only costs time.
func longMarks(text string) bool {
	run := 0
	for i, r := range text {
		if r < 0x300 || norm.NFKC.PropertiesString(text[i:]).BoundaryBefore() {
			run = 0
			continue
		}
		if run++; run >= 6 {
			return true
		}
	}
	return false
}

// slow is the definition: decompose, sort marks by class, compose.
func (u unicodeForm) slow(text string) string {
	decomposed, compose := norm.NFD, true
	switch norm.Form(u) {
	case norm.NFD:
		compose = false
	case norm.NFKD:
		decomposed, compose = norm.NFKD, false
	case norm.NFKC:
		decomposed = norm.NFKD
	}
	var runes []rune
	var classes []uint8
	for _, r := range text {
		for _, d := range decomposed.String(string(r)) {
			c := norm.NFD.PropertiesString(string(d)).CCC()
			runes, classes = append(runes, d), append(classes, c)
		}
	}
	sortMarks(runes, classes)
	if compose {
		runes = composeMarks(runes, classes)
	}
	return string(runes)
}

// sortMarks orders each run of marks by class and keeps the order of equal ones.
func sortMarks(runes []rune, classes []uint8) {
	for i := 0; i < len(runes); {
		if classes[i] == 0 {
			i++
			continue
		}
		j := i
		var byClass [256][]rune
		for ; j < len(runes) && classes[j] != 0; j++ {
			byClass[classes[j]] = append(byClass[classes[j]], runes[j])
		}
		for c := range byClass {
			for _, r := range byClass[c] {
				runes[i], classes[i] = r, uint8(c)
				i++
			}
		}
	}
}

// composeMarks is the canonical composition algorithm.
func composeMarks(runes []rune, classes []uint8) []rune {
	out := make([]rune, 0, len(runes))
	starter := -1
	last := uint8(0) // class of the last character kept after the starter
	for i, r := range runes {
		c := classes[i]
		if starter >= 0 {
			adjacent := starter == len(out)-1
			if adjacent || last < c && last != 0 {
				if p, ok := composePair(out[starter], r); ok {
					out[starter] = p
					continue
				}
			}
		}
		if c == 0 {
			starter, last = len(out), 0
		} else {
			last = c
		}
		out = append(out, r)
	}
	return out
}

func composePair(a, b rune) (rune, bool) {
	r := []rune(norm.NFC.String(string([]rune{a, b})))
	// Two characters that were composed apart and merely normalized beside each other stay two.
	return r[0], len(r) == 1
}

// parsePattern reads {"String": s} or {"Regex": s} from the key "pattern".
func parsePattern(f *fields) *pattern {
	raw, ok := f.take("pattern")
	if !ok {
		f.fail("pattern is missing: %w", sdk.ErrInvalid)
		return nil
	}
	pf := newFields(f.path+".pattern", raw)
	var s string
	var p *pattern
	if pf.into("String", &s) {
		p = &pattern{literal: s}
	} else {
		pf.need("Regex", &s)
		if pf.err == nil {
			var err error
			if p, err = compilePattern(s); err != nil {
				pf.fail("%w", err)
			}
		}
	}
	if err := pf.end(); err != nil && f.err == nil {
		f.err = err
	}
	return p
}
