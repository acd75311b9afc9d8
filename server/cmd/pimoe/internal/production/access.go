package production

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/access"
)

func mode(f *Facts) Verdict {
	switch f.Config.Mode {
	case "development":
		return fail("mode is development", "leave mode out, or set mode: production")
	case "staging":
		return warn("mode is staging", "set mode: production where people are served")
	}
	return ok("mode is " + f.Config.Mode)
}

// active are the keys that are taken now.
func (f *Facts) active() (out []access.Record) {
	for _, k := range f.Keys {
		if k.State(f.Now) == "active" {
			out = append(out, k)
		}
	}
	return out
}

func credentials(f *Facts) Verdict {
	const fix = "pimoe keys create --role user, or set auth.jwt or auth.oidc"
	a := f.Config.Auth
	var ways []string
	for name, set := range map[string]bool{"api_key": f.Config.APIKey != "", "auth.jwt": a.JWT.Issuer != "", "auth.oidc": a.OIDC.Issuer != ""} {
		if set {
			ways = append(ways, name)
		}
	}
	if f.KeysErr != nil {
		return fail("the file of keys can't be read: "+f.KeysErr.Error(), "repair "+a.KeysPath(f.Config.Home)+", or restore it from a backup")
	}
	if n := len(f.active()); n > 0 {
		ways = append(ways, fmt.Sprintf("%d keys", n))
	}
	if len(ways) == 0 {
		return fail("whoever reaches the server is let in: no key, issuer or provider is set", fix)
	}
	return ok("let in by " + strings.Join(sorted(ways), ", "))
}

// soon is how long before its end a credential or certificate is named.
const soon = 30 * 24 * time.Hour

func keys(f *Facts) Verdict {
	const fix = "pimoe keys rotate ID, and --expires for those of operators and admins"
	if why := config.WeakSecret(f.Config.APIKey); f.Config.APIKey != "" && why != "" {
		return fail("api_key "+why, "openssl rand -base64 32")
	}
	var endless, ending []string
	for _, k := range f.active() {
		role, err := access.ParseRole(k.Role)
		switch {
		case err == nil && role >= access.Operator && k.Expires.IsZero():
			endless = append(endless, k.ID)
		case !k.Expires.IsZero() && k.Expires.Sub(f.Now) < soon:
			ending = append(ending, k.ID)
		}
	}
	switch {
	case len(endless) > 0:
		return warn("keys of operators or admins that never end: "+strings.Join(endless, ", "), fix)
	case len(ending) > 0:
		return warn("keys that end within 30 days: "+strings.Join(ending, ", "), fix)
	}
	return ok("no key can be guessed from an example, and those with power have an end")
}

func adminListener(f *Facts) Verdict {
	switch {
	case f.Config.Server.AdminAddr == "off":
		return ok("there is none")
	case f.Config.Auth.Admin != "required":
		return warn("every program on this machine is an admin: auth.admin is local", "auth.admin: required, and a key of role admin for pimoe itself (PIMOE_ADMIN_KEY_FILE)")
	}
	return ok("it asks for a credential")
}

func transport(f *Facts) Verdict {
	s := f.Config.Server
	switch {
	case s.TLS.On():
		return ok("the public listener speaks TLS")
	case loopback(s.Addr) && len(f.Config.Web.TrustedProxies) > 0:
		return ok("it listens on loopback behind a trusted proxy")
	case loopback(s.Addr):
		return warn("it listens on loopback without TLS, and no proxy is trusted", "name the proxy that speaks TLS in web.trusted_proxies, or set server.tls")
	case len(f.Config.Web.TrustedProxies) > 0:
		return warn("it speaks HTTP to a trusted proxy over a network", "server.tls, unless the network between them is only theirs")
	}
	return fail("keys and texts go over a network in the open: "+s.Addr+" speaks HTTP", "set server.tls, or listen on 127.0.0.1 behind a proxy that speaks TLS")
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func certificate(f *Facts) Verdict {
	t := f.Config.Server.TLS
	if !t.On() {
		return ok("the server itself has none")
	}
	const fix = "put a new certificate in place of the file; a running host takes it over"
	cert, err := readCertificate(t.CertFile)
	if err != nil {
		return fail(err.Error(), fix)
	}
	until := cert.NotAfter.UTC().Format(time.DateOnly)
	switch left := cert.NotAfter.Sub(f.Now); {
	case left < 0:
		return fail("it ended on "+until, fix)
	case f.Now.Before(cert.NotBefore):
		return fail("it begins on "+cert.NotBefore.UTC().Format(time.DateOnly), "look at the clock of this machine")
	case left < 7*24*time.Hour:
		return fail("it ends on "+until+", within a week", fix)
	case left < soon:
		return warn("it ends on "+until+", within 30 days", fix)
	}
	return ok("valid until " + until)
}

func readCertificate(path string) (*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, errors.New(path + " holds no certificate")
}

func hostNames(f *Facts) Verdict {
	if len(f.Config.Web.Hosts) == 0 {
		return warn("any name in the header Host is answered", "list the names that clients use in web.hosts")
	}
	return ok("answered: " + strings.Join(f.Config.Web.Hosts, ", "))
}

func rates(f *Facts) Verdict {
	for _, r := range f.Config.Limits.Rates {
		if r.Key == "" && r.Tenant == "" && r.Role == "" || r.Role == "user" {
			return ok(fmt.Sprintf("%d rows in limits.rates, one for everybody", len(f.Config.Limits.Rates)))
		}
	}
	if len(f.Config.Limits.Rates) > 0 {
		return warn("limits.rates has no row for everybody: who is in no row may ask for all that the server can", "add a row without key, tenant and role")
	}
	return warn("one client may ask for all that the server can: limits.rates is empty", "limits.rates: [{requests: 600, tokens: 100000, concurrent: 16}]")
}
