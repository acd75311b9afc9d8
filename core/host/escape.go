package host

import (
	"strconv"
	"strings"
	"unicode"
)

// escape makes a plugin's line harmless: control characters, line separators and invalid bytes become visible escapes,
// so that no plugin can move a terminal's cursor or forge a second log line.
func escape(line string) string {
	if strings.IndexFunc(line, hostile) < 0 {
		return line
	}
	var b strings.Builder
	for _, r := range line {
		if hostile(r) {
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func hostile(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }
