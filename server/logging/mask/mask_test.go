package mask

import (
	"strings"
	"testing"
)

var all = []string{"email", "card", "phone"}

func TestText(t *testing.T) {
	m := New(all, "correct horse battery", "short")
	key := "pimoe_abcd2345_" + strings.Repeat("abcdefg2", 7) + "abc"
	for in, want := range map[string]string{
		"": "", "nothing to hide": "nothing to hide", "short": "short",
		"x correct horse battery y":                                       "x [secret] y",
		"key " + key + ".":                                                "key pimoe_abcd2345_[key].",
		"Authorization: Bearer abcdefgh12345":                             "Authorization: Bearer [credential]",
		`{"a":"bearer abcdefgh12345"}`:                                    `{"a":"bearer [credential]"}`,
		"Basic dXNlcjpwYXNz":                                              "Basic [credential]",
		"bearer of news":                                                  "bearer of news",
		"eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2ln":                        "[token]",
		"eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.":                            "[token]",
		"eyJ alone, eyJhbGciOiJub25lIn0.x":                                "eyJ alone, eyJhbGciOiJub25lIn0.x",
		"sk-proj-0123456789abcdefghij":                                    "[key]",
		"task-0123456789abcdefghijklmn":                                   "task-0123456789abcdefghijklmn",
		"redis://user:p%40ss@cache:6379/0":                                "redis://user:[password]@cache:6379/0",
		"redis://:hunter2@cache":                                          "redis://:[password]@cache",
		"http://127.0.0.1:8080/a@b":                                       "http://127.0.0.1:8080/a@b",
		"-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END X":                 "-----BEGIN EC PRIVATE KEY-----[private key]-----END X",
		"-----BEGIN PRIVATE KEY-----\nMHc":                                "-----BEGIN PRIVATE KEY-----[private key]",
		"-----BEGIN CERTIFICATE-----\nMII":                                "-----BEGIN CERTIFICATE-----\nMII",
		"mail ann.b+c@mail.example.com, please":                           "mail [email], please",
		"<ann@example.org>.":                                              "<[email]>.",
		"a@b a@ @b.de x@y.z":                                              "a@b a@ @b.de x@y.z",
		"card 4111 1111 1111 1111!":                                       "card [card]!",
		"5555-5555-5555-4444":                                             "[card]",
		"378282246310005":                                                 "[card]",
		"4111 1111 1111 1112":                                             "4111 1111 1111 1112",
		"1764405600000000000":                                             "1764405600000000000",
		"call +49 (30) 1234-5678 now":                                     "call [phone] now",
		"+1-202-555-0123":                                                 "[phone]",
		"+5, 1+12345678901, 2026-11-29T09:39:59":                          "+5, 1+12345678901, 2026-11-29T09:39:59",
		"pimoe_http_requests_total pimoe_tls_certificate_expires_seconds": "pimoe_http_requests_total pimoe_tls_certificate_expires_seconds",
		"67e94035-5c4f-4688-9ed3-4058da495d07":                            "67e94035-5c4f-4688-9ed3-4058da495d07",
		"sha256:4111111111111111aa":                                       "sha256:4111111111111111aa",
	} {
		if got := m.Text(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	some := New(nil)
	for _, s := range []string{"ann@example.org", "4111111111111111", "+1-202-555-0123"} {
		if got := some.Text(s); got != s {
			t.Errorf("%q is masked unasked: %q", s, got)
		}
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"ann@example.org", "Bearer abcdefghij", "4111 1111 1111 1111", "+1-202-555-0123", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2ln", "a://b:c@d", "-----BEGIN PRIVATE KEY-----x"} {
		f.Add(s, "secretsecret")
	}
	f.Fuzz(func(t *testing.T, text, secret string) {
		m := New(all, secret)
		got := m.Text(text + " ann@example.org ")
		if strings.Contains(got, "ann@example.org") {
			t.Fatalf("%q: %q", text, got)
		}
		if len(secret) >= minSecret && !strings.Contains("[secret]", secret) && strings.Contains(m.Text(" "+secret+" "), " "+secret+" ") {
			t.Fatalf("%q stays", secret)
		}
	})
}

func BenchmarkText(b *testing.B) {
	m := New(all, "a configured secret", "another configured secret")
	s := "request 67e94035-5c4f-4688-9ed3-4058da495d07 of POST /v1/chat/completions took 0.123 s: the group e3 restarts after signal 9"
	b.SetBytes(int64(len(s)))
	b.ReportAllocs()
	for b.Loop() {
		m.Text(s)
	}
}
