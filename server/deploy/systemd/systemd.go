// Package systemd renders the unit of a host on a machine without containers: started when it is ready, confined as far
// as the host's own confinement of plugins lets it, restarted when it fails. With the profile serverless a socket starts
// the host with the first request, and it ends when nobody has asked for a while.
//
// `pimoe deploy render` uses it. Units need systemd 250. It refuses to carry the API key: the unit names the file from
// which systemd hands it over.
package systemd

import (
	"fmt"
	"net/netip"

	"github.com/pimoe/pimoe/server/deploy"
)

// Target renders the units and the host's configuration.
type Target struct{}

// Name implements deploy.Target.
func (Target) Name() string { return "systemd" }

// Files implements deploy.Target.
func (Target) Files(v deploy.Values) ([]deploy.File, error) {
	at := deploy.Place{Addr: fmt.Sprintf("0.0.0.0:%d", v.Ports.HTTP), GRPC: fmt.Sprintf("0.0.0.0:%d", v.Ports.GRPC), Proxies: v.Proxy.Addresses}
	if v.Profile == deploy.Serverless { // what starts it is a connection to its socket, and gRPC has none
		at.Addr, at.GRPC = fmt.Sprintf("127.0.0.1:%d", v.Ports.Inner), ""
	}
	for _, h := range v.Upstreams() {
		if name := netip.MustParseAddrPort(h).Addr().String(); name != "127.0.0.1" {
			at.Names = append(at.Names, name)
		}
	}
	files := []deploy.File{
		{Path: v.Name + ".service", Mode: 0o644, Data: deploy.Render(host, v)},
		{Path: v.Name + ".sysusers.conf", Mode: 0o644, Data: deploy.Render(user, v)},
		{Path: "pimoe.yaml", Mode: 0o644, Data: v.HostConfig(at)},
	}
	if v.Profile == deploy.Serverless {
		files = append(files,
			deploy.File{Path: v.Name + "-door.socket", Mode: 0o644, Data: deploy.Render(socket, v)},
			deploy.File{Path: v.Name + "-door.service", Mode: 0o644, Data: deploy.Render(door, v)})
	}
	return deploy.Sorted(files), nil
}

var host = deploy.Template("pimoe.service", `{{note}}
# Needs systemd 250, the executables in {{.Programs}}, the user of {{.Name}}.sysusers.conf, /etc/{{.Name}}/pimoe.yaml, and the API
# key in /etc/{{.Name}}/api_key, which only root has to be able to read.
[Unit]
Description=PiMoE: Mixture-of-Experts models with every expert in its own process
Documentation=https://github.com/pimoe/pimoe/tree/main/docs
Wants=network-online.target
After=network-online.target
{{- if eq .Profile "serverless"}}
StopWhenUnneeded=yes
{{- end}}

[Service]
Type=notify
# A successor that takes over says so itself: systemctl kill -s USR2 --kill-whom=main {{.Name}}
NotifyAccess=all
ExecStart={{.Programs}}/pimoe serve --config /etc/{{.Name}}/pimoe.yaml --take-over
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
# The first start may have to split and pack a large model.
TimeoutStartSec=15min
# The host lets requests end for 30 s.
TimeoutStopSec=45s
Restart=on-failure
RestartSec=1s
# An expert that runs out of memory is restarted by the host, and only that one.
OOMPolicy=continue
User={{.Name}}
Group={{.Name}}
StateDirectory={{.Name}}
StateDirectoryMode=0700
Environment=PIMOE_HOME=%S/{{.Name}} PIMOE_API_KEY_FILE=%d/api_key
LoadCredential=api_key:/etc/{{.Name}}/api_key
UMask=0077

# The host divides its cgroup: one for each plugin. So control groups can't be protected from it.
Delegate=yes
CPUAccounting=yes
CPUQuota={{.Resources.CPUs}}00%
MemoryAccounting=yes
MemoryMax={{.Resources.MemoryMB}}M
MemorySwapMax=0
TasksMax=4096
LimitNOFILE=65536
LimitCORE=0

# Plugins get namespaces of their own, without rights outside of them.
RestrictNamespaces=user net ipc
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
# The host installs filters of its own for its plugins.
SystemCallFilter=@system-service seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallErrorNumber=EPERM
{{- if ne .Profile "serverless"}}

[Install]
WantedBy=multi-user.target
{{- end}}
`)

var user = deploy.Template("sysusers.conf", `{{note}}
u {{.Name}} - "PiMoE" - -
`)

var socket = deploy.Template("door.socket", `{{note}}
# Takes connections while no host runs; the first one starts it.
[Unit]
Description=Socket that starts PiMoE

[Socket]
ListenStream={{.Ports.HTTP}}
Accept=no

[Install]
WantedBy=sockets.target
`)

var door = deploy.Template("door.service", `{{note}}
# Passes connections on to the host, which it starts and waits for; without a connection for five minutes it ends, and the
# host with it.
[Unit]
Description=Door of PiMoE
Requires={{.Name}}.service {{.Name}}-door.socket
After={{.Name}}.service {{.Name}}-door.socket

[Service]
Type=notify
ExecStart=/lib/systemd/systemd-socket-proxyd --exit-idle-time=5min 127.0.0.1:{{.Ports.Inner}}
DynamicUser=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
MemoryMax=128M
`)

var _ deploy.Target = Target{}
