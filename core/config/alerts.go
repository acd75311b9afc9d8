package config

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Alerts says when something is wrong, and who is told. docs/alerts.md has the rules.
type Alerts struct {
	Enabled  bool          `koanf:"enabled"`  // evaluate the rules in the host; default true
	Interval time.Duration `koanf:"interval"` // between two evaluations; default 15 s
	// The thresholds. An alert ends at nine tenths of the way, so that it does not come and go.
	CPUPercent      int           `koanf:"cpu_percent"`       // of all processors; default 80
	MemoryPercent   int           `koanf:"memory_percent"`    // default 85
	DiskFreePercent int           `koanf:"disk_free_percent"` // default 10
	ErrorPercent    int           `koanf:"error_percent"`     // of the requests of five minutes; default 10
	P95             time.Duration `koanf:"p95"`               // until the first token, and of /api/v1/process; default 100 ms
	QueueAge        time.Duration `koanf:"queue_age"`         // of the oldest request that waits; default 1 s
	Restarts        int           `koanf:"restarts"`          // of one process in ten minutes; default 3
	Certificate     time.Duration `koanf:"certificate"`       // left to the public listener's; default 14 days
	// MinTokensPerSecond is the least throughput; 0 (default) = none is expected.
	MinTokensPerSecond int `koanf:"min_tokens_per_second"`
	// ObjectivePercent is how many requests shall be answered, in a month; default 99.9.
	ObjectivePercent float64         `koanf:"objective_percent"`
	Webhook          AlertWebhook    `koanf:"webhook"`
	Overrides        []AlertOverride `koanf:"overrides"` // later ones win
}

// AlertWebhook is an address that is told of each alert that fires or is resolved, in the form of Alertmanager's webhooks.
type AlertWebhook struct {
	URL string `koanf:"url"` // empty (default) = nobody is told
	// Secret signs what is sent. Never logged or printed.
	Secret  string        `koanf:"secret" secret:"true"`
	Timeout time.Duration `koanf:"timeout"` // of one try; default 5 s
}

// AlertOverride changes one rule. An empty field keeps the rule's own value.
type AlertOverride struct {
	Rule     string `koanf:"rule"`
	Off      bool   `koanf:"off"`
	For      string `koanf:"for"`      // how long the condition must hold
	Severity string `koanf:"severity"` // info, warning, critical
}

// Hold is For of a valid override.
func (o AlertOverride) Hold() time.Duration {
	d, _ := time.ParseDuration(o.For)
	return d
}

// alertRules are the rules that can be overridden; server/alert has a test that they are all.
var alertRules = []string{
	"PimoeCPUHigh", "PimoeMemoryHigh", "PimoeDiskFull", "PimoeCertificateExpires", "PimoeAuditUnwritable", "PimoeErrorsHigh", "PimoeFirstTokenSlow",
	"PimoeProcessSlow", "PimoeBudgetBurnsFast", "PimoeBudgetBurns", "PimoeQueueOld", "PimoeThroughputLow", "PimoeExpertCrashLoop", "PimoeStandInUsed",
	"PimoeAnswersDegraded", "PimoeDown",
}

var alertSeverities = []string{"info", "warning", "critical"}

// maxHold is the longest time that a rule waits: a day. What must hold for longer is no alert.
const maxHold = 24 * time.Hour

func defaultAlerts() Alerts {
	return Alerts{
		Enabled: true, Interval: 15 * time.Second, CPUPercent: 80, MemoryPercent: 85, DiskFreePercent: 10, ErrorPercent: 10,
		P95: 100 * time.Millisecond, QueueAge: time.Second, Restarts: 3, Certificate: 14 * 24 * time.Hour, ObjectivePercent: 99.9,
		Webhook: AlertWebhook{Timeout: 5 * time.Second}, Overrides: []AlertOverride{},
	}
}

func (v *validator) alerts(a Alerts) {
	if p := a.ObjectivePercent; !(p > 0 && p < 100) {
		v.bad("alerts.objective_percent", strconv.FormatFloat(p, 'g', -1, 64), "a number above 0 and below 100: with 100 there is nothing that may fail")
	}
	if err := checkWebhook(a.Webhook.URL); err != nil {
		v.bad("alerts.webhook.url", a.Webhook.URL, err.Error())
	}
	if s := a.Webhook.Secret; s != "" {
		if why := WeakSecret(s); why != "" {
			v.bad("alerts.webhook.secret", "", "a secret that nobody guesses: it "+why)
		}
		if a.Webhook.URL == "" {
			v.bad("alerts.webhook.secret", "", "alerts.webhook.url with it")
		}
	}
	for i, o := range a.Overrides {
		key := fmt.Sprintf("alerts.overrides[%d]", i)
		if o.Severity != "" && !slices.Contains(alertSeverities, o.Severity) {
			v.bad(key+".severity", o.Severity, "one of "+strings.Join(alertSeverities, ", "))
		}
		if d, err := time.ParseDuration(o.For); o.For != "" && (err != nil || d < 0 || d > maxHold) {
			v.bad(key+".for", o.For, "a duration from 0s to "+maxHold.String())
		}
		if !o.Off && o.For == "" && o.Severity == "" {
			v.bad(key, "", "off, for or severity: it changes nothing")
		}
	}
}

// checkWebhook takes an address without credentials in it: they would get into logs.
func checkWebhook(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("an address that begins with http:// or https://")
	case u.User != nil:
		return fmt.Errorf("an address without a user and password: alerts.webhook.secret signs what is sent")
	}
	return nil
}
