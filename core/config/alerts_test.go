package config

import (
	"strings"
	"testing"
)

// Every wrong value is named with its key; every right one passes.
func TestAlertSettings(t *testing.T) {
	good := Default()
	good.Alerts.Webhook = AlertWebhook{URL: "https://hooks.example.com/a?b=c", Secret: "f3b7c1d9a2e84456", Timeout: good.Alerts.Webhook.Timeout}
	good.Alerts.Overrides = []AlertOverride{{Rule: "PimoeCPUHigh", Off: true}, {Rule: "PimoeQueueOld", For: "0s", Severity: "critical"}}
	if err := good.Validate(); err != nil {
		t.Errorf("valid settings: %v", err)
	}
	for key, change := range map[string]func(*Alerts){
		"alerts.interval":              func(a *Alerts) { a.Interval = 0 },
		"alerts.cpu_percent":           func(a *Alerts) { a.CPUPercent = 101 },
		"alerts.objective_percent":     func(a *Alerts) { a.ObjectivePercent = 100 },
		"alerts.p95":                   func(a *Alerts) { a.P95 = 0 },
		"alerts.webhook.url":           func(a *Alerts) { a.Webhook.URL = "https://user:word@hooks.example.com" },
		"alerts.webhook.secret":        func(a *Alerts) { a.Webhook.URL, a.Webhook.Secret = "http://a.example", "secret" },
		"alerts.overrides[0].rule":     func(a *Alerts) { a.Overrides = []AlertOverride{{Rule: "CPUHigh", Off: true}} },
		"alerts.overrides[0].for":      func(a *Alerts) { a.Overrides = []AlertOverride{{Rule: "PimoeCPUHigh", For: "-1s"}} },
		"alerts.overrides[0].severity": func(a *Alerts) { a.Overrides = []AlertOverride{{Rule: "PimoeCPUHigh", Severity: "bad"}} },
		"alerts.overrides[0]":          func(a *Alerts) { a.Overrides = []AlertOverride{{Rule: "PimoeCPUHigh"}} },
	} {
		c := Default()
		change(&c.Alerts)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), key+":") {
			t.Errorf("%s: %v", key, err)
		}
	}
}
