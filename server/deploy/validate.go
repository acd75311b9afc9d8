package deploy

import (
	"fmt"
	"net/netip"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// Words of the targets. Whatever passes is harmless in YAML, in nginx's and systemd's files and in a shell.
var (
	label      = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)
	domain     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	repository = regexp.MustCompile(`^[a-z0-9][-a-z0-9._]*(:[0-9]+)?(/[a-z0-9][-a-z0-9._]*)*$`)
	tag        = regexp.MustCompile(`^[A-Za-z0-9_][-A-Za-z0-9._]{0,127}$`)
	digest     = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	folder     = regexp.MustCompile(`^(/[A-Za-z0-9._-]+)+$`)
	backend    = regexp.MustCompile(`^[a-z0-9][-a-z0-9_]*$`)
)

// Validate reports every problem at once, as Problems, or nil.
func (v Values) Validate() error {
	c := &checker{}
	c.word("name", v.Name, label, "lower-case letters, digits and dashes, at most 40")
	c.word("namespace", v.Namespace, label, "lower-case letters, digits and dashes, at most 40")
	oneOf(c, "environment", v.Environment, Environments())
	oneOf(c, "profile", v.Profile, Profiles())
	c.word("host", v.Host, domain, "a name such as pimoe.example.com")
	c.image(v.Image)
	c.count("replicas", v.Replicas, 1, 100)
	c.scale("scale", v.Scale, v.Profile == Serverless)
	c.resources("resources", v.Resources)
	c.ports(v)
	c.count("limits.body_mb", v.Limits.BodyMB, 1, 1024)
	c.count("limits.request_seconds", v.Limits.RequestSeconds, 1, 86_400)
	c.count("limits.rate_per_minute", v.Limits.RatePerMinute, 1, 1_000_000)
	c.word("tls.secret", v.TLS.Secret, domain, "the name of a secret")
	c.word("tls.expert", v.TLS.Expert, domain, "the name of a secret")
	c.proxy(v.Proxy)
	c.network(v.Network, v.Replicas)
	c.word("programs", v.Programs, folder, "the absolute path of a folder")
	c.ofProfile("region", v.Region, v.Profile, MultiRegion)
	c.store(v.Store, v.Profile)
	if v.Profile == Edge && v.Replicas != 1 {
		c.note("replicas", "the profile edge is one host, have %d", v.Replicas)
	}
	c.groups(v.Groups)
	c.harmless("", reflect.ValueOf(v))
	if len(c.problems) > 0 {
		return c.problems
	}
	return nil
}

// plain is what every text may have, also those that one target alone checks further.
var plain = regexp.MustCompile(`^[-A-Za-z0-9._:/@+,=*?&%~#\[\]]*$`)

// harmless looks at every text in v.
func (c *checker) harmless(field string, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if !plain.MatchString(v.String()) {
			c.note(field, "want letters, digits and marks of addresses and paths, have %.60q", v.String())
		}
	case reflect.Struct:
		for i, name := range fields(v.Type()) {
			c.harmless(strings.TrimPrefix(field+"."+name, "."), v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			c.harmless(fmt.Sprintf("%s[%d]", field, i), v.Index(i))
		}
	default: // numbers and truth values are harmless
	}
}

type checker struct{ problems Problems }

func (c *checker) note(field, format string, args ...any) {
	c.problems = append(c.problems, field+": "+fmt.Sprintf(format, args...))
}

func (c *checker) word(field, text string, pattern *regexp.Regexp, want string) {
	if len(text) > 255 || !pattern.MatchString(text) || text != path.Clean(text) {
		c.note(field, "want %s, have %.60q", want, text)
	}
}

func (c *checker) count(field string, n, least, most int) {
	if n < least || n > most {
		c.note(field, "want %d to %d, have %d", least, most, n)
	}
}

func oneOf[T ~string](c *checker, field string, have T, known []T) {
	if !slices.Contains(known, have) {
		c.note(field, "want one of %v, have %.60q", known, string(have))
	}
}

func (c *checker) image(i Image) {
	c.word("image.repository", i.Repository, repository, "a repository such as ghcr.io/pimoe/pimoe")
	c.word("image.tag", i.Tag, tag, "a tag")
	if i.Digest != "" {
		c.word("image.digest", i.Digest, digest, "sha256: and 64 hexadecimal digits")
	}
}

func (c *checker) scale(field string, s Scale, toZero bool) {
	least := 1
	if toZero {
		least = 0
	}
	c.count(field+".min", s.Min, least, 1000)
	c.count(field+".max", s.Max, max(s.Min, 1), 1000)
	c.count(field+".cpu_percent", s.CPUPercent, 1, 100)
}

func (c *checker) resources(field string, r Resources) {
	c.count(field+".cpus", r.CPUs, 1, 1024)
	c.count(field+".memory_mb", r.MemoryMB, 256, 16<<20) // below that no model starts
}

// ports are of programs on one machine: no two may be the same.
func (c *checker) ports(v Values) {
	p, taken := v.Ports, map[int]string{}
	for _, e := range []struct {
		field string
		port  int
	}{
		{"ports.http", p.HTTP}, {"ports.inner", p.Inner}, {"ports.admin", p.Admin}, {"ports.grpc", p.GRPC}, {"ports.expert", p.Expert},
		{"ports.redis", p.Redis}, {"ports.prometheus", p.Prometheus}, {"ports.alertmanager", p.Alertmanager}, {"ports.grafana", p.Grafana},
		{"ports.loki", p.Loki}, {"ports.otlp", p.OTLP}, {"proxy.http", v.Proxy.HTTP}, {"proxy.https", v.Proxy.HTTPS},
	} {
		c.count(e.field, e.port, 1, 65_535)
		if other, there := taken[e.port]; there {
			c.note(e.field, "%d is %s, too", e.port, other)
		}
		taken[e.port] = e.field
	}
}

func (c *checker) proxy(p Proxy) {
	if len(p.Hosts) == 0 {
		c.note("proxy.hosts", "want the address of one host at least")
	}
	for i, h := range p.Hosts {
		if _, err := netip.ParseAddrPort(h); err == nil {
			continue
		}
		if _, err := netip.ParseAddr(h); err != nil {
			c.note(fmt.Sprintf("proxy.hosts[%d]", i), "want an IP address, with a port or without, have %.60q", h)
		}
	}
	for i, a := range p.Addresses {
		if _, err := netip.ParseAddr(a); err != nil {
			c.note(fmt.Sprintf("proxy.addresses[%d]", i), "want an IP address, have %.60q", a)
		}
	}
}

func (c *checker) network(text string, hosts int) {
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is4() || p.Bits() != 24 || p != p.Masked() {
		c.note("network", "want an IPv4 network of 24 bits such as 10.89.71.0/24, have %.60q", text)
	}
	if hosts > 100 {
		c.note("replicas", "the network of compose has addresses for 100 hosts, have %d", hosts)
	}
}

// ofProfile refuses a value that has no effect, and the lack of one that is needed.
func (c *checker) ofProfile(field, text string, have, of Profile) {
	switch {
	case have == of:
		c.word(field, text, label, "a name, with the profile "+string(of))
	case text != "":
		c.note(field, "only the profile %s has one", of)
	}
}

func (c *checker) store(s Store, p Profile) {
	if s.Volume != "" {
		c.word("store.volume", s.Volume, label, "the name of a volume")
	}
	switch {
	case s.Volume != "" && s.Image != "":
		c.note("store.image", "want a volume or an image, have the volume %s, too", s.Volume)
	case s == (Store{}) && p == Serverless:
		c.note("store", "the profile %s starts hosts that import nothing: want a volume or an image", Serverless)
	}
}

func (c *checker) groups(groups []Group) {
	seen := map[string]bool{}
	for i, g := range groups {
		at := fmt.Sprintf("groups[%d]", i)
		c.word(at+".name", g.Name, label, "the name of an expert group")
		if seen[g.Name] {
			c.note(at+".name", "%s is there already", g.Name)
		}
		seen[g.Name] = true
		c.word(at+".backend", g.Backend, backend, "the name of a backend")
		c.count(at+".replicas", g.Replicas, 1, 1000)
		c.scale(at+".scale", g.Scale, false)
		c.resources(at+".resources", g.Resources)
	}
}

// Upstreams are the hosts behind nginx, each with its port.
func (v Values) Upstreams() []string {
	out := make([]string, len(v.Proxy.Hosts))
	for i, h := range v.Proxy.Hosts {
		out[i] = h
		if a, err := netip.ParseAddr(h); err == nil {
			out[i] = netip.AddrPortFrom(a, uint16(v.Ports.HTTP)).String()
		}
	}
	return out
}
