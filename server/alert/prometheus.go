package alert

import (
	"bytes"
	"fmt"
	"time"

	"gopkg.in/yaml.v3"
)

// ruleFile is a rule file of Prometheus 2.42 or later.
type ruleFile struct {
	Groups []ruleGroup `yaml:"groups"`
}

type ruleGroup struct {
	Name     string     `yaml:"name"`
	Interval string     `yaml:"interval"`
	Rules    []fileRule `yaml:"rules"`
}

type fileRule struct {
	Alert         string            `yaml:"alert"`
	Expr          string            `yaml:"expr"`
	For           string            `yaml:"for,omitempty"`
	KeepFiringFor string            `yaml:"keep_firing_for,omitempty"`
	Labels        map[string]string `yaml:"labels"`
	Annotations   map[string]string `yaml:"annotations"`
}

// Prometheus are the rules as a rule file, evaluated so often.
func Prometheus(rules []Rule, every time.Duration) ([]byte, error) {
	group := ruleGroup{Name: "pimoe", Interval: duration(every)}
	for _, r := range rules {
		f := fileRule{
			Alert: r.Name, Expr: r.Expr(), Labels: map[string]string{"severity": string(r.Severity)},
			Annotations: map[string]string{
				"summary": r.fill("{{ $value | "+r.Unit.template()+" }}", func(name string) string { return "{{ $labels." + name + " }}" }),
				"runbook": r.Runbook(),
			},
		}
		if r.For > 0 {
			f.For = duration(r.For)
		}
		if r.KeepFiring > 0 {
			f.KeepFiringFor = duration(r.KeepFiring)
		}
		group.Rules = append(group.Rules, f)
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(ruleFile{Groups: []ruleGroup{group}}); err != nil {
		return nil, fmt.Errorf("rule file: %w", err)
	}
	return b.Bytes(), enc.Close()
}
