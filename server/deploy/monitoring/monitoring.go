// Package monitoring renders what watches the hosts: Prometheus with the rules of server/alert, Alertmanager, Grafana's
// provisioning with the dashboards of server/dashboard, Loki with promtail, and an OpenTelemetry collector.
//
// `pimoe deploy render` uses it; the targets that start these programs mount the files. It refuses to write a secret: the key
// with which Prometheus asks for metrics is in a file of its own.
package monitoring

import (
	"bytes"
	"fmt"
	"text/template"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/alert"
	"github.com/pimoe/pimoe/server/dashboard"
	"github.com/pimoe/pimoe/server/deploy"
)

// Where the programs find what others mount for them.
const (
	metricsKey = "/run/secrets/metrics_key" // a key with role viewer and scope metrics
	dashboards = "/var/lib/grafana/dashboards"
)

// Target renders the folder.
type Target struct{}

// Name implements deploy.Target.
func (Target) Name() string { return "monitoring" }

// Files implements deploy.Target.
func (Target) Files(v deploy.Values) ([]deploy.File, error) {
	rules, err := Rules(v)
	if err != nil {
		return nil, err
	}
	files := []deploy.File{{Path: "rules/pimoe.yml", Data: append([]byte(deploy.Note+"\n"), rules...)}}
	for path, t := range templates {
		data, err := render(t, v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		files = append(files, deploy.File{Path: path, Data: data})
	}
	for _, d := range dashboard.All() {
		data, err := d.JSON()
		if err != nil {
			return nil, err
		}
		files = append(files, deploy.File{Path: "grafana/dashboards/" + d.UID + ".json", Data: data})
	}
	for i := range files {
		files[i].Mode = 0o644
	}
	return deploy.Sorted(files), nil
}

// Rules are the groups of alerting rules, as Prometheus reads them.
func Rules(v deploy.Values) ([]byte, error) {
	alerts := config.Default().Alerts
	alerts.MinTokensPerSecond = v.Monitoring.MinTokensPerSecond
	return alert.Prometheus(alert.Rules(alerts), time.Duration(v.Monitoring.ScrapeSeconds)*time.Second)
}

// scene is what the templates see.
type scene struct {
	deploy.Values
	MetricsKey, Dashboards string
}

// Hosts are the addresses of the hosts, as compose names them.
func (s scene) Hosts() []string {
	out := make([]string, s.Replicas)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d:%d", s.Name, i+1, s.Ports.HTTP)
	}
	return out
}

// Retention is in hours, as Loki has it.
func (s scene) Retention() int { return s.Monitoring.RetentionDays * 24 }

func render(t *template.Template, v deploy.Values) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(deploy.Note + "\n")
	if err := t.Execute(&b, scene{v, metricsKey, dashboards}); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

var _ deploy.Target = Target{}
