package monitoring

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/server/deploy"
	"github.com/pimoe/pimoe/server/logging"
)

func files(t *testing.T, v deploy.Values) map[string][]byte {
	t.Helper()
	list, err := Target{}.Files(v)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, f := range list {
		if f.Mode != 0o644 || out[f.Path] != nil {
			t.Errorf("%s: mode %o, or twice", f.Path, f.Mode)
		}
		out[f.Path] = f.Data
	}
	return out
}

// full are values with everything that is optional.
func full() deploy.Values {
	v := deploy.Defaults()
	v.Replicas = 1
	v.Monitoring.Webhook, v.Monitoring.MinTokensPerSecond, v.Monitoring.Traces = "https://hooks.example.com/a?b=c", 100, "tempo:4317"
	return v
}

// deploy/monitoring is what the default values give. PIMOE_TEST_UPDATE=1 writes it.
func TestCommitted(t *testing.T) {
	dir := filepath.Join(coretest.Repo(t), "deploy", "monitoring")
	want := files(t, deploy.Defaults())
	if os.Getenv("PIMOE_TEST_UPDATE") == "1" {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		write(t, dir, want)
	}
	there := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		there[filepath.ToSlash(name)] = true
		data, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(data, want[filepath.ToSlash(name)]) {
			t.Errorf("%s is not what is rendered; run: PIMOE_TEST_UPDATE=1 go test ./server/deploy/monitoring", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !there[name] {
			t.Errorf("%s is not committed", name)
		}
	}
}

func write(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Prometheus and Alertmanager take their files, with the default values and with all that is optional.
func TestToolsTakeTheFiles(t *testing.T) {
	for name, v := range map[string]deploy.Values{"defaults": deploy.Defaults(), "full": full()} {
		dir := t.TempDir()
		rendered := files(t, v)
		key := filepath.Join(dir, "metrics_key")
		rendered["prometheus.yml"] = bytes.ReplaceAll(rendered["prometheus.yml"], []byte(metricsKey), []byte(key)) // it must be there
		rendered["metrics_key"] = []byte("x")
		write(t, dir, rendered)
		for _, args := range [][]string{{"promtool", "check", "config", "prometheus.yml"}, {"promtool", "check", "rules", "--lint-fatal", "rules/pimoe.yml"}, {"amtool", "check-config", "alertmanager.yml"}} {
			tool, err := exec.LookPath(args[0])
			if err != nil {
				t.Skipf("needs %s (Debian: prometheus, prometheus-alertmanager)", args[0])
			}
			cmd := exec.CommandContext(t.Context(), tool, args[1:]...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %v\n%s", name, args, err, out)
			}
		}
	}
}

// A critical alert of each kind gets to the receiver by the routes of Alertmanager.
func TestRoutes(t *testing.T) {
	tool, err := exec.LookPath("amtool")
	if err != nil {
		t.Skip("needs amtool (Debian: prometheus-alertmanager)")
	}
	dir := t.TempDir()
	write(t, dir, files(t, full()))
	for _, severity := range []string{"info", "warning", "critical"} {
		out, err := exec.CommandContext(t.Context(), tool, "config", "routes", "test", "--config.file="+filepath.Join(dir, "alertmanager.yml"), "--verify.receivers=operators", "alertname=PimoeDown", "severity="+severity).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", severity, err, out)
		}
	}
}

// at follows a path in a document.
func at(t *testing.T, doc any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := doc.(map[string]any)
			if !ok || m[p] == nil {
				t.Fatalf("no %v in %v", path, doc)
			}
			doc = m[p]
		case int:
			l, ok := doc.([]any)
			if !ok || len(l) <= p {
				t.Fatalf("no %v in %v", path, doc)
			}
			doc = l[p]
		}
	}
	return doc
}

func parsed(t *testing.T, data []byte) (doc map[string]any) {
	t.Helper()
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	return doc
}

// Every file for which there is no tool here is YAML or JSON, and the names in it lead somewhere.
func TestReferences(t *testing.T) {
	for _, v := range []deploy.Values{deploy.Defaults(), full()} {
		all := files(t, v)
		for name, data := range all {
			if strings.HasSuffix(name, ".json") {
				if !json.Valid(data) {
					t.Errorf("%s is no JSON", name)
				}
				continue
			}
			parsed(t, data)
		}
		doc := parsed(t, all["otel-collector.yml"])
		used := map[string]map[string]bool{"receivers": {}, "processors": {}, "exporters": {}}
		for name, p := range at(t, doc, "service", "pipelines").(map[string]any) {
			for part := range used {
				for i := range at(t, p, part).([]any) {
					used[part][at(t, p, part, i).(string)] = true
				}
			}
			if name != "traces" && name != "logs" {
				t.Errorf("a pipeline %s", name)
			}
		}
		for part, names := range used {
			defined := at(t, doc, part).(map[string]any)
			for name := range names {
				if _, ok := defined[name]; !ok {
					t.Errorf("pipelines use %s %s, which is not defined", part, name)
				}
			}
			for name := range defined {
				if !names[name] && (v.Monitoring.Traces == "" || name != "debug") {
					t.Errorf("%s %s is defined and not used", part, name)
				}
			}
		}
		if out := at(t, doc, "service", "pipelines", "traces", "exporters", 0); (out == "debug") != (v.Monitoring.Traces == "") {
			t.Errorf("traces go to %v", out)
		}
		source := parsed(t, all["grafana/provisioning/datasources/pimoe.yml"])
		if url := at(t, source, "datasources", 0, "url"); url != "http://prometheus:9090" {
			t.Errorf("Grafana asks %v", url)
		}
		if path := at(t, parsed(t, all["grafana/provisioning/dashboards/pimoe.yml"]), "providers", 0, "options", "path"); path != dashboards {
			t.Errorf("dashboards in %v", path)
		}
		hosts := at(t, parsed(t, all["prometheus.yml"]), "scrape_configs", 0, "static_configs", 0, "targets").([]any)
		if len(hosts) != v.Replicas || hosts[0] != "pimoe-1:8080" {
			t.Errorf("hosts %v", hosts)
		}
	}
}

// What promtail takes out of a line is there in a line that the host writes, inside of one that Docker writes.
func TestPromtailReadsOurLog(t *testing.T) {
	stages := at(t, parsed(t, files(t, deploy.Defaults())["promtail.yml"]), "scrape_configs", 0, "pipeline_stages").([]any)
	var log bytes.Buffer
	logging.New(&log, config.Log{Level: "info", Format: "json"}, false, false).Warn("request failed", "request", "req-7", "group", "e3", "trace_id", "abc")
	docker, err := json.Marshal(map[string]any{"log": log.String(), "stream": "stderr", "time": time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	line, out, labels, meta := string(docker), map[string]string{}, map[string]string{}, map[string]string{}
	for i := range stages {
		stage := stages[i].(map[string]any)
		for name := range stage {
			switch body := stage[name].(map[string]any); name {
			case "docker":
				line = field(t, line, "log")
			case "json":
				for to, expr := range body["expressions"].(map[string]any) {
					out[to] = field(t, line, strings.Trim(expr.(string), `"`))
				}
			case "timestamp":
				layout := map[any]string{"RFC3339Nano": time.RFC3339Nano}[body["format"]]
				if at, err := time.Parse(layout, out[body["source"].(string)]); err != nil || time.Since(at).Abs() > time.Hour {
					t.Errorf("time %v: %v", at, err)
				}
			case "labels":
				pick(t, labels, body, out)
			case "structured_metadata":
				pick(t, meta, body, out)
			default:
				t.Errorf("a stage %s, which this test does not know", name)
			}
		}
	}
	if labels["level"] != "warn" || len(labels) != 1 || meta["request"] != "req-7" || meta["group"] != "e3" || meta["trace"] != "abc" {
		t.Errorf("labels %v, metadata %v", labels, meta)
	}
}

// field is a member of a JSON object, by its name or as a JMESPath in quotes.
func field(t *testing.T, line, name string) string {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal([]byte(line), &members); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	text, ok := members[name].(string)
	if !ok {
		t.Errorf("no %s in %s", name, line)
	}
	return text
}

func pick(t *testing.T, to map[string]string, body map[string]any, from map[string]string) {
	t.Helper()
	for name, source := range body {
		v, ok := from[source.(string)]
		if !ok {
			t.Errorf("nothing was taken out as %v", source)
		}
		to[name] = v
	}
}
