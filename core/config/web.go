package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// Web says which pages, names and proxies the public listener takes at their word.
type Web struct {
	// Origins are the origins, such as https://app.example.com, whose pages may use the API from a browser and open
	// WebSockets. Empty (default) = only pages of this server's own origin.
	Origins []string `koanf:"origins"`
	// Hosts are the names in the header Host that are answered, each with or without a port. Empty (default) = any; while
	// nobody needs a credential, only names of this machine.
	Hosts []string `koanf:"hosts"`
	// TrustedProxies are addresses or networks (10.0.0.0/8) whose X-Forwarded-For is believed. Empty (default) = nobody's.
	TrustedProxies []string `koanf:"trusted_proxies"`
}

func defaultWeb() Web { return Web{Origins: []string{}, Hosts: []string{}, TrustedProxies: []string{}} }

func (v *validator) web(w Web) {
	for i, text := range w.Origins {
		if err := checkOrigin(text); err != nil {
			v.bad(fmt.Sprintf("web.origins[%d]", i), orEmpty(text), err.Error())
		}
	}
	for i, text := range w.Hosts {
		if !hostPort.MatchString(text) || text != strings.ToLower(text) {
			v.bad(fmt.Sprintf("web.hosts[%d]", i), orEmpty(text), "a name or an address as the header Host has it, in lower case, such as pimoe.example.com, 192.0.2.7:8080 or [2001:db8::7]")
		}
	}
	for i, text := range w.TrustedProxies {
		if _, err := Network(text); err != nil {
			v.bad(fmt.Sprintf("web.trusted_proxies[%d]", i), orEmpty(text), err.Error())
		}
	}
}

// hostPort is what a header Host may say: a name, an IPv4 address or an IPv6 address in brackets, and a port. What
// is no address in the end matches nothing.
var hostPort = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_.-]{0,253}[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?$`)

// checkOrigin takes an origin exactly as browsers send it: they are compared byte by byte.
func checkOrigin(text string) error {
	u, err := url.Parse(text)
	switch {
	case text == "*" || text == "null":
		return fmt.Errorf("exact origins: %s would let any page in", text)
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || !hostPort.MatchString(u.Host) || text != u.Scheme+"://"+u.Host:
		return fmt.Errorf("an origin as browsers send it, such as https://app.example.com, without a path")
	case text != strings.ToLower(text):
		return fmt.Errorf("the origin in lower case: browsers send %s", strings.ToLower(text))
	case u.Scheme == "http" && u.Port() == "80" || u.Scheme == "https" && u.Port() == "443":
		return fmt.Errorf("the origin without its scheme's own port: browsers leave it out")
	}
	return nil
}

// Network reads an address or a network in CIDR notation. A network that is everything is refused: whoever can connect
// could then claim any address.
func Network(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("an address or a network, such as 10.0.0.0/8 or fd00::/8")
	case p.Bits() == 0:
		return netip.Prefix{}, fmt.Errorf("less than all addresses: everybody could claim to be anybody")
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("the network's own address: %s", p.Masked())
	}
	return p, nil
}
