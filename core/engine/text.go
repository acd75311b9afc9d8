package engine

import "strings"

// decoder turns ids into text piece by piece; tokenizer.Decoder is one.
type decoder interface {
	Push(id int32) string
	Flush() string
}

// text is the text of one continuation: decoded incrementally and cut before the first stop string.
type text struct {
	decoder decoder
	stops   stops
}

// push adds a token and returns what can be shown now, and whether a stop string is complete.
func (t *text) push(id int32) (string, bool) { return t.stops.push(t.decoder.Push(id)) }

// fill gives a token of the loop its text, with what is still held back if it is the last one, and ends it at a stop
// string.
func (t *text) fill(tok *Token) {
	stopped := false
	if tok.HasToken {
		tok.Text, stopped = t.push(tok.ID)
	}
	if tok.Finish != "" && !stopped {
		var tail string
		tail, stopped = t.close()
		tok.Text += tail
	}
	if stopped {
		tok.Finish = FinishStop
	}
}

// close returns what was held back, and whether even that completed a stop string.
func (t *text) close() (string, bool) {
	out, stopped := t.stops.push(t.decoder.Flush())
	if stopped {
		return out, true
	}
	return out + t.stops.flush(), false
}

// stops finds stop strings in a text that arrives in pieces. The text ends where the stop string begins that is
// complete first (the one that begins first if several are complete at the same byte), so the result does not depend
// on how the text is cut into pieces. Everything that could still become a stop string is held back.
type stops struct {
	strings []string
	held    string
	stopped bool
}

// push adds a piece. After a stop string was found it returns nothing more.
func (s *stops) push(piece string) (out string, stopped bool) {
	if s.stopped {
		return "", true
	}
	if len(s.strings) == 0 {
		return piece, false
	}
	text := s.held + piece
	start, end := -1, len(text)+1
	for _, stop := range s.strings {
		i := strings.Index(text, stop)
		if i >= 0 && (i+len(stop) < end || i+len(stop) == end && i < start) {
			start, end = i, i+len(stop)
		}
	}
	if start >= 0 {
		s.stopped, s.held = true, ""
		return text[:start], true
	}
	keep := s.open(text)
	s.held = text[len(text)-keep:]
	return text[:len(text)-keep], false
}

// flush returns what is held back, when no more text comes.
func (s *stops) flush() string {
	held := s.held
	s.held = ""
	return held
}

// open is the length of the longest end of text that begins a stop string.
func (s *stops) open(text string) int {
	longest := 0
	for _, stop := range s.strings {
		for n := min(len(stop)-1, len(text)); n > longest; n-- {
			if strings.HasSuffix(text, stop[:n]) {
				longest = n
			}
		}
	}
	return longest
}
