package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/server/alert"
)

// The list shows what the server says, and the rules need no server: they follow the configuration.
func TestAlerts(t *testing.T) {
	body := `{"enabled":true,"alerts":[{"rule":"PimoeQueueOld","severity":"warning","state":"firing","summary":"a request has\nwaited","since":"2026-11-29T10:00:00Z","resolved":"0001-01-01T00:00:00Z"}],` +
		`"over":[{"rule":"PimoeCPUHigh","severity":"warning","state":"resolved","summary":"busy","since":"2026-11-29T09:00:00Z","resolved":"2026-11-29T09:30:00Z"}],"rules":[]}`
	asked := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path
		_, _ = w.Write([]byte(body))
	}))
	defer srv.Close()
	for _, args := range [][]string{{"alerts"}, {"alerts", "list"}} {
		out := pimoe(t, append(args, "--admin", srv.URL)...).ok(t).out
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if asked != "/admin/alerts" || len(lines) != 3 || !strings.HasPrefix(lines[1], "PimoeQueueOld") || !strings.Contains(lines[1], "firing") || !strings.Contains(lines[2], "resolved") {
			t.Errorf("%v asks for %s and shows\n%s", args, asked, out)
		}
	}
	if out := pimoe(t, "alerts", "-o", "json", "--admin", srv.URL).ok(t).out; !strings.Contains(out, `"rule":"PimoeCPUHigh"`) {
		t.Errorf("JSON %s", out)
	}
	body = `{"enabled":false,"alerts":[],"over":[],"rules":[]}`
	if out := pimoe(t, "alerts", "--admin", srv.URL).ok(t).out; !strings.Contains(out, "alerts.enabled is false") {
		t.Errorf("a server without rules: %s", out)
	}

	set := []string{"--set", "alerts.min_tokens_per_second=50", "--set", "alerts.overrides=[{rule: PimoeCPUHigh, for: 90s}]"}
	rules := decode[[]alert.Description](t, pimoe(t, append([]string{"alerts", "rules", "-o", "json"}, set...)...))
	found := map[string]alert.Description{}
	for _, r := range rules {
		found[r.Name] = r
	}
	if found["PimoeCPUHigh"].For != "1m30s" || !strings.HasPrefix(found["PimoeThroughputLow"].Expr, "(sum(rate(pimoe_completion_tokens_total[5m])) < 50)") {
		t.Errorf("rules %+v", rules)
	}
	file := pimoe(t, append([]string{"alerts", "rules", "--prometheus"}, set...)...).ok(t).out
	if !strings.HasPrefix(file, "groups:\n  - name: pimoe\n    interval: 15s\n") || !strings.Contains(file, "for: 1m30s") {
		t.Errorf("rule file %s", file)
	}
	if r := pimoe(t, "alerts", "rules", "--set", "alerts.overrides=[{rule: Nothing, off: true}]"); r.code != exitUsage || !strings.Contains(r.err, "PimoeDown") {
		t.Errorf("a rule that is not there: %+v", r)
	}
}
