package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Remote has an expert group computed by processes on other machines (pimoe-expert-NAME serve). Each endpoint is a replica.
type Remote struct {
	Group string `koanf:"group"` // name of an expert group, or "*" for every group that no other entry names
	// One of Endpoints, DNS and SRV says where the processes are.
	Endpoints  []string      `koanf:"endpoints"`  // HOST:PORT
	DNS        string        `koanf:"dns"`        // NAME:PORT: every address of the name, such as that of a headless Service
	SRV        string        `koanf:"srv"`        // name of SRV records, such as _expert._tcp.NAME.NAMESPACE.svc.cluster.local
	Nameserver string        `koanf:"nameserver"` // IP:PORT that is asked; empty = the system's
	Refresh    time.Duration `koanf:"refresh"`    // between two questions; 0 = 10 s
	// Zone is where this host is: endpoints that say that they are elsewhere get calls only while none of this zone is ready.
	Zone string    `koanf:"zone"`
	TLS  RemoteTLS `koanf:"tls"`
}

// RemoteTLS is how host and expert processes prove to each other who they are. The files are followed.
type RemoteTLS struct {
	CertFile   string `koanf:"cert_file"`   // PEM, this host's certificate first
	KeyFile    string `koanf:"key_file"`    // PEM
	CAFile     string `koanf:"ca_file"`     // PEM, the authorities of the experts' certificates
	ServerName string `koanf:"server_name"` // that the experts' certificates must be for; empty = the name that was asked for
}

// anyGroup is the group of an entry that holds for all that have none of their own.
const anyGroup = "*"

var zoneName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// remote checks the entries, as far as that is possible without a model.
func (v *validator) remote(e Experts) {
	seen := map[string]bool{}
	for i, r := range e.Remote {
		key := fmt.Sprintf("experts.remote[%d]", i)
		switch {
		case r.Group != anyGroup && !groupName.MatchString(r.Group):
			v.bad(key+".group", orEmpty(r.Group), "the name of an expert group, such as e3, or * for all others")
		case seen[r.Group]:
			v.bad(key+".group", r.Group, "a group of which no other entry speaks")
		}
		seen[r.Group] = true
		v.remoteSource(key, r)
		if r.Zone != "" && !zoneName.MatchString(r.Zone) {
			v.bad(key+".zone", r.Zone, "at most 63 letters, digits, _, . and -")
		}
		if e.Isolation == "inproc" {
			v.bad(key, "", "experts.isolation process: with inproc all experts run in the host")
		}
	}
}

func (v *validator) remoteSource(key string, r Remote) {
	given := 0
	for _, is := range []bool{len(r.Endpoints) > 0, r.DNS != "", r.SRV != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		v.bad(key, "", "one of endpoints, dns and srv")
	}
	local := given == 1 && len(r.Endpoints) > 0
	for i, e := range r.Endpoints {
		loopback, p := remoteAddress(e)
		if p != "" {
			v.bad(fmt.Sprintf("%s.endpoints[%d]", key, i), orEmpty(e), p)
		}
		if slices.Contains(r.Endpoints[:i], e) {
			v.bad(fmt.Sprintf("%s.endpoints[%d]", key, i), e, "each endpoint once")
		}
		local = local && loopback
	}
	if r.DNS != "" {
		if _, p := remoteAddress(r.DNS); p != "" {
			v.bad(key+".dns", r.DNS, p)
		}
	}
	if r.SRV != "" && (strings.ContainsAny(r.SRV, ": /") || !strings.HasPrefix(r.SRV, "_")) {
		v.bad(key+".srv", r.SRV, "_SERVICE._PROTOCOL.NAME, such as _expert._tcp.pimoe-experts.moe.svc.cluster.local")
	}
	if r.Nameserver != "" {
		switch _, err := netip.ParseAddrPort(r.Nameserver); {
		case err != nil:
			v.bad(key+".nameserver", r.Nameserver, "IP:PORT, such as 10.96.0.10:53")
		case r.DNS == "" && r.SRV == "":
			v.bad(key+".nameserver", r.Nameserver, "dns or srv with it: it has no effect on endpoints")
		}
	}
	v.remoteTLS(key+".tls", r.TLS, local)
}

// remoteTLS wants all three files, or none where nothing leaves this machine.
func (v *validator) remoteTLS(key string, t RemoteTLS, local bool) {
	if t == (RemoteTLS{}) && local {
		return
	}
	for _, f := range []struct{ name, path string }{{"cert_file", t.CertFile}, {"key_file", t.KeyFile}, {"ca_file", t.CAFile}} {
		if f.path == "" {
			v.bad(key+"."+f.name, "(empty)", "a PEM file: connections to other machines need a certificate, its key and the other end's authorities")
		}
	}
}

// remoteAddress checks HOST:PORT of another process.
func remoteAddress(addr string) (loopback bool, problem string) {
	const want = "HOST:PORT, such as 10.0.0.7:7070"
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || strings.ContainsFunc(host, unprintable) {
		return false, want
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return false, want + ": the port is a number from 1 to 65535"
	}
	loopback, _ = checkAddr(addr)
	return loopback, ""
}

// elsewhere tells the groups that run on other machines so.
func (e Experts) elsewhere(plans []GroupPlan) []Problem {
	var bad []Problem
	for i := range e.Remote {
		r := &e.Remote[i]
		found := false
		for g := range plans {
			if plans[g].Name == r.Group || r.Group == anyGroup && plans[g].Remote == nil && !e.names(plans[g].Name) {
				plans[g].Remote, found = r, true
			}
		}
		if !found && r.Group != anyGroup {
			var names []string
			for _, p := range plans {
				names = append(names, p.Name)
			}
			bad = append(bad, Problem{Key: fmt.Sprintf("experts.remote[%d].group", i), Value: short(r.Group), Want: "one of the expert groups: " + some(names)})
		}
	}
	return bad
}

// names reports whether an entry speaks of the group by its name.
func (e Experts) names(group string) bool {
	return slices.ContainsFunc(e.Remote, func(r Remote) bool { return r.Group == group })
}
