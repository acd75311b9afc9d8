// Package web judges what surrounds a request on its way through the internet: the origin of the page that sent it, the
// name that it was sent to, and the proxies that it came through.
//
// server uses it for every request of the public listener. The package knows no HTTP server: it is asked for values and
// answers with values. It refuses guesses: an origin or a name is listed or it is not, and an address is believed only from
// proxies that the configuration names.
package web

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
)

// Policy is config.Web, ready to be asked from any goroutine. It does not change.
type Policy struct {
	origins map[string]bool
	hosts   map[string]bool
	proxies []netip.Prefix
}

// New is the policy of a valid configuration.
func New(c config.Web) (*Policy, error) {
	p := &Policy{origins: map[string]bool{}, hosts: map[string]bool{}}
	for _, o := range c.Origins {
		p.origins[o] = true
	}
	for _, h := range c.Hosts {
		p.hosts[h] = true
	}
	for i, text := range c.TrustedProxies {
		n, err := config.Network(text)
		if err != nil {
			return nil, fmt.Errorf("web.trusted_proxies[%d]: want %w: %w", i, err, sdk.ErrInvalid)
		}
		p.proxies = append(p.proxies, n)
	}
	return p, nil
}

// AllowedOrigin reports whether web.origins lists an origin, exactly as a browser has sent it.
func (p *Policy) AllowedOrigin(origin string) bool { return p.origins[origin] }

// OwnOrigin reports whether an origin is that of the server's own pages: the Host that the request names. Where the server
// does not end TLS itself a proxy may, so both schemes are its own then.
func OwnOrigin(origin, host string, secure bool) bool {
	scheme, at, ok := strings.Cut(origin, "://")
	if !ok || host == "" || !strings.EqualFold(at, host) {
		return false
	}
	return scheme == "https" || scheme == "http" && !secure
}

// TrustedHost reports whether a header Host is answered. Without web.hosts every name is, unless local is set: then
// only names of this machine are. A page on the internet can give its own name the address 127.0.0.1 and use what
// listens there as if it came from the same origin; its Host gives it away.
func (p *Policy) TrustedHost(host string, local bool) bool {
	if len(p.hosts) == 0 {
		return !local || Local(host)
	}
	host = strings.ToLower(host)
	return p.hosts[host] || p.hosts[withoutPort(host)]
}

// Local reports whether a Host names this machine.
func Local(host string) bool {
	host = withoutPort(host)
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.Unmap().IsLoopback()
}

// withoutPort keeps the brackets of an IPv6 address.
func withoutPort(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && i > strings.LastIndexByte(host, ']') {
		return host[:i]
	}
	return host
}

// maxHops bounds the work that a header can make. Chains of proxies have two or three.
const maxHops = 32

// ClientIP is the address that a request counts for: that of the connection; if it is a trusted proxy's, the one it says the
// request came from, and so on from right to left to the first that is not trusted. What stands left of it anybody
// can have written. Where a trusted proxy says something that is no address, its own address counts.
//
// forwarded are the values of all headers X-Forwarded-For, in their order. The header Forwarded is not read: proxies
// pass on what they don't know, and of two headers a client could write the one that its proxy does not. The result is invalid if
// the connection has no address, as a Unix socket has none.
func (p *Policy) ClientIP(remote net.Addr, forwarded []string) netip.Addr {
	client := addrOf(remote)
	if len(forwarded) == 0 || !p.trusted(client) {
		return client
	}
	hops := 0
	for i := len(forwarded) - 1; i >= 0; i-- {
		for rest, more := forwarded[i], true; more; hops++ {
			var hop string
			if at := strings.LastIndexByte(rest, ','); at >= 0 {
				rest, hop = rest[:at], rest[at+1:]
			} else {
				hop, more = rest, false
			}
			a := parseHop(hop)
			if !a.IsValid() || hops >= maxHops {
				return client
			}
			client = a
			if !p.trusted(a) {
				return a
			}
		}
	}
	return client
}

func (p *Policy) trusted(a netip.Addr) bool {
	for _, n := range p.proxies {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// Trusted reports whether a connection comes from a trusted proxy, whose other headers may then be believed, too.
func (p *Policy) Trusted(remote net.Addr) bool { return p.trusted(addrOf(remote)) }

func addrOf(remote net.Addr) netip.Addr {
	if t, ok := remote.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// parseHop reads an address, with or without a port, as proxies write them.
func parseHop(text string) netip.Addr {
	text = strings.Trim(text, " \t")
	a, err := netip.ParseAddr(text)
	if err != nil {
		var ap netip.AddrPort
		if ap, err = netip.ParseAddrPort(text); err == nil {
			a = ap.Addr()
		} else if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
			a, err = netip.ParseAddr(text[1 : len(text)-1])
		}
	}
	if err != nil || a.Zone() != "" || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}
