package server

import (
	"math"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/server/openai"
)

// tokenOf is a generated token with its log-probabilities.
func (s *Server) tokenOf(t engine.Token, offset int) openai.Token {
	out := openai.Token{Bytes: bytesOf(s.service.text, t.ID), Logprob: t.Logprob, Offset: offset, Top: []openai.Token{}}
	for _, alt := range t.Top {
		out.Top = append(out.Top, openai.Token{Bytes: bytesOf(s.service.text, alt.ID), Logprob: alt.Logprob})
	}
	return out
}

// bytesOf is what a token adds to a text: its decoded text behind another token, since some decoders drop the space at
// the very beginning, or its bytes where these are only a part of a character.
func bytesOf(t textAPI, id int32) []byte {
	alone := t.Decode([]int32{id}, false)
	token, _ := t.Token(id)
	if strings.ContainsRune(alone, utf8.RuneError) {
		if b, ok := rawBytes(token); ok {
			return b
		}
	}
	const marker = "a"
	before := t.Encode(marker, false)
	if shown, ok := strings.CutPrefix(t.Decode(append(before, id), false), t.Decode(before, false)); ok && !strings.ContainsRune(shown, utf8.RuneError) {
		return []byte(shown)
	}
	return []byte(alone)
}

// rawBytes reads a token as vocabularies write bytes: <0xE2>, or one printable character for each byte (GPT-2's
// bytes_to_unicode).
func rawBytes(token string) ([]byte, bool) {
	if hex, ok := strings.CutPrefix(token, "<0x"); ok && len(hex) == 3 && hex[2] == '>' {
		b, err := strconv.ParseUint(hex[:2], 16, 8)
		return []byte{byte(b)}, err == nil
	}
	table := byteOfRune()
	var out []byte
	for _, r := range token {
		b, ok := table[r]
		if !ok {
			return nil, false
		}
		out = append(out, b)
	}
	return out, len(out) > 0
}

// byteOfRune is GPT-2's table: printable bytes of Latin-1 stand for themselves, the others for U+0100 and on.
var byteOfRune = sync.OnceValue(func() map[rune]byte {
	table := make(map[rune]byte, 256)
	next := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if b < '!' || b > '~' && b < 0xa1 || b == 0xad {
			r = next
			next++
		}
		table[r] = byte(b)
	}
	return table
})

// echo is the prompt as the first part of an answer, with the log-probabilities of its tokens if wanted.
type echo struct {
	prompt   prompt
	logprobs int // alternatives for each token; -1 = none wanted

	mu    sync.Mutex // guards all below; the engine's loop fills, the reader of the stream takes
	seen  []openai.Token
	tops  [][]sampler.TopLogprob
	taken bool
}

func newEcho(p prompt, logprobs int) *echo { return &echo{prompt: p, logprobs: logprobs} }

// observer sees the logits of the prompt's positions: those of one position judge the token of the next.
func (e *echo) observer() *engine.Observer {
	e.seen = make([]openai.Token, len(e.prompt.ids))
	e.tops = make([][]sampler.TopLogprob, len(e.prompt.ids))
	e.seen[0].Logprob = float32(math.NaN())
	return &engine.Observer{Logits: func(position int, logits []float32) {
		next := position + 1
		if next >= len(e.prompt.ids) {
			return
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.taken {
			return
		}
		e.seen[next].Logprob = sampler.Logprob(logits, e.prompt.ids[next])
		e.tops[next] = sampler.TopLogprobs(logits, e.logprobs)
	}}
}

// take returns the text to echo and its tokens. It is called once, when the first token is there.
func (e *echo) take(t textAPI) (string, []openai.Token) {
	if e.logprobs < 0 {
		return e.prompt.text, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.taken = true
	offset := 0
	for i, id := range e.prompt.ids {
		tok := &e.seen[i]
		tok.Bytes, tok.Offset, tok.Top = bytesOf(t, id), offset, []openai.Token{}
		for _, alt := range e.tops[i] {
			tok.Top = append(tok.Top, openai.Token{Bytes: bytesOf(t, alt.ID), Logprob: alt.Logprob})
		}
		if i >= e.prompt.lead {
			offset += utf8.RuneCount(tok.Bytes)
		}
	}
	return e.prompt.text, e.seen
}
