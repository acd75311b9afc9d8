// Package mask takes secrets and personal data out of text that is written down: keys, bearer credentials, tokens,
// passwords in URLs, private keys and given secrets always; e-mail addresses, card numbers and phone numbers as configured.
//
// server/logging sends every record through it. It is the second line: the first is not to log such things. The package
// refuses to guess at what has no shape, such as names; a text without anything to hide is returned as it is, without a copy.
package mask

import (
	"slices"
	"strings"
)

// minSecret is the least length of a given secret: shorter ones would be found in ordinary words.
const minSecret = 8

// Masker hides. It may be used from any goroutine.
type Masker struct {
	secrets            []string // the longest first
	email, card, phone bool
}

// New hides the kinds of personal data that are named (email, card, phone), and these secrets.
func New(kinds []string, secrets ...string) *Masker {
	m := &Masker{email: slices.Contains(kinds, "email"), card: slices.Contains(kinds, "card"), phone: slices.Contains(kinds, "phone")}
	for _, s := range secrets {
		if len(s) >= minSecret {
			m.secrets = append(m.secrets, s)
		}
	}
	slices.SortFunc(m.secrets, func(a, b string) int { return len(b) - len(a) })
	return m
}

// Text is s with a word in brackets in the place of each thing to hide.
func (m *Masker) Text(s string) string {
	for _, secret := range m.secrets {
		if strings.Contains(s, secret) {
			s = strings.ReplaceAll(s, secret, "[secret]")
		}
	}
	var b strings.Builder
	done := 0
	for i := 0; i < len(s); {
		from, to, word := m.at(s, i, done)
		if word == "" {
			i++
			continue
		}
		b.WriteString(s[done:from])
		b.WriteString(word)
		done, i = to, to
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}

// at finds what begins at i, or has its mark there; an empty word for nothing. What stands before done has been dealt with.
func (m *Masker) at(s string, i, done int) (from, to int, word string) {
	switch c := s[i]; {
	case c == 'p':
		return ourKey(s, i)
	case c == 's':
		return otherKey(s, i)
	case c == 'e':
		return token(s, i)
	case c == 'B' || c == 'b':
		return credential(s, i)
	case c == ':':
		return password(s, i)
	case c == '-':
		return privateKey(s, i)
	case c == '@' && m.email:
		return email(s, i, done)
	case c >= '2' && c <= '6' && m.card:
		return card(s, i)
	case c == '+' && m.phone:
		return phone(s, i)
	}
	return 0, 0, ""
}

// run is the index behind the bytes from i on that ok takes.
func run(s string, i int, ok func(byte) bool) int {
	for i < len(s) && ok(s[i]) {
		i++
	}
	return i
}

func alnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || digit(c)
}

func digit(c byte) bool  { return c >= '0' && c <= '9' }
func base32(c byte) bool { return c >= 'a' && c <= 'z' || c >= '2' && c <= '7' }
func base64(c byte) bool { return alnum(c) || c == '-' || c == '_' || c == '+' || c == '/' || c == '=' }
func mailbox(c byte) bool {
	return alnum(c) || strings.IndexByte(".!#$%&'*+/=?^_`{|}~-", c) >= 0 || c >= 0x80
}
func domain(c byte) bool  { return alnum(c) || c == '-' || c == '.' || c >= 0x80 }
func visible(c byte) bool { return c > ' ' && c != '"' && c != '\'' && c != ',' && c < 0x7f }

// ourKey is pimoe_ID_SECRET: the id stays, it is what lists and revocations name.
func ourKey(s string, i int) (int, int, string) {
	const prefix, least = "pimoe_", 20
	if !strings.HasPrefix(s[i:], prefix) {
		return 0, 0, ""
	}
	id := run(s, i+len(prefix), base32)
	if id == i+len(prefix) || id >= len(s) || s[id] != '_' {
		return 0, 0, ""
	}
	if end := run(s, id+1, base32); end-id > least {
		return id + 1, end, "[key]"
	}
	return 0, 0, ""
}

// otherKey is sk-..., as other services' keys look.
func otherKey(s string, i int) (int, int, string) {
	if !strings.HasPrefix(s[i:], "sk-") || i > 0 && alnum(s[i-1]) {
		return 0, 0, ""
	}
	if end := run(s, i, base64); end-i >= 20 {
		return i, end, "[key]"
	}
	return 0, 0, ""
}

// token is a JWT: three parts of base64url, the first of which begins like {".
func token(s string, i int) (int, int, string) {
	if !strings.HasPrefix(s[i:], "eyJ") {
		return 0, 0, ""
	}
	end := i
	for part := range 3 {
		next := run(s, end, func(c byte) bool { return alnum(c) || c == '-' || c == '_' || c == '=' })
		if next == end && part < 2 || part == 0 && next-end < 8 {
			return 0, 0, ""
		}
		if end = next; part < 2 {
			if end >= len(s) || s[end] != '.' {
				return 0, 0, ""
			}
			end++
		}
	}
	return i, end, "[token]"
}

// credential is what stands behind Bearer or Basic.
func credential(s string, i int) (int, int, string) {
	for _, scheme := range []string{"bearer ", "basic "} {
		if len(s)-i > len(scheme) && strings.EqualFold(s[i:i+len(scheme)], scheme) {
			from := i + len(scheme)
			if end := run(s, from, visible); end-from >= minSecret {
				return from, end, "[credential]"
			}
		}
	}
	return 0, 0, ""
}

// password is that of a URL: scheme://user:password@host.
func password(s string, i int) (int, int, string) {
	if !strings.HasPrefix(s[i:], "://") {
		return 0, 0, ""
	}
	end := run(s, i+3, func(c byte) bool { return visible(c) && c != '/' && c != '?' })
	at := strings.LastIndexByte(s[i:end], '@')
	if at < 0 {
		return 0, 0, ""
	}
	colon := strings.IndexByte(s[i+3:i+at], ':')
	if colon < 0 {
		return 0, 0, ""
	}
	return i + 3 + colon + 1, i + at, "[password]"
}

// privateKey is one in PEM, to its end or, if it has been cut, that of the text.
func privateKey(s string, i int) (int, int, string) {
	const begin, middle, end = "-----BEGIN ", "PRIVATE KEY-----", "-----END "
	if !strings.HasPrefix(s[i:], begin) {
		return 0, 0, ""
	}
	line := s[i:min(len(s), i+80)]
	m := strings.Index(line, middle)
	if m < 0 {
		return 0, 0, ""
	}
	from := i + m + len(middle)
	if e := strings.Index(s[from:], end); e >= 0 {
		return from, from + e, "[private key]"
	}
	return from, len(s), "[private key]"
}

// email is an address around an @.
func email(s string, i, done int) (int, int, string) {
	from := i
	for from > done && i-from < 64 && mailbox(s[from-1]) {
		from--
	}
	to := run(s, i+1, domain)
	for to > i+1 && (s[to-1] == '.' || s[to-1] == '-') {
		to--
	}
	dot := strings.LastIndexByte(s[i:to], '.')
	if from == i || dot < 2 || to-i-dot-1 < 2 {
		return 0, 0, ""
	}
	return from, to, "[email]"
}

// card is the number of a payment card: 13 to 19 digits, with single spaces or dashes between, with a right checksum.
func card(s string, i int) (int, int, string) {
	if i > 0 && (alnum(s[i-1]) || s[i-1] == '.' || s[i-1] == '_') {
		return 0, 0, ""
	}
	var digits [19]byte
	n, end := 0, i
number:
	for j := i; j < len(s) && n < len(digits); j++ {
		switch {
		case digit(s[j]):
			digits[n] = s[j] - '0'
			n, end = n+1, j+1
			continue
		case (s[j] == ' ' || s[j] == '-') && j == end: // a single one behind a digit
			continue
		default:
			break number
		}
	}
	if n < 13 || end < len(s) && (alnum(s[end]) || s[end] == '_') || !luhn(digits[:n]) {
		return 0, 0, ""
	}
	return i, end, "[card]"
}

func luhn(digits []byte) bool {
	sum := 0
	for k := range digits {
		d := int(digits[len(digits)-1-k])
		if k%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

// phone is an international number: + and 8 to 15 digits, with the usual separators.
func phone(s string, i int) (int, int, string) {
	if i > 0 && alnum(s[i-1]) {
		return 0, 0, ""
	}
	n, end := 0, i+1
number:
	for j := i + 1; j < len(s) && j-end <= 2; j++ {
		switch {
		case digit(s[j]):
			n, end = n+1, j+1
			continue
		case strings.IndexByte(" -./()", s[j]) >= 0 && n > 0:
			continue
		default:
			break number
		}
	}
	if n < 8 || n > 15 || end < len(s) && alnum(s[end]) {
		return 0, 0, ""
	}
	return i, end, "[phone]"
}
