package engine

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestStops(t *testing.T) {
	for _, test := range []struct {
		name    string
		stops   []string
		pieces  []string
		want    string
		stopped bool
	}{
		{"none", nil, []string{"ab", "c"}, "abc", false},
		{"inside a piece", []string{"b"}, []string{"abc"}, "a", true},
		{"across pieces", []string{"STOP"}, []string{"go S", "T", "OP and"}, "go ", true},
		{"only begun", []string{"STOP"}, []string{"go ST"}, "go ST", false},
		{"begun twice", []string{"aab"}, []string{"aa", "ab"}, "a", true},
		{"the one that is complete first", []string{"abcd", "bc"}, []string{"abcd"}, "a", true},
		{"the longer one of those complete at once", []string{"c", "bc"}, []string{"abc"}, "a", true},
		{"at the very beginning", []string{"ab"}, []string{"abab"}, "", true},
		{"characters of several bytes", []string{"né"}, []string{"nè", "n", "é"}, "nè", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := stops{strings: test.stops}
			got, stopped := feed(&s, test.pieces)
			if got != test.want || stopped != test.stopped {
				t.Errorf("got %q, %v, want %q, %v", got, stopped, test.want, test.stopped)
			}
		})
	}
}

func feed(s *stops, pieces []string) (string, bool) {
	var b strings.Builder
	for _, p := range pieces {
		out, stopped := s.push(p)
		b.WriteString(out)
		if stopped {
			return b.String(), true
		}
	}
	b.WriteString(s.flush())
	return b.String(), false
}

// naive says where a text ends: at the first byte that completes any stop string.
func naive(text string, stops []string) (string, bool) {
	for end := range len(text) + 1 {
		cut := -1
		for _, s := range stops {
			if strings.HasSuffix(text[:end], s) && (cut < 0 || end-len(s) < cut) {
				cut = end - len(s)
			}
		}
		if cut >= 0 {
			return text[:cut], true
		}
	}
	return text, false
}

// However a text is split, it ends at the same place, and nothing is shown that is taken back later.
func TestStopsSplit(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	word := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteRune([]rune("aabé")[r.IntN(4)])
		}
		return b.String()
	}
	for range 20_000 {
		text := word(r.IntN(24))
		var list []string
		for range 1 + r.IntN(3) {
			list = append(list, word(1+r.IntN(5)))
		}
		want, wantStopped := naive(text, list)
		var pieces []string
		for rest := []rune(text); len(rest) > 0; {
			n := min(r.IntN(5), len(rest))
			pieces = append(pieces, string(rest[:n]))
			rest = rest[n:]
		}
		s := stops{strings: list}
		got, stopped := feed(&s, pieces)
		if got != want || stopped != wantStopped {
			t.Fatalf("text %q stops %q pieces %q: got %q, %v, want %q, %v", text, list, pieces, got, stopped, want, wantStopped)
		}
	}
}

// What the decoder still held at the end may complete a stop string too.
func TestStopAtTheEnd(t *testing.T) {
	x := &text{decoder: &syllables{}, stops: stops{strings: []string{"b\uFFFD"}}}
	shown, _ := x.push(1) // "ab"
	x.push(6)             // half a character
	tail, stopped := x.close()
	if shown+tail != "a" || !stopped {
		t.Errorf("got %q, %v, want \"a\" and a stop", shown+tail, stopped)
	}
}
