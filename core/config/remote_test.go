package config

import (
	"strings"
	"testing"
)

// TestRemote: what can't work is refused by key and cause before anything is connected to.
func TestRemote(t *testing.T) {
	const tls = "tls: {cert_file: a, key_file: b, ca_file: c}"
	for _, c := range []struct{ name, entry, want string }{
		{"list", "{group: e0, endpoints: [10.0.0.1:7070, expert-b:7070], " + tls + "}", ""},
		{"loopback without TLS", "{group: '*', endpoints: [127.0.0.1:7070, localhost:7071]}", ""},
		{"name", "{group: e0, dns: experts.moe:7070, refresh: 5s, zone: eu-1a, nameserver: 10.96.0.10:53, " + tls + "}", ""},
		{"service", "{group: e0, srv: _expert._tcp.experts.moe.svc.cluster.local, " + tls + "}", ""},
		{"no group", "{endpoints: [127.0.0.1:7070]}", "experts.remote[0].group"},
		{"no source", "{group: e0}", "experts.remote[0]: want one of endpoints, dns and srv"},
		{"two sources", "{group: e0, dns: 'a.b:1', endpoints: [127.0.0.1:7070], " + tls + "}", "one of endpoints, dns and srv"},
		{"no port", "{group: e0, endpoints: [10.0.0.1], " + tls + "}", "experts.remote[0].endpoints[0]"},
		{"port 0", "{group: e0, dns: 'experts:0', " + tls + "}", "experts.remote[0].dns"},
		{"twice", "{group: e0, endpoints: ['127.0.0.1:1', '127.0.0.1:1']}", "each endpoint once"},
		{"not a service", "{group: e0, srv: 'experts:7070', " + tls + "}", "experts.remote[0].srv"},
		{"beyond loopback without TLS", "{group: e0, endpoints: ['127.0.0.1:1', '10.0.0.1:1']}", "experts.remote[0].tls.cert_file"},
		{"a name without TLS", "{group: e0, dns: 'localhost:7070'}", "experts.remote[0].tls.ca_file"},
		{"half of TLS", "{group: e0, endpoints: ['127.0.0.1:1'], tls: {cert_file: a}}", "experts.remote[0].tls.key_file"},
		{"nameserver without a name", "{group: e0, endpoints: ['127.0.0.1:1'], nameserver: '10.0.0.1:53'}", "has no effect on endpoints"},
		{"a nameserver's name", "{group: e0, dns: 'a.b:1', nameserver: dns, " + tls + "}", "IP:PORT"},
		{"zone", "{group: e0, endpoints: ['127.0.0.1:1'], zone: 'a b'}", "experts.remote[0].zone"},
		{"refresh", "{group: e0, endpoints: ['127.0.0.1:1'], refresh: 2h}", "experts.remote[0].refresh"},
		{"group twice", "{group: e0, endpoints: ['127.0.0.1:1']}, {group: e0, endpoints: ['127.0.0.1:2']}", "experts.remote[1].group"},
		{"unknown key", "{group: e0, endpoint: 'a:1'}", "experts.remote[0].endpoint: unknown key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := Load(LoadOptions{Environ: []string{}, File: writeFile(t, "c.yaml", "experts: {remote: ["+c.entry+"]}", 0o600)})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestRemoteGroups: an entry speaks of the group of its name, * of all others, and of nobody that there is not.
func TestRemoteGroups(t *testing.T) {
	e := expertsOf(t, "remote: [{group: '*', endpoints: ['127.0.0.1:1']}, {group: e1, endpoints: ['127.0.0.1:2']}]")
	plans, _, err := e.Groups([]int{0}, 3)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range plans {
		got = append(got, p.Name+"="+p.Remote.Endpoints[0])
	}
	if text := strings.Join(got, " "); text != "e0=127.0.0.1:1 e1=127.0.0.1:2 e2=127.0.0.1:1" {
		t.Error(text)
	}
	e.Remote[1].Group = "e7"
	if _, _, err := e.Groups([]int{0}, 3); err == nil || !strings.Contains(err.Error(), `experts.remote[1].group: "e7" is wrong: want one of the expert groups: e0, e1, e2`) {
		t.Error(err)
	}
}
