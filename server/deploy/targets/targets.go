// Package targets lists what `pimoe deploy render` can render. The command and the tests that hold the folder deploy
// against it use it. It refuses to render anything itself.
package targets

import (
	"github.com/pimoe/pimoe/server/deploy"
	"github.com/pimoe/pimoe/server/deploy/compose"
	"github.com/pimoe/pimoe/server/deploy/helm"
	"github.com/pimoe/pimoe/server/deploy/kube"
	"github.com/pimoe/pimoe/server/deploy/monitoring"
	"github.com/pimoe/pimoe/server/deploy/nginx"
	"github.com/pimoe/pimoe/server/deploy/systemd"
)

// All are the targets, in the order in which they are rendered.
func All() []deploy.Target {
	return []deploy.Target{
		compose.Target{},
		nginx.Target{},
		systemd.Target{},
		monitoring.Target{},
		kube.Target{Rules: monitoring.Rules},
		helm.Target{Rules: monitoring.Rules},
	}
}

// Named is the target of a name, or of the name that people also use for it; nil if there is none.
func Named(name string) deploy.Target {
	if name == "k8s" {
		name = "kube"
	}
	for _, t := range All() {
		if t.Name() == name {
			return t
		}
	}
	return nil
}

// Names are the targets' names.
func Names() []string {
	var out []string
	for _, t := range All() {
		out = append(out, t.Name())
	}
	return out
}
