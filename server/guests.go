package server

import (
	"net"
	"net/netip"
	"sync"
)

// guests bounds the connections of each client address, so that one machine can't take them all: by slow requests, or by none.
// Of IPv6 a /64 is one client, since whoever has an address there has all of them.
type guests struct {
	most   func() int                 // now; 0 = no bound
	exempt func(remote net.Addr) bool // of the bound: proxies, which stand for many

	mu  sync.Mutex // guards now
	now map[netip.Prefix]int
}

func newGuests(most func() int, exempt func(net.Addr) bool) *guests {
	return &guests{most: most, exempt: exempt, now: map[netip.Prefix]int{}}
}

// enter reports whether an address may have one more; leave takes it out again. Those that come while there is no bound are
// counted, too: it may be set later.
func (g *guests) enter(remote net.Addr) (leave func(), ok bool) {
	who, known := clientOfConn(remote)
	if g == nil || !known || g.exempt(remote) {
		return func() {}, true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if most := g.most(); most > 0 && g.now[who] >= most {
		return nil, false
	}
	g.now[who]++
	return func() { g.leave(who) }, true
}

func (g *guests) leave(who netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.now[who]--; g.now[who] == 0 {
		delete(g.now, who)
	}
}

func clientOfConn(remote net.Addr) (netip.Prefix, bool) {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}, false
	}
	a, bits := tcp.AddrPort().Addr().Unmap().WithZone(""), 64
	if a.Is4() {
		bits = 32
	}
	who, err := a.Prefix(bits)
	return who, err == nil
}

// boundGuests bounds the public listener's clients by limits.connections_per_client as it is now.
func (s *Server) boundGuests(ln net.Listener) {
	if l, ok := ln.(*lingering); ok {
		l.guests = newGuests(
			func() int { return s.now.Load().Limits.ConnectionsPerClient },
			func(remote net.Addr) bool { return s.web.Load().Trusted(remote) },
		)
	}
}
