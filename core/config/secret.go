package config

import (
	"fmt"
	"regexp"
	"strings"
)

const (
	minKey      = 16 // characters: 64 bits where they are random hexadecimal digits, which nobody tries out over a network
	minDistinct = 6  // different characters: of 16 random hexadecimal digits one in ten thousand has fewer
	minRest     = 8  // characters beside words that everybody tries first, repetition and counting
)

// commonWords are what default and example secrets are made of.
var commonWords = regexp.MustCompile(`(?i)change[_-]?me|change[_-]?this|password|passw0rd|secret|default|admin|root|test|example|sample|demo|dummy|letmein|qwerty|asdf|welcome|pimoe|api[_-]?key|your|insert|replace|here|placeholder|token|hunter2|iloveyou`)

// WeakSecret says why a secret could be guessed; empty for one that gives no sign of it. It can't know how a secret was
// made: it finds the short, the repeated, the counted up and the copied from an example.
func WeakSecret(s string) string {
	if len(s) < minKey {
		return fmt.Sprintf("has fewer than %d characters", minKey)
	}
	if distinct(s) < minDistinct {
		return fmt.Sprintf("has fewer than %d different characters", minDistinct)
	}
	if len(withoutRuns(commonWords.ReplaceAllString(s, ""))) < minRest {
		return "is mostly common words, counting or repetition"
	}
	return ""
}

func distinct(s string) int {
	seen := map[byte]bool{}
	for i := range len(s) {
		seen[s[i]] = true
	}
	return len(seen)
}

// withoutRuns drops every character that follows from the one before it: the same, the next or the one before in order.
func withoutRuns(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if i > 0 {
			if d := int(s[i]) - int(s[i-1]); d >= -1 && d <= 1 {
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
