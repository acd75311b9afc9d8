package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// Writes is what a token adds to a text, behind other tokens and at its very beginning, where some decoders drop a space.
// It may be a part of a character. It is nil for ids without a token and for special tokens, which add nothing.
func (t *Tokenizer) Writes(id int32) (behind, first []byte) {
	tok, ok := t.shown(id, true)
	if !ok {
		return nil, nil
	}
	if len(t.dec.stages) == 1 {
		if _, plain := t.dec.stages[0].(bytesDecoder); plain {
			b := fromByteAlphabet(tok, nil)
			return b, b
		}
	}
	for _, s := range t.dec.stages {
		if _, falls := s.(byteFallback); falls {
			if b, ok := byteToken(tok); ok {
				return []byte{b}, []byte{b}
			}
		}
	}
	const marker = "a"
	alone := t.dec.text([]string{tok})
	shown, ok := strings.CutPrefix(t.dec.text([]string{marker, tok}), t.dec.text([]string{marker}))
	if !ok || strings.ContainsRune(shown, utf8.RuneError) {
		return nil, nil
	}
	return []byte(shown), []byte(alone)
}
