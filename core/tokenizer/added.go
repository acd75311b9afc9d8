package tokenizer

import (
	"encoding/json"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/pimoe/pimoe/sdk"
)

// addedToken is an entry of added_tokens.
type addedToken struct {
	content        string
	id             int32
	special        bool
	normalized     bool // found in the normalized text instead of the raw one
	lstrip, rstrip bool // takes the white space beside it
	singleWord     bool // only where no word character touches it
}

func parseAdded(list []json.RawMessage) ([]addedToken, error) {
	out := make([]addedToken, 0, len(list))
	for i, raw := range list {
		f := newFields(fmt.Sprintf("added_tokens[%d]", i), raw)
		var a addedToken
		f.need("id", &a.id)
		f.need("content", &a.content)
		a.singleWord = f.flag("single_word", false)
		a.lstrip = f.flag("lstrip", false)
		a.rstrip = f.flag("rstrip", false)
		a.special = f.flag("special", false)
		a.normalized = f.flag("normalized", !a.special)
		if f.err == nil && a.content == "" {
			f.fail("content is empty: %w", sdk.ErrInvalid)
		}
		if err := f.end(); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// addedVocab finds added tokens in a text.
type addedVocab struct {
	raw        *matcher // tokens with normalized false, found in the text as it came
	normalized *matcher // the others, found after the normalizer
	special    map[string]bool
	shown      map[int32]string // tokens that the normalizer changes: text shows the changed form
}

func newAddedVocab(tokens []addedToken, norm normalizer) (*addedVocab, error) {
	v := &addedVocab{raw: newMatcher(), normalized: newMatcher(), special: map[string]bool{}, shown: map[int32]string{}}
	// Special tokens first: where two patterns are equal, the first wins.
	for _, special := range []bool{true, false} {
		for _, a := range tokens {
			if a.special != special {
				continue
			}
			if special {
				v.special[a.content] = true
			}
			if !a.normalized {
				v.raw.add(a.content, a)
				continue
			}
			pattern := a.content
			if norm != nil {
				pattern = norm.apply(pattern)
			}
			if pattern == "" {
				return nil, fmt.Errorf("added_tokens: the normalizer leaves nothing of %q: %w", a.content, sdk.ErrUnsupported)
			}
			v.normalized.add(pattern, a)
			if pattern != a.content {
				v.shown[a.id] = pattern
			}
		}
	}
	return v, nil
}

// piece is a part of the text on its way to ids.
type piece struct {
	text  string
	id    int32 // of an added token, or -1 for text that the model still has to encode
	first bool  // it starts where the whole text starts
}

// cut takes the added tokens out of a text and normalizes the rest.
func (v *addedVocab) cut(text string, norm normalizer) []piece {
	var out []piece
	for _, p := range v.raw.split(piece{text: text, id: -1, first: true}, nil) {
		if p.id >= 0 {
			out = append(out, p)
			continue
		}
		if norm != nil {
			p = normalizePiece(norm, p)
		}
		out = v.normalized.split(p, out)
	}
	return out
}

// matcher finds the longest pattern at each place of a text, from the left. It is a trie over bytes: patterns are few
// and short, and almost every place fails at the first byte.
type matcher struct {
	nodes  []trieNode
	tokens []addedToken
	start  [256]bool // first bytes of the patterns
}

type trieNode struct {
	next  map[byte]int32
	token int32 // index into tokens, or -1
}

func newMatcher() *matcher {
	return &matcher{nodes: []trieNode{{token: -1}}}
}

func (m *matcher) add(pattern string, a addedToken) {
	m.start[pattern[0]] = true
	at := int32(0)
	for i := 0; i < len(pattern); i++ {
		n, ok := m.nodes[at].next[pattern[i]]
		if !ok {
			n = int32(len(m.nodes))
			m.nodes = append(m.nodes, trieNode{token: -1})
			if m.nodes[at].next == nil {
				m.nodes[at].next = map[byte]int32{}
			}
			m.nodes[at].next[pattern[i]] = n
		}
		at = n
	}
	if m.nodes[at].token < 0 {
		m.nodes[at].token = int32(len(m.tokens))
		m.tokens = append(m.tokens, a)
	}
}

// longest is the token and length of the longest pattern at the start of text.
func (m *matcher) longest(text string) (token, size int) {
	token = -1
	at := int32(0)
	for i := 0; i < len(text); i++ {
		n, ok := m.nodes[at].next[text[i]]
		if !ok {
			break
		}
		at = n
		if t := m.nodes[at].token; t >= 0 {
			token, size = int(t), i+1
		}
	}
	return token, size
}

// split cuts a piece at the patterns and appends the parts to out. Empty parts are left out.
func (m *matcher) split(p piece, out []piece) []piece {
	text, done := p.text, 0
	emit := func(start, end int, id int32) {
		if start < end {
			out = append(out, piece{text: text[start:end], id: id, first: p.first && start == 0})
		}
	}
	for at := 0; at < len(text); {
		if !m.start[text[at]] {
			at++
			continue
		}
		token, size := m.longest(text[at:])
		if token < 0 {
			at++
			continue
		}
		a := m.tokens[token]
		start, end := at, at+size
		at = end
		if a.singleWord && (endsWithWord(text[:start]) || startsWithWord(text[end:])) {
			continue
		}
		if a.lstrip {
			start -= trailingSpace(text[:start])
		}
		start = max(start, done)
		if a.rstrip {
			end += leadingSpace(text[end:])
		}
		emit(done, start, -1)
		emit(start, end, a.id)
		done = max(done, end)
	}
	emit(done, len(text), -1)
	return out
}

func endsWithWord(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

func startsWithWord(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}

// trailingSpace is the length in bytes of the white space that s ends with.
func trailingSpace(s string) int {
	n := len(s)
	for n > 0 {
		r, size := utf8.DecodeLastRuneInString(s[:n])
		if !unicode.IsSpace(r) {
			break
		}
		n -= size
	}
	return len(s) - n
}

// leadingSpace is the length in bytes of the white space that s starts with.
func leadingSpace(s string) int {
	n := 0
	for n < len(s) {
		r, size := utf8.DecodeRuneInString(s[n:])
		if !unicode.IsSpace(r) {
			break
		}
		n += size
	}
	return n
}

// isWord is \w as Unicode recommends: alphabetic, mark, decimal digit, connector punctuation, join control.
func isWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic, unicode.Join_Control)
}
