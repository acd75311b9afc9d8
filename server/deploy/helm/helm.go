// Package helm is the Helm chart: templates, their values made from deploy.Values, and a schema that refuses every other key.
// The same templates, filled in here, are the plain manifests of package kube, so there is one description of what runs on
// Kubernetes.
//
// `pimoe deploy render` and package kube use it. It refuses to speak to a cluster, and to link Helm: it fills in the
// templates with the few functions that they use, and a module of its own, scripts/kubecheck, holds that against the real Helm.
package helm

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"strings"
	"text/template"

	"github.com/pimoe/pimoe/server/deploy"
)

//go:embed all:chart
var source embed.FS

//go:embed chart/files/adapter-values.yaml
var adapterValues []byte

// AdapterValues is the configuration of Prometheus' adapter that the autoscalers' metrics come from.
func AdapterValues() []byte { return adapterValues }

// Rules gives the groups of alerting rules as Prometheus reads them: YAML with the key groups.
type Rules func(deploy.Values) ([]byte, error)

// Target is the chart, in the folder pimoe.
type Target struct {
	Rules Rules // nil = the chart has none
}

func (Target) Name() string { return "helm" }

// Files are the chart's. Another set of values changes values.yaml and the rules alone.
func (t Target) Files(v deploy.Values) ([]deploy.File, error) {
	files, err := t.chart(v)
	if err != nil {
		return nil, err
	}
	var out []deploy.File
	for name, data := range files {
		out = append(out, deploy.File{Path: "pimoe/" + name, Mode: 0o644, Data: data})
	}
	return deploy.Sorted(out), nil
}

// chart is every file of the chart by its path in it.
func (t Target) chart(v deploy.Values) (map[string][]byte, error) {
	values, err := Values(v)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{"values.yaml": values}
	err = fs.WalkDir(source, "chart", func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, "chart/")
		if err != nil || d.IsDir() || name == valuesTemplate {
			return err
		}
		files[name], err = source.ReadFile(path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the chart: %w", err)
	}
	if t.Rules != nil {
		if files["files/rules.yaml"], err = t.Rules(v); err != nil {
			return nil, fmt.Errorf("alerting rules: %w", err)
		}
	}
	return files, nil
}

const valuesTemplate = "values.yaml.tmpl"

// derived are the values with what follows from environment and profile.
type derived struct {
	deploy.Values
	Mode         string // of the host's configuration
	Region       string
	Autoscaled   bool
	ScaleToZero  bool
	Concurrency  int // requests at the same time at which KEDA starts one more host
	Batch        int // sequences in one step
	DrainSeconds int
	HealthPort   int
	ProxySeconds int
	StateFile    string
	Redis        bool
	RedisImage   string
}

const (
	drainSeconds = 30
	// socketSeconds is how long a WebSocket may be silent: two heartbeats and some time.
	socketSeconds = 60
	// coldSeconds is how long a first request may wait for a host.
	coldSeconds = 120
	batch       = 32
	// concurrency is 80 % of the places in a step, as for the autoscaler.
	concurrency = batch * 80 / 100
)

func derive(v deploy.Values) derived {
	d := derived{Values: v, Mode: string(v.Environment), Concurrency: concurrency, Batch: batch, DrainSeconds: drainSeconds, HealthPort: v.Ports.Expert + 1}
	d.ScaleToZero = v.Profile == deploy.Serverless
	d.Autoscaled = !d.ScaleToZero && v.Scale.Max > v.Scale.Min
	d.ProxySeconds = max(v.Limits.RequestSeconds, socketSeconds) + 30
	switch v.Profile {
	case deploy.Edge:
		d.Mode, d.Batch = "cost_optimized", batch/2 // as that preset has it
	case deploy.Serverless:
		d.ProxySeconds += coldSeconds
	case deploy.MultiRegion:
		d.Region = v.Region
	}
	if v.Replicas > 1 || d.Autoscaled || d.ScaleToZero {
		d.StateFile = "off"
	}
	if d.Redis = v.Kube.Redis.Repository != "" && v.Profile != deploy.Edge; d.Redis {
		d.RedisImage = v.Kube.Redis.Ref()
	}
	return d
}

// Values is the chart's values.yaml.
func Values(v deploy.Values) ([]byte, error) {
	if err := check(v); err != nil {
		return nil, err
	}
	t, err := template.New(valuesTemplate).Funcs(template.FuncMap{"quote": quote}).Option("missingkey=error").ParseFS(source, "chart/"+valuesTemplate)
	if err != nil {
		return nil, fmt.Errorf("read the chart's values: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, derive(v)); err != nil {
		return nil, fmt.Errorf("fill in the chart's values: %w", err)
	}
	return b.Bytes(), nil
}

var _ deploy.Target = Target{}
