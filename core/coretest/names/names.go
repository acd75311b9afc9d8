// Package names is a small name server for tests, which answers over UDP as the DNS of a cluster does: addresses of headless
// Services and service records.
//
// Tests of whoever looks names up use it. It refuses every other type of question.
package names

import (
	"fmt"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Server is a name server on loopback.
type Server struct {
	conn net.PacketConn
	done chan struct{}

	mu     sync.Mutex // guards all below
	a      map[string][]string
	srv    map[string][]string // "port target"
	broken bool                // answers SERVFAIL
	failed map[string]bool     // names for which it does
}

// New starts one that ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{conn: conn, done: make(chan struct{}), a: map[string][]string{}, srv: map[string][]string{}, failed: map[string]bool{}}
	go s.run()
	t.Cleanup(func() { conn.Close(); <-s.done })
	return s
}

func (s *Server) run() {
	defer close(s.done)
	for {
		b := make([]byte, 1500)
		n, from, err := s.conn.ReadFrom(b)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		out, err := s.answer(m)
		if err == nil {
			s.conn.WriteTo(out, from)
		}
	}
}

// answer is as CoreDNS gives it: no such name is NXDOMAIN, a name without records of the type is an empty answer.
func (s *Server) answer(m dnsmessage.Message) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := m.Questions[0]
	name := q.Name.String()
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionDesired: true}
	m.Additionals = nil
	h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: dnsmessage.ClassINET, TTL: 5}
	_, hasA := s.a[name]
	_, hasSRV := s.srv[name]
	switch {
	case s.broken, s.failed[name]:
		m.RCode = dnsmessage.RCodeServerFailure
	case !hasA && !hasSRV:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeSRV:
		for _, r := range s.srv[name] {
			var port uint16
			var target string
			fmt.Sscan(r, &port, &target)
			target += "."
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.SRVResource{Weight: 50, Port: port, Target: dnsmessage.MustNewName(target)}})
		}
	default:
		for _, text := range s.a[name] {
			ip := net.ParseIP(text)
			switch v4 := ip.To4(); {
			case v4 != nil && q.Type == dnsmessage.TypeA:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: [4]byte(v4)}})
			case v4 == nil && q.Type == dnsmessage.TypeAAAA:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: [16]byte(ip)}})
			}
		}
	}
	return m.Pack()
}

// Addr is where it listens.
func (s *Server) Addr() string { return s.conn.LocalAddr().String() }

// A sets the addresses of a name, of both families.
func (s *Server) A(name string, ips ...string) { s.set(func() { s.a[name+"."] = ips }) }

// SRV sets the service records of a name: "PORT TARGET".
func (s *Server) SRV(name string, records ...string) { s.set(func() { s.srv[name+"."] = records }) }

// Break has it answer every question with a failure, or no longer.
func (s *Server) Break(broken bool) { s.set(func() { s.broken = broken }) }

// Fail has it answer questions for one name with a failure, or no longer.
func (s *Server) Fail(name string, fails bool) { s.set(func() { s.failed[name+"."] = fails }) }

func (s *Server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}
