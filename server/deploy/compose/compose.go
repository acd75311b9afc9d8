// Package compose renders a folder for `docker compose`: the hosts, and by profiles nginx before them, the Redis that
// they share, and what watches them. Every container runs as a user without rights, on a root file system that it can't
// write, within limits.
//
// `pimoe deploy render` uses it. What Prometheus, Alertmanager, Grafana, Loki and the collector are told is the target
// monitoring's, in the folder beside this one. It refuses to write secrets: secrets.sh makes those that are missing, on
// the machine that they are for.
package compose

import (
	"fmt"
	"net/netip"

	"github.com/pimoe/pimoe/server/deploy"
	"github.com/pimoe/pimoe/server/deploy/nginx"
)

// Target renders compose.yaml and what its containers mount.
type Target struct{}

// Name implements deploy.Target.
func (Target) Name() string { return "compose" }

// Files implements deploy.Target.
func (Target) Files(v deploy.Values) ([]deploy.File, error) {
	network, err := netip.ParsePrefix(v.Network)
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	s := stack{Values: v, Images: images, network: network}
	var hosts, grpc, names []string
	for _, h := range s.Hosts() {
		hosts = append(hosts, fmt.Sprintf("%s:%d", h.Address, v.Ports.HTTP))
		grpc = append(grpc, fmt.Sprintf("%s:%d", h.Address, v.Ports.GRPC))
		names = append(names, h.Name)
	}
	return []deploy.File{
		{Path: "compose.yaml", Mode: 0o644, Data: deploy.Render(file, s)},
		{Path: "pimoe.yaml", Mode: 0o644, Data: v.HostConfig(deploy.Place{
			Addr: fmt.Sprintf("0.0.0.0:%d", v.Ports.HTTP), GRPC: fmt.Sprintf("0.0.0.0:%d", v.Ports.GRPC), Names: names,
			Proxies: []string{s.Proxied()}, Redis: fmt.Sprintf("redis:%d", v.Ports.Redis), Keys: "/run/secrets/keys.json",
		})},
		{Path: "nginx.conf", Mode: 0o644, Data: nginx.Conf(v, nginx.Place{
			HTTP: innerHTTP, HTTPS: innerHTTPS, Hosts: hosts, GRPC: grpc, PID: "/tmp/nginx.pid", Temp: "/tmp",
			Certificate: "/run/secrets/tls.crt", Key: "/run/secrets/tls.key",
		})},
		{Path: "redis.conf", Mode: 0o644, Data: deploy.Render(redis, s)},
		{Path: "secrets.sh", Mode: 0o755, Data: deploy.Render(secrets, s)},
		{Path: ".gitignore", Mode: 0o644, Data: []byte(deploy.Note + "\nsecrets/\n")},
	}, nil
}

// nginx runs as a user who may not open the ports below 1024.
const innerHTTP, innerHTTPS = 8080, 8443

// Ends of the addresses in the network. Hosts and nginx have fixed ones, so that a container that is made anew is found,
// and hosts believe nginx and nobody else.
const (
	proxyEnd     = 10
	firstHostEnd = 101
)

// images are pinned to a version of which the features in use are known.
var images = map[string]string{
	"nginx":        "docker.io/nginxinc/nginx-unprivileged:1.28-alpine",
	"redis":        "docker.io/library/redis:7.4-alpine",
	"prometheus":   "docker.io/prom/prometheus:v3.5.0",
	"alertmanager": "docker.io/prom/alertmanager:v0.28.1",
	"grafana":      "docker.io/grafana/grafana:12.1.1",
	"loki":         "docker.io/grafana/loki:3.5.3",
	"promtail":     "docker.io/grafana/promtail:3.5.3",
	"collector":    "docker.io/otel/opentelemetry-collector-contrib:0.132.0",
}

// stack is what the templates see.
type stack struct {
	deploy.Values
	Images  map[string]string
	network netip.Prefix
}

type host struct {
	Name, Address string
	Number        int
}

// Hosts are the containers of the host, from 1 on.
func (s stack) Hosts() []host {
	out := make([]host, s.Replicas)
	for i := range out {
		out[i] = host{Name: fmt.Sprintf("%s-%d", s.Values.Name, i+1), Address: s.at(firstHostEnd + i), Number: i + 1}
	}
	return out
}

// Proxied is nginx's address.
func (s stack) Proxied() string { return s.at(proxyEnd) }

func (s stack) at(end int) string {
	a := s.network.Addr().As4()
	a[3] = byte(end)
	return netip.AddrFrom4(a).String()
}

// Open is where the ports that people use are published: on this machine only, except nginx's.
func (s stack) Open() string { return "127.0.0.1" }

var _ deploy.Target = Target{}
