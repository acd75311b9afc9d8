package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// scanner is a hand-written equal of a regular expression: it returns the length of the match at the start of a
// non-empty text, or 0 where there is none. Scanners only replace expressions that never match nothing and never look
// at what came before.
type scanner func(text string) int

func (s scanner) spans(text string) []span {
	out := make([]span, 0, len(text)/4+1)
	done := 0
	for at := 0; at < len(text); {
		n := s(text[at:])
		if n == 0 {
			_, size := utf8.DecodeRuneInString(text[at:])
			at += size
			continue
		}
		out = appendGap(out, done, at)
		out = append(out, span{at, at + n, true})
		at += n
		done = at
	}
	return appendGap(out, done, len(text))
}

// The expressions of the known families, as their files write them.
const (
	exprGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	exprQwen   = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	exprLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	exprO200k  = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|` +
		`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|` +
		`\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	exprDigits3  = `\p{N}{1,3}`
	exprCJK      = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
	exprDeepSeek = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
	exprSpaces2  = ` {2,}`
)

var scanners = map[string]scanner{
	exprGPT2:     gpt2,
	exprQwen:     func(text string) int { return llama3(text, 1) },
	exprLlama3:   func(text string) int { return llama3(text, 3) },
	exprO200k:    o200k,
	exprDigits3:  digits3,
	exprCJK:      cjk,
	exprDeepSeek: deepseek,
	exprSpaces2:  spaces2,
}

// class is the set of properties of a character that the expressions ask for.
type class uint8

const (
	letter class = 1 << iota
	upper        // Lu, Lt, Lm, Lo, M
	lower        // Ll, Lm, Lo, M
	number
	space
	newline // \r and \n
	mark
	sign // P, S
)

var asciiClass [128]class

func init() {
	for r := range rune(128) {
		asciiClass[r] = slowClass(r)
	}
}

func slowClass(r rune) class {
	switch {
	case unicode.Is(unicode.L, r):
		switch {
		case unicode.Is(unicode.Ll, r):
			return letter | lower
		case unicode.Is(unicode.Lu, r), unicode.Is(unicode.Lt, r):
			return letter | upper
		}
		return letter | upper | lower
	case unicode.Is(unicode.M, r):
		return upper | lower | mark
	case unicode.Is(unicode.P, r), unicode.Is(unicode.S, r):
		return sign
	case unicode.Is(unicode.N, r):
		return number
	case r == '\r', r == '\n':
		return space | newline
	case unicode.IsSpace(r):
		return space
	}
	return 0
}

// classAt is the class and size of the first character; size 0 at the end.
func classAt(text string) (class, int) {
	if text == "" {
		return 0, 0
	}
	if c := text[0]; c < utf8.RuneSelf {
		return asciiClass[c], 1
	}
	r, n := utf8.DecodeRuneInString(text)
	return slowClass(r), n
}

// run is the length of the longest start of text whose characters have one of the wanted properties.
func run(text string, want class) int {
	n := 0
	for {
		c, size := classAt(text[n:])
		if size == 0 || c&want == 0 {
			return n
		}
		n += size
	}
}

// signs is the length of [^\s\p{L}\p{N}]+ at the start.
func signs(text string) int {
	n := 0
	for {
		c, size := classAt(text[n:])
		if size == 0 || c&(space|letter|number) != 0 {
			return n
		}
		n += size
	}
}

// spaces is \s*[\r\n]+|\s+(?!\S)|\s+ (without the first branch if lines is false) at the start of white space.
func spaces(text string, lines bool) int {
	end, lastLine, last := 0, 0, 0
	for {
		c, size := classAt(text[end:])
		if size == 0 || c&space == 0 {
			break
		}
		last = size
		end += size
		if c&newline != 0 {
			lastLine = end
		}
	}
	switch {
	case lines && lastLine > 0:
		return lastLine
	case end == len(text) || end == last:
		return end
	}
	return end - last // the last one goes with what follows
}

// contraction is 's|'t|'re|'ve|'m|'ll|'d at the start, or 0. With fold, case does not matter.
func contraction(text string, fold bool) int {
	if len(text) < 2 || text[0] != '\'' {
		return 0
	}
	at := func(i int) byte {
		if i >= len(text) {
			return 0
		}
		c := text[i]
		if fold && c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	}
	switch a, b := at(1), at(2); {
	case a == 's' || a == 't' || a == 'm' || a == 'd':
		return 2
	case a == 'r' && b == 'e', a == 'v' && b == 'e', a == 'l' && b == 'l':
		return 3
	case fold && a == 0xc5 && b == 0xbf: // the long s folds to s
		return 3
	}
	return 0
}

func gpt2(text string) int {
	if n := contraction(text, false); n > 0 {
		return n
	}
	c, size := classAt(text)
	lead := 0
	if text[0] == ' ' {
		lead = 1
		c, size = classAt(text[1:])
	}
	switch {
	case size == 0 || c&space != 0:
		return spaces(text, false)
	case c&letter != 0:
		return lead + run(text[lead:], letter)
	case c&number != 0:
		return lead + run(text[lead:], number)
	}
	return lead + signs(text[lead:])
}

func llama3(text string, digits int) int {
	if n := contraction(text, true); n > 0 {
		return n
	}
	c, size := classAt(text)
	if c&letter != 0 {
		return run(text, letter)
	}
	if c&(newline|number) == 0 {
		if n := run(text[size:], letter); n > 0 {
			return size + n
		}
	}
	return tail(text, c, digits, false)
}

// tail is what the expressions of llama3 and o200k have in common after their words.
func tail(text string, c class, digits int, slash bool) int {
	if c&number != 0 {
		return numbers(text, digits)
	}
	lead := 0
	if text[0] == ' ' {
		lead = 1
	}
	if n := signs(text[lead:]); n > 0 {
		n += lead
		for n < len(text) && (text[n] == '\r' || text[n] == '\n' || slash && text[n] == '/') {
			n++
		}
		return n
	}
	return spaces(text, true)
}

func o200k(text string) int {
	c, size := classAt(text)
	// The character in front is greedy and given back where the word can't go on after it; a mark may be either, so
	// the order of the four tries matters.
	lead := c&(newline|letter|number) == 0
	for _, word := range []scanner{lowerWord, upperWord} {
		if lead {
			if n := word(text[size:]); n > 0 {
				return size + n + contraction(text[size+n:], true)
			}
		}
		if n := word(text); n > 0 {
			return n + contraction(text[n:], true)
		}
	}
	return tail(text, c, 3, true)
}

// lowerWord is [upper]*[lower]+ at the start, or 0.
func lowerWord(text string) int {
	n := run(text, upper)
	if more := run(text[n:], lower); more > 0 {
		return n + more
	}
	// Give characters of the first run back until one of them is of the second kind too.
	for n > 0 {
		r, size := utf8.DecodeLastRuneInString(text[:n])
		if slowClass(r)&lower != 0 {
			return n
		}
		n -= size
	}
	return 0
}

// upperWord is [upper]+[lower]* at the start, or 0.
func upperWord(text string) int {
	n := run(text, upper)
	if n == 0 {
		return 0
	}
	return n + run(text[n:], lower)
}

func digits3(text string) int { return numbers(text, 3) }

// numbers is \p{N}{1,most} at the start, or 0.
func numbers(text string, most int) int {
	n := 0
	for range most {
		c, size := classAt(text[n:])
		if c&number == 0 {
			break
		}
		n += size
	}
	return n
}

func cjk(text string) int {
	n := 0
	for n < len(text) {
		r, size := utf8.DecodeRuneInString(text[n:])
		if !(r >= 0x4e00 && r <= 0x9fa5 || r >= 0x3040 && r <= 0x30ff) {
			break
		}
		n += size
	}
	return n
}

func spaces2(text string) int {
	n := 0
	for n < len(text) && text[n] == ' ' {
		n++
	}
	if n < 2 {
		return 0
	}
	return n
}

func deepseek(text string) int {
	c, size := classAt(text)
	if text[0] < utf8.RuneSelf && c&sign != 0 {
		n := 1
		for n < len(text) && (text[n] >= 'a' && text[n] <= 'z' || text[n] >= 'A' && text[n] <= 'Z') {
			n++
		}
		if n > 1 {
			return n
		}
	}
	if c&(newline|letter|sign) == 0 { // may be a mark, which is also the start of a word without it
		if n := run(text[size:], letter|mark); n > 0 {
			return size + n
		}
	}
	if n := run(text, letter|mark); n > 0 {
		return n
	}
	lead := 0
	if text[0] == ' ' {
		lead = 1
	}
	if n := run(text[lead:], sign); n > 0 {
		n += lead
		for n < len(text) && (text[n] == '\r' || text[n] == '\n') {
			n++
		}
		return n
	}
	if c&space == 0 {
		return 0
	}
	return spaces(text, true)
}
