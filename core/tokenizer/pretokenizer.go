package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/pimoe/pimoe/sdk"
)

// preTokenizer cuts text into the stretches that the model encodes one by one.
type preTokenizer interface {
	split(pieces []piece) []piece
}

func parsePreTokenizer(path string, raw json.RawMessage, depth int) (preTokenizer, error) {
	f, typ, err := kind(path, raw, depth)
	if err != nil {
		return nil, err
	}
	var p preTokenizer
	switch typ {
	case "Sequence":
		var seq preSequence
		for i, part := range f.list("pretokenizers") {
			q, err := parsePreTokenizer(fmt.Sprintf("%s.pretokenizers[%d]", path, i), part, depth+1)
			if err != nil {
				return nil, err
			}
			seq = append(seq, q)
		}
		p = seq
	case "Split":
		pat := parsePattern(f)
		p = splitter{find: pat.spans, pattern: pat, behavior: parseBehavior(f, "", behaviors...), invert: f.flag("invert", false)}
	case "ByteLevel":
		f.flag("trim_offsets", true) // offsets only
		p = byteLevel{prefix: f.flag("add_prefix_space", true), regex: f.flag("use_regex", true)}
	case "Metaspace":
		p = parseMetaspace(f)
	case "Digits":
		b := contiguous
		if f.flag("individual_digits", false) {
			b = isolated
		}
		p = splitter{find: runesWhere(unicode.IsNumber), behavior: b}
	case "Whitespace":
		p = splitter{find: wordsAndSigns, behavior: removed, invert: true}
	case "WhitespaceSplit":
		p = splitter{find: runesWhere(unicode.IsSpace), behavior: removed}
	case "Punctuation":
		p = splitter{find: runesWhere(isPunctuation), behavior: parseBehavior(f, "Isolated", behaviors...)}
	case "BertPreTokenizer":
		p = preSequence{
			splitter{find: runesWhere(unicode.IsSpace), behavior: removed},
			splitter{find: runesWhere(isPunctuation), behavior: isolated},
		}
	case "CharDelimiterSplit":
		d := f.rune1("delimiter", 0)
		p = splitter{find: runesWhere(func(r rune) bool { return r == d }), behavior: removed}
	default:
		return nil, unknown(path, typ)
	}
	return p, f.end()
}

type preSequence []preTokenizer

func (s preSequence) split(pieces []piece) []piece {
	for _, p := range s {
		pieces = p.split(pieces)
	}
	return pieces
}

// behavior says what becomes of the matches of a splitter.
type behavior string

const (
	isolated           behavior = "Isolated"
	removed            behavior = "Removed"
	mergedWithPrevious behavior = "MergedWithPrevious"
	mergedWithNext     behavior = "MergedWithNext"
	contiguous         behavior = "Contiguous"
)

var behaviors = []string{string(isolated), string(removed), string(mergedWithPrevious), string(mergedWithNext), string(contiguous)}

func parseBehavior(f *fields, def string, values ...string) behavior {
	return behavior(f.oneOf("behavior", def, values...))
}

// splitter cuts at the matches of a pattern or a character class.
type splitter struct {
	find     func(text string) []span
	pattern  *pattern // behind find, if it is one
	behavior behavior
	invert   bool // what lies between matches is the match
}

func (s splitter) split(pieces []piece) []piece {
	var out []piece
	for _, p := range pieces {
		spans := s.find(p.text)
		if s.invert {
			for i := range spans {
				spans[i].match = !spans[i].match
			}
		}
		for _, sp := range s.behavior.cut(spans) {
			if sp.start < sp.end {
				out = append(out, piece{text: p.text[sp.start:sp.end], id: -1, first: p.first && sp.start == 0})
			}
		}
	}
	return out
}

// cut turns matches and gaps into the stretches to keep.
func (b behavior) cut(spans []span) []span {
	out := spans[:0:0]
	switch b {
	case isolated:
		return spans
	case removed:
		for _, s := range spans {
			if !s.match {
				out = append(out, s)
			}
		}
	case contiguous:
		previous := false
		for _, s := range spans {
			if s.match == previous && len(out) > 0 {
				out[len(out)-1].end = s.end
			} else {
				out = append(out, s)
			}
			previous = s.match
		}
	case mergedWithPrevious:
		previous := false
		for _, s := range spans {
			if s.match && !previous && len(out) > 0 {
				out[len(out)-1].end = s.end
			} else {
				out = append(out, s)
			}
			previous = s.match
		}
	case mergedWithNext:
		previous := false
		for _, s := range slices.Backward(spans) {
			if s.match && !previous && len(out) > 0 {
				out[len(out)-1].start = s.start
			} else {
				out = append(out, s)
			}
			previous = s.match
		}
		slices.Reverse(out)
	}
	return out
}

// runesWhere matches each character of a class by itself.
func runesWhere(in func(rune) bool) func(string) []span {
	return func(text string) []span {
		var out []span
		done := 0
		for i, r := range text {
			if in(r) {
				out = appendGap(out, done, i)
				done = i + utf8.RuneLen(r)
				out = append(out, span{i, done, true})
			}
		}
		return appendGap(out, done, len(text))
	}
}

// wordsAndSigns matches \w+|[^\w\s]+.
func wordsAndSigns(text string) []span {
	var out []span
	class := func(r rune) int {
		switch {
		case unicode.IsSpace(r):
			return 0
		case isWord(r):
			return 1
		}
		return 2
	}
	start, last := 0, -1
	flush := func(end int) {
		if start < end {
			out = append(out, span{start, end, last > 0})
		}
		start = end
	}
	for i, r := range text {
		if c := class(r); c != last {
			flush(i)
			last = c
		}
	}
	flush(len(text))
	return out
}

// isPunctuation is the ASCII signs and the punctuation of Unicode.
func isPunctuation(r rune) bool {
	if r < utf8.RuneSelf {
		return r > ' ' && r < 0x7f && !(r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z')
	}
	return unicode.IsPunct(r)
}

// metaspace writes spaces as a visible sign and puts one in front.
type metaspace struct {
	sign   string
	always bool // prepend at every stretch
	first  bool // prepend at the start of the text only
	cut    bool // cut before every sign
}

func parseMetaspace(f *fields) preTokenizer {
	sign, scheme := metaspaceOptions(f)
	return metaspace{sign: sign, always: scheme == "always", first: scheme == "first", cut: f.flag("split", true)}
}

// metaspaceOptions reads what the pre-tokenizer and the decoder share, also as older files write it.
func metaspaceOptions(f *fields) (sign, scheme string) {
	sign = string(f.rune1("replacement", '\u2581'))
	f.str("str_rep", sign) // a copy of replacement in old files
	scheme = f.oneOf("prepend_scheme", "always", "always", "first", "never")
	prefix := true
	if f.into("add_prefix_space", &prefix) && !prefix {
		scheme = "never"
	}
	return sign, scheme
}

func (m metaspace) split(pieces []piece) []piece {
	var out []piece
	for _, p := range pieces {
		text := strings.ReplaceAll(p.text, " ", m.sign)
		if (m.always || m.first && p.first) && !strings.HasPrefix(text, m.sign) {
			text = m.sign + text
		}
		p.text = text
		if !m.cut {
			out = append(out, p)
			continue
		}
		start := 0
		for start < len(text) {
			end := len(text)
			if i := strings.Index(text[start+1:], m.sign); i >= 0 { // the sign may start at start itself
				end = start + 1 + i
			}
			out = append(out, piece{text: text[start:end], id: -1, first: p.first && start == 0})
			start = end
		}
	}
	return out
}

// byteLevel writes each byte of the text as one visible character.
type byteLevel struct {
	prefix bool // put a space in front where there is none
	regex  bool // cut by the expression of GPT-2
}

func (b byteLevel) split(pieces []piece) []piece {
	var out []piece
	for _, p := range pieces {
		if b.prefix && !strings.HasPrefix(p.text, " ") {
			p.text = " " + p.text
		}
		if !b.regex {
			p.text = toByteAlphabet(p.text)
			out = append(out, p)
			continue
		}
		for at := 0; at < len(p.text); {
			end := at + gpt2(p.text[at:])
			out = append(out, piece{text: toByteAlphabet(p.text[at:end]), id: -1, first: p.first && at == 0})
			at = end
		}
	}
	return out
}

// byteChars is the character of each byte: visible Latin-1 characters stand for themselves, the others follow from
// U+0100 on in their order. charBytes is the way back, plus one; 0 is no byte.
var (
	byteChars [256]string
	charBytes [0x180]uint16
)

func init() {
	free := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae) {
			r = free
			free++
		}
		byteChars[b] = string(r)
		charBytes[r] = uint16(b) + 1
	}
}

func toByteAlphabet(text string) string {
	plain := true
	for i := 0; i < len(text) && plain; i++ {
		plain = text[i] > ' ' && text[i] < 0x7f
	}
	if plain {
		return text
	}
	var b strings.Builder
	b.Grow(len(text) + 8)
	for i := 0; i < len(text); i++ {
		b.WriteString(byteChars[text[i]])
	}
	return b.String()
}

// fromByteAlphabet appends the bytes of a token to out. A token that holds any other character stands for itself.
func fromByteAlphabet(token string, out []byte) []byte {
	start := len(out)
	for _, r := range token {
		if int(r) >= len(charBytes) || charBytes[r] == 0 {
			return append(out[:start], token...)
		}
		out = append(out, byte(charBytes[r]-1))
	}
	return out
}

// checkPieces refuses the combinations in which the start of the text is lost.
func checkPieces(n normalizer, p preTokenizer) error {
	if n == nil || !removesHead(n) || !usesFirst(p) {
		return nil
	}
	return fmt.Errorf("pre_tokenizer: Metaspace with prepend_scheme \"first\" after a normalizer that removes text: %w", sdk.ErrUnsupported)
}

func usesFirst(p preTokenizer) bool {
	switch p := p.(type) {
	case preSequence:
		return slices.ContainsFunc(p, usesFirst)
	case metaspace:
		return p.first
	}
	return false
}
