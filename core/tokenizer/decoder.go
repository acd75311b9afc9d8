package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/pimoe/pimoe/sdk"
)

// chain is the decoder of a file. Each stage rewrites the list of tokens; the text is what the last one leaves, joined.
type chain struct {
	stages []stage
	join   bool // the file has no decoder: tokens are joined by spaces
}

func (c chain) text(tokens []string) string {
	if c.join {
		return strings.Join(tokens, " ")
	}
	for _, s := range c.stages {
		tokens = s.decode(tokens)
	}
	return strings.Join(tokens, "")
}

// stage is one decoder. It may overwrite the slice it gets.
type stage interface {
	decode(tokens []string) []string
	// stream is the same for tokens that come one by one; after is true where an earlier stage has fused the tokens to
	// one. It is nil where the stage can't work that way.
	stream(after bool) flow
}

func parseDecoder(path string, raw json.RawMessage, depth int) ([]stage, error) {
	f, typ, err := kind(path, raw, depth)
	if err != nil {
		return nil, err
	}
	var s stage
	switch typ {
	case "Sequence":
		var all []stage
		for i, part := range f.list("decoders") {
			more, err := parseDecoder(fmt.Sprintf("%s.decoders[%d]", path, i), part, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
		}
		return all, f.end()
	case "ByteLevel":
		f.flag("add_prefix_space", true)
		f.flag("trim_offsets", true)
		f.flag("use_regex", true)
		s = bytesDecoder{}
	case "ByteFallback":
		s = byteFallback{}
	case "Fuse":
		s = fuse{}
	case "Metaspace":
		sign, scheme := metaspaceOptions(f)
		f.flag("split", true)
		s = metaspaceDecoder{sign, scheme != "never"}
	case "Replace":
		p := parsePattern(f)
		var content string
		f.need("content", &content)
		s = replaceDecoder{p, content}
	case "Strip":
		var d stripDecoder
		d.char = string(f.rune1("content", ' '))
		f.into("start", &d.start)
		f.into("stop", &d.stop)
		if d.start < 0 || d.stop < 0 {
			f.fail("start %d, stop %d: %w", d.start, d.stop, sdk.ErrInvalid)
		}
		s = d
	default:
		return nil, unknown(path, typ)
	}
	return []stage{s}, f.end()
}

// bytesDecoder is the ByteLevel decoder.
type bytesDecoder struct{}

func (bytesDecoder) decode(tokens []string) []string {
	var b []byte
	for _, t := range tokens {
		b = fromByteAlphabet(t, b)
	}
	return []string{lossy(string(b))}
}

// byteFallback turns runs of <0xHH> tokens into text.
type byteFallback struct{}

func (byteFallback) decode(tokens []string) []string {
	var out []string
	var bytes []byte
	flush := func() {
		if len(bytes) > 0 {
			out = append(out, byteRun(bytes))
			bytes = bytes[:0]
		}
	}
	for _, t := range tokens {
		if b, ok := byteToken(t); ok {
			bytes = append(bytes, b)
			continue
		}
		flush()
		out = append(out, t)
	}
	flush()
	return out
}

// byteRun is the text of a run of byte tokens: all of it, or one U+FFFD for each byte if any part is not UTF-8.
func byteRun(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return strings.Repeat("\ufffd", len(b))
}

// byteToken reads <0xHH>.
func byteToken(t string) (byte, bool) {
	if len(t) != 6 || t[:3] != "<0x" || t[5] != '>' {
		return 0, false
	}
	hi, ok1 := hexDigit(t[3])
	lo, ok2 := hexDigit(t[4])
	return hi<<4 | lo, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// fuse makes one token of all.
type fuse struct{}

func (fuse) decode(tokens []string) []string { return []string{strings.Join(tokens, "")} }

// metaspaceDecoder turns signs back into spaces. In the first token it drops them, if one was put in front.
type metaspaceDecoder struct {
	sign     string
	prefixed bool
}

func (m metaspaceDecoder) decode(tokens []string) []string {
	for i, t := range tokens {
		tokens[i] = m.one(t, i == 0)
	}
	return tokens
}

func (m metaspaceDecoder) one(token string, first bool) string {
	if first && m.prefixed {
		return strings.ReplaceAll(token, m.sign, "")
	}
	return strings.ReplaceAll(token, m.sign, " ")
}

// replaceDecoder replaces inside of each token.
type replaceDecoder struct {
	pattern *pattern
	content string
}

func (r replaceDecoder) decode(tokens []string) []string {
	for i, t := range tokens {
		tokens[i] = r.pattern.replaceAll(t, r.content)
	}
	return tokens
}

// stripDecoder takes up to start characters from the front of each token and up to stop from its end.
type stripDecoder struct {
	char        string
	start, stop int
}

func (s stripDecoder) decode(tokens []string) []string {
	for i, t := range tokens {
		for n := 0; n < s.start && strings.HasPrefix(t, s.char); n++ {
			t = t[len(s.char):]
		}
		for n := 0; n < s.stop && strings.HasSuffix(t, s.char); n++ {
			t = t[:len(t)-len(s.char)]
		}
		tokens[i] = t
	}
	return tokens
}

// lossy replaces what is not UTF-8 by U+FFFD: one for each longest start of a character that could have gone on, as
// Unicode recommends (section 3.9) and as Rust and the browsers do. Neither strings.ToValidUTF8 (one for a whole run) nor
// a range loop (one for a byte) does.
func lossy(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 8)
	rest := lossyTo(&b, s)
	if rest != "" {
		b.WriteString("\ufffd")
	}
	return b.String()
}

// lossyTo writes s but for a last character that is cut off, and returns that.
func lossyTo(b *strings.Builder, s string) (rest string) {
	for s != "" {
		r, n := utf8.DecodeRuneInString(s)
		if r != utf8.RuneError || n > 1 {
			b.WriteString(s[:n])
			s = s[n:]
			continue
		}
		n, open := validPrefix(s)
		if open {
			return s
		}
		b.WriteString("\ufffd")
		s = s[n:]
	}
	return ""
}

// validPrefix is the length of the longest start of s that starts some character, at least 1. Open means that s ends
// there, so that more bytes could complete it.
func validPrefix(s string) (n int, open bool) {
	need, lo, hi := 0, byte(0x80), byte(0xbf)
	switch c := s[0]; {
	case c >= 0xc2 && c <= 0xdf:
		need = 1
	case c == 0xe0:
		need, lo = 2, 0xa0
	case c == 0xed:
		need, hi = 2, 0x9f
	case c >= 0xe1 && c <= 0xef:
		need = 2
	case c == 0xf0:
		need, lo = 3, 0x90
	case c == 0xf4:
		need, hi = 3, 0x8f
	case c >= 0xf1 && c <= 0xf3:
		need = 3
	default:
		return 1, false
	}
	for n = 1; n <= need; n++ {
		if n == len(s) {
			return n, true
		}
		if s[n] < lo || s[n] > hi {
			return n, false
		}
		lo, hi = 0x80, 0xbf
	}
	return n, false // not reached: a complete character is no error
}
