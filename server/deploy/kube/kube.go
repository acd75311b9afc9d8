// Package kube is the plain Kubernetes manifests: what the Helm chart of package helm gives, filled in, with the namespace,
// and in folders of their own what not every cluster has the kinds for. `kubectl apply -f` takes the folder as it is.
//
// `pimoe deploy render` uses it. It refuses to know a manifest of its own: what is not in the chart is not here.
package kube

import (
	"bytes"
	"fmt"

	"github.com/pimoe/pimoe/server/deploy"
	"github.com/pimoe/pimoe/server/deploy/helm"
)

// Target is the manifests.
type Target struct {
	Rules helm.Rules // nil = no PrometheusRule
}

func (Target) Name() string { return "kube" }

// Files are one for each template of the chart that gives something, and the values of Prometheus' adapter.
func (t Target) Files(v deploy.Values) ([]deploy.File, error) {
	chart := helm.Target{Rules: t.Rules}
	manifests, err := chart.Render(v, helm.Set{"namespace.create": true, "monitoring.enabled": true})
	if err != nil {
		return nil, err
	}
	var out []deploy.File
	for name, text := range manifests {
		out = append(out, file(name, v, text))
	}
	if v.Profile != deploy.Serverless { // where KEDA decides
		out = append(out, file("prometheus-adapter/values.yaml", v, helm.AdapterValues()))
	}
	return deploy.Sorted(out), nil
}

// file puts before a manifest where it comes from.
func file(name string, v deploy.Values, text []byte) deploy.File {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made by `pimoe deploy render` for %s, %s: change the values, not this file.\n", v.Environment, v.Profile)
	b.Write(text)
	return deploy.File{Path: name, Mode: 0o644, Data: b.Bytes()}
}

var _ deploy.Target = Target{}
