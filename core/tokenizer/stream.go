package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// Stream starts an incremental decoding.
func (t *Tokenizer) Stream(skipSpecial bool) *Decoder {
	d := &Decoder{t: t, skip: skipSpecial}
	d.reset()
	return d
}

// Decoder turns ids into pieces of text as they come. It holds back text that ends in U+FFFD, which may be half a
// character that the next id completes. The pieces and the last one, of Flush, together are the text of Decode.
//
// One exception lies in the format itself: where byte tokens (<0xHH>) first make valid text, which is given out, and
// then go on to an invalid end, Decode takes all of them back to U+FFFD. A Decoder can't; it writes U+FFFD only for
// the bytes it has not given out.
//
// The work per id does not grow with the length of the text. Decoders that no known model has, and that may rewrite
// text from its start (ByteFallback, ByteLevel or a Replace of more than one character after a Fuse), give out all
// of it in Flush.
type Decoder struct {
	t    *Tokenizer
	skip bool

	flows  []flow          // nil: everything waits for Flush
	held   strings.Builder // certain, but not given out
	tokens []string        // everything so far, only without flows
	count  int             // tokens so far
}

// Push takes the next id and returns the text that is now certain; often a word, sometimes nothing.
func (d *Decoder) Push(id int32) string {
	tok, ok := d.t.shown(id, d.skip)
	if !ok {
		return ""
	}
	if d.flows == nil {
		d.tokens = append(d.tokens, tok)
		return ""
	}
	if d.t.dec.join && d.count > 0 {
		tok = " " + tok
	}
	d.count++
	d.feed(0, fragment{tok, true, true})
	if strings.HasSuffix(d.held.String()+d.tail(), "\ufffd") {
		return ""
	}
	for i, f := range d.flows {
		f.release(func(g fragment) { d.feed(i+1, g) })
	}
	text := d.held.String()
	d.held.Reset()
	return text
}

// Flush ends the text and returns what was held back. The Decoder is then as new.
func (d *Decoder) Flush() string {
	var text string
	if d.flows == nil {
		text = d.t.dec.text(d.tokens)
	} else {
		text = d.held.String() + d.tail()
	}
	d.reset()
	return text
}

func (d *Decoder) reset() {
	*d = Decoder{t: d.t, skip: d.skip, flows: d.t.dec.flows()}
}

// feed passes a fragment through the flows from the i-th on; what comes out at the end is certain.
func (d *Decoder) feed(i int, f fragment) {
	if i == len(d.flows) {
		d.held.WriteString(f.text)
		return
	}
	d.flows[i].push(f, func(g fragment) { d.feed(i+1, g) })
}

// tail is the text that would still come out if the ids ended here. The flows stay as they are.
func (d *Decoder) tail() string {
	idle := true
	for _, f := range d.flows {
		idle = idle && f.idle()
	}
	if idle {
		return ""
	}
	work := make([]flow, len(d.flows))
	for i, f := range d.flows {
		work[i] = f.clone()
	}
	end := Decoder{flows: work}
	for i, f := range work {
		f.finish(func(g fragment) { end.feed(i+1, g) })
	}
	return end.held.String()
}

// fragment is a part of a token on its way through the decoders.
type fragment struct {
	text  string
	first bool // the token starts here
	last  bool // the token ends here
}

// flow is a stage for tokens that come one by one.
type flow interface {
	push(f fragment, out func(fragment))
	finish(out func(fragment))  // the text ends
	idle() bool                 // finish would put out nothing
	release(out func(fragment)) // put out what waits, except what the next token may take away again
	clone() flow
}

// flows are the stages of a new stream, or nil if one of them can't work that way.
func (c chain) flows() []flow {
	flows := make([]flow, 0, len(c.stages))
	fused := false
	for _, s := range c.stages {
		f := s.stream(fused)
		if f == nil {
			return nil
		}
		flows = append(flows, f)
		switch s.(type) {
		case fuse, bytesDecoder:
			fused = true
		}
	}
	return flows
}

// eachToken is a flow without memory but for the number of tokens.
type eachToken struct {
	n  int
	fn func(token string, index int) string
}

func (e *eachToken) push(f fragment, out func(fragment)) {
	f.text = e.fn(f.text, e.n)
	e.n++
	out(f)
}
func (e *eachToken) finish(func(fragment))  {}
func (e *eachToken) idle() bool             { return true }
func (e *eachToken) release(func(fragment)) {}
func (e *eachToken) clone() flow            { c := *e; return &c }

func (m metaspaceDecoder) stream(after bool) flow {
	return &eachToken{fn: func(t string, i int) string { return m.one(t, i == 0 || after) }}
}

func (r replaceDecoder) stream(after bool) flow {
	if after && (r.pattern.re != nil || utf8.RuneCountInString(r.pattern.literal) > 1) {
		return nil
	}
	return &eachToken{fn: func(t string, _ int) string { return r.pattern.replaceAll(t, r.content) }}
}

// fuseFlow marks all fragments as parts of one token.
type fuseFlow struct{ started bool }

func (fuse) stream(bool) flow { return &fuseFlow{} }

func (f *fuseFlow) push(g fragment, out func(fragment)) {
	g.first, g.last = !f.started, false
	f.started = true
	out(g)
}

// finish ends the one token, so that a Strip after it can let go.
func (f *fuseFlow) finish(out func(fragment)) { out(fragment{"", !f.started, true}) }
func (f *fuseFlow) idle() bool                { return true }
func (f *fuseFlow) release(func(fragment))    {}
func (f *fuseFlow) clone() flow               { c := *f; return &c }

// bytesFlow is the ByteLevel decoder. Only a character that is cut off waits.
type bytesFlow struct {
	fuseFlow
	open []byte
}

func (bytesDecoder) stream(after bool) flow {
	if after {
		return nil
	}
	return &bytesFlow{}
}

func (b *bytesFlow) push(f fragment, out func(fragment)) {
	b.open = fromByteAlphabet(f.text, b.open)
	var text strings.Builder
	rest := lossyTo(&text, string(b.open))
	b.open = append(b.open[:0], rest...)
	b.fuseFlow.push(fragment{text: text.String()}, out)
}

func (b *bytesFlow) finish(out func(fragment)) {
	text := ""
	if len(b.open) > 0 {
		text = "\ufffd"
	}
	out(fragment{text, !b.started, true})
}
func (b *bytesFlow) idle() bool { return len(b.open) == 0 }
func (b *bytesFlow) clone() flow {
	c := *b
	c.open = append([]byte(nil), b.open...)
	return &c
}

// fallbackFlow is ByteFallback: a run of byte tokens waits for its end, because a bad byte spoils all of it.
type fallbackFlow struct{ run []byte }

func (byteFallback) stream(after bool) flow {
	if after {
		return nil
	}
	return &fallbackFlow{}
}

func (b *fallbackFlow) push(f fragment, out func(fragment)) {
	if c, ok := byteToken(f.text); ok {
		b.run = append(b.run, c)
		return
	}
	b.release(out)
	out(f)
}

func (b *fallbackFlow) finish(out func(fragment)) {
	if len(b.run) > 0 {
		out(fragment{byteRun(b.run), true, true})
	}
}
func (b *fallbackFlow) idle() bool { return len(b.run) == 0 }

// release: the run so far is valid and given out; what follows is judged by itself.
func (b *fallbackFlow) release(out func(fragment)) {
	b.finish(out)
	b.run = b.run[:0]
}
func (b *fallbackFlow) clone() flow {
	return &fallbackFlow{append([]byte(nil), b.run...)}
}

// stripFlow holds back what might be the stripped end of a token.
type stripFlow struct {
	stripDecoder
	cut   int // characters already taken from the front of this token
	begun bool
	wait  int // characters at the end so far that may have to go
}

func (s stripDecoder) stream(bool) flow { return &stripFlow{stripDecoder: s} }

func (s *stripFlow) push(f fragment, out func(fragment)) {
	if f.first {
		s.cut, s.begun, s.wait = 0, false, 0
	}
	text := f.text
	for !s.begun && s.cut < s.start && strings.HasPrefix(text, s.char) {
		text = text[len(s.char):]
		s.cut++
	}
	if text != "" {
		s.begun = true
	}
	text = strings.Repeat(s.char, s.wait) + text
	s.wait = 0
	for s.wait < s.stop && strings.HasSuffix(text, s.char) {
		text = text[:len(text)-len(s.char)]
		s.wait++
	}
	if f.last {
		s.wait = 0
	}
	f.text = text
	out(f)
}
func (s *stripFlow) finish(func(fragment))  {}
func (s *stripFlow) idle() bool             { return true }
func (s *stripFlow) release(func(fragment)) {}
func (s *stripFlow) clone() flow            { c := *s; return &c }
