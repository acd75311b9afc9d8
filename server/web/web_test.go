package web

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/config"
)

func policy(t *testing.T, c config.Web) *Policy {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tcp(addr string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)) }

func TestClientIP(t *testing.T) {
	p := policy(t, config.Web{TrustedProxies: []string{"10.0.0.0/8", "fd00::/8"}})
	for _, c := range []struct {
		why, remote string
		forwarded   []string
		want        string
	}{
		{"no header", "10.0.0.1:1", nil, "10.0.0.1"},
		{"a stranger's header", "192.0.2.1:1", []string{"203.0.113.5"}, "192.0.2.1"},
		{"one proxy", "10.0.0.1:1", []string{"203.0.113.5"}, "203.0.113.5"},
		{"what the client wrote", "10.0.0.1:1", []string{"198.51.100.9, 203.0.113.5"}, "203.0.113.5"},
		{"a client that claims to be a proxy", "10.0.0.1:1", []string{"198.51.100.9, 10.9.9.9, 203.0.113.5"}, "203.0.113.5"},
		{"two proxies", "10.0.0.1:1", []string{"198.51.100.9,203.0.113.5,10.0.0.2"}, "203.0.113.5"},
		{"two headers", "10.0.0.1:1", []string{"203.0.113.5", "10.0.0.2"}, "203.0.113.5"},
		{"only proxies", "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"a port", "10.0.0.1:1", []string{"203.0.113.5:4711"}, "203.0.113.5"},
		{"IPv6", "[fd00::1]:1", []string{"2001:db8::5"}, "2001:db8::5"},
		{"IPv6 in brackets", "[fd00::1]:1", []string{"[2001:db8::5]"}, "2001:db8::5"},
		{"IPv6 with a port", "[fd00::1]:1", []string{"[2001:db8::5]:1"}, "2001:db8::5"},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:1", []string{"::ffff:203.0.113.5"}, "203.0.113.5"},
		{"no address", "10.0.0.1:1", []string{"203.0.113.5, unknown"}, "10.0.0.1"},
		{"no address behind a proxy", "10.0.0.1:1", []string{"203.0.113.5, x, 10.0.0.2"}, "10.0.0.2"},
		{"nothing", "10.0.0.1:1", []string{""}, "10.0.0.1"},
		{"commas", "10.0.0.1:1", []string{",,,"}, "10.0.0.1"},
		{"a zone", "10.0.0.1:1", []string{"fe80::1%eth0"}, "10.0.0.1"},
		{"no address at all", "10.0.0.1:1", []string{"0.0.0.0"}, "10.0.0.1"},
		{"hex and octal", "10.0.0.1:1", []string{"0x7f000001"}, "10.0.0.1"},
		{"octal", "10.0.0.1:1", []string{"0177.0.0.1"}, "10.0.0.1"},
		{"a long chain", "10.0.0.1:1", []string{"203.0.113.5," + strings.Repeat("10.0.0.2,", 100) + "10.0.0.7"}, "10.0.0.2"},
	} {
		if got := p.ClientIP(tcp(c.remote), c.forwarded); got.String() != c.want {
			t.Errorf("%s: %s, want %s", c.why, got, c.want)
		}
	}
	if a := p.ClientIP(&net.UnixAddr{Name: "x"}, []string{"203.0.113.5"}); a.IsValid() {
		t.Errorf("a Unix socket has the address %s", a)
	}
	if a := policy(t, config.Web{}).ClientIP(tcp("127.0.0.1:1"), []string{"203.0.113.5"}); a.String() != "127.0.0.1" {
		t.Errorf("without trusted proxies: %s", a)
	}
}

// Whatever a client writes, behind one trusted proxy that appends what it sees the result is what it saw.
func TestNoHeaderEvadesAProxy(t *testing.T) {
	p := policy(t, config.Web{TrustedProxies: []string{"10.0.0.0/8"}})
	pieces := []string{"203.0.113.5", "10.0.0.1", "10.1.2.3", ",", " ", "\t", "", "x", "[::1]", "for=1.2.3.4", ":80", "127.0.0.1", "\x00", "é"}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		var lines []string
		for range r.IntN(4) {
			var b strings.Builder
			for range r.IntN(8) {
				b.WriteString(pieces[r.IntN(len(pieces))])
				if r.IntN(2) == 0 {
					b.WriteByte(',')
				}
			}
			lines = append(lines, b.String())
		}
		switch { // a proxy adds to the last line, or a line
		case len(lines) > 0 && r.IntN(2) == 0:
			lines[len(lines)-1] += ", 198.51.100.7"
		default:
			lines = append(lines, "198.51.100.7")
		}
		if got := p.ClientIP(tcp("10.0.0.1:1"), lines); got.String() != "198.51.100.7" {
			t.Fatalf("%q: %s", lines, got)
		}
	}
}

func TestTrustedHost(t *testing.T) {
	named := policy(t, config.Web{Hosts: []string{"pimoe.example.com", "other.example:8443", "[2001:db8::7]"}})
	for host, want := range map[string]bool{
		"pimoe.example.com": true, "PIMOE.example.com": true, "pimoe.example.com:8080": true, "other.example:8443": true, "other.example": false,
		"other.example:1": false, "evil.example": false, "pimoe.example.com.evil.example": false, "[2001:db8::7]": true, "[2001:db8::7]:1": true,
		"": false, "127.0.0.1": false, "pimoe.example.com.": false, "pimoe.example.com:1:2": false, "2001:db8::7": false,
	} {
		if named.TrustedHost(host, false) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
	open := policy(t, config.Web{})
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST:8080": true, "127.0.0.1:8080": true, "127.9.9.9": true, "[::1]:8080": true, "[::ffff:127.0.0.1]": true,
		"evil.example": false, "localhost.evil.example": false, "127.0.0.1.evil.example": false, "10.0.0.1": false, "": false, "0x7f000001": false,
	} {
		if open.TrustedHost(host, true) != want {
			t.Errorf("%q among local names: %v", host, !want)
		}
		if !open.TrustedHost(host, false) {
			t.Errorf("%q is refused without a list", host)
		}
	}
}

func TestOrigins(t *testing.T) {
	p := policy(t, config.Web{Origins: []string{"https://app.example.com"}})
	for origin, want := range map[string]bool{
		"https://app.example.com": true, "http://app.example.com": false, "https://app.example.com:443": false, "https://app.example.com/": false,
		"https://APP.example.com": false, "https://evil.example": false, "https://app.example.com.evil.example": false, "null": false, "": false, "*": false,
	} {
		if p.AllowedOrigin(origin) != want {
			t.Errorf("%q: %v", origin, !want)
		}
	}
	for _, c := range []struct {
		origin, host string
		secure, want bool
	}{
		{"http://127.0.0.1:8080", "127.0.0.1:8080", false, true}, {"https://a.example", "a.example", false, true}, {"https://a.example", "A.example", true, true},
		{"http://a.example", "a.example", true, false}, {"http://a.example:81", "a.example", false, false}, {"null", "a.example", false, false},
		{"", "", false, false}, {"://", "", false, false}, {"ws://a.example", "a.example", false, false}, {"http://a.example.evil", "a.example", false, false},
	} {
		if OwnOrigin(c.origin, c.host, c.secure) != c.want {
			t.Errorf("%q at %q: %v", c.origin, c.host, !c.want)
		}
	}
}

func FuzzClientIP(f *testing.F) {
	f.Add("203.0.113.5", "10.0.0.2")
	f.Add("[::1]:80,10.0.0.1", "")
	p, err := New(config.Web{TrustedProxies: []string{"10.0.0.0/8"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		got := p.ClientIP(tcp("10.0.0.1:1"), []string{a, b})
		if !got.IsValid() || got.Is4In6() || got.Zone() != "" || got.IsUnspecified() {
			t.Fatalf("%q, %q: %v", a, b, got)
		}
		if seen := p.ClientIP(tcp("10.0.0.1:1"), []string{a, b, "198.51.100.7"}); seen.String() != "198.51.100.7" {
			t.Fatalf("%q, %q hide the client: %v", a, b, seen)
		}
	})
}
