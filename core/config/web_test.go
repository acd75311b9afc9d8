package config

import (
	"strings"
	"testing"
)

// Every wrong value is named with its key; every right one passes.
func TestWebSettings(t *testing.T) {
	good := Default()
	good.Web.Origins = []string{"https://app.example.com", "http://localhost:3000", "https://[2001:db8::1]:8443"}
	good.Web.Hosts = []string{"pimoe.example.com", "pimoe.example.com:8443", "192.0.2.7", "[2001:db8::7]", "[::1]:8080", "pimoe"}
	good.Web.TrustedProxies = []string{"10.0.0.0/8", "127.0.0.1", "::1", "fd00::/8"}
	if err := good.Validate(); err != nil {
		t.Errorf("valid settings: %v", err)
	}
	bad := map[string][]string{
		"web.origins[0]": {"", "*", "null", "app.example.com", "https://app.example.com/", "https://App.example.com", "https://a.example:443",
			"http://a.example:80", "https://*.example.com", "https://a.example?x", "https://u@a.example", "ftp://a.example", "https://a.example#f", "https://a b"},
		"web.hosts[0]":           {"", "*", "Pimoe.example.com", "https://a.example", "a.example/", "a b", "a.example:port", "[::1", "a,b"},
		"web.trusted_proxies[0]": {"", "0.0.0.0/0", "::/0", "10.0.0.1/8", "proxy", "10.0.0.0/33", "fe80::1%eth0", "::ffff:10.0.0.0/104"},
	}
	for key, values := range bad {
		for _, v := range values {
			c := Default()
			switch key {
			case "web.origins[0]":
				c.Web.Origins = []string{v}
			case "web.hosts[0]":
				c.Web.Hosts = []string{v}
			default:
				c.Web.TrustedProxies = []string{v}
			}
			if err := c.Validate(); err == nil || !strings.Contains(err.Error(), key+":") {
				t.Errorf("%s %q: %v", key, v, err)
			}
		}
	}
}
