package server

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/server/web"
)

func tcpAddr(text string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(text), Port: 4711} }

// A client is an IPv4 address, in whatever form, or an IPv6 network; nobody is remembered after the last connection.
func TestGuests(t *testing.T) {
	most := 2
	g := newGuests(func() int { return most }, func(a net.Addr) bool { return a.String() == "10.0.0.9:4711" })
	var leaves []func()
	for _, step := range []struct {
		who string
		ok  bool
	}{
		{"192.0.2.1", true}, {"::ffff:192.0.2.1", true}, {"192.0.2.1", false}, {"192.0.2.2", true},
		{"2001:db8::1", true}, {"2001:db8::2", true}, {"2001:db8::3", false}, {"2001:db8:0:1::1", true},
		{"10.0.0.9", true}, {"10.0.0.9", true}, {"10.0.0.9", true},
	} {
		leave, ok := g.enter(tcpAddr(step.who))
		if ok != step.ok {
			t.Errorf("%s: %v", step.who, ok)
		}
		if ok {
			leaves = append(leaves, leave)
		}
	}
	most = 0
	if leave, ok := g.enter(tcpAddr("192.0.2.1")); !ok {
		t.Error("refused without a bound")
	} else {
		leaves = append(leaves, leave)
	}
	for _, leave := range leaves {
		leave()
	}
	if len(g.now) != 0 {
		t.Errorf("left: %v", g.now)
	}
}

// One address has as many connections as the limit says, the next one is told 503, and a trusted proxy has more; both
// follow a reload.
func TestConnectionsPerClient(t *testing.T) {
	r := serve(t, nil, nil)
	set := func(most int, proxies ...string) {
		next := *r.now.Load()
		next.Limits.ConnectionsPerClient, next.Web.TrustedProxies = most, proxies
		p, err := web.New(next.Web)
		if err != nil {
			t.Fatal(err)
		}
		r.web.Store(p)
		r.Server.now.Store(&next)
	}
	dial := func() string {
		c, err := net.Dial("tcp", r.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintf(c, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
		line := make([]byte, len("HTTP/1.1 200"))
		if _, err := io.ReadFull(c, line); err != nil {
			return err.Error()
		}
		return string(line)
	}
	set(3)
	for range 3 {
		if said := dial(); said != "HTTP/1.1 200" {
			t.Fatalf("within the limit: %s", said)
		}
	}
	if said := dial(); !strings.HasPrefix(said, "HTTP/1.1 503") {
		t.Errorf("beyond the limit: %s", said)
	}
	set(3, "127.0.0.0/8")
	if said := dial(); said != "HTTP/1.1 200" {
		t.Errorf("a trusted proxy: %s", said)
	}
	set(0)
	if said := dial(); said != "HTTP/1.1 200" {
		t.Errorf("without a limit: %s", said)
	}
}
