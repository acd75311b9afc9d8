package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fasthttp/websocket"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/metrics/catalogue"
	"github.com/pimoe/pimoe/server/redisdb/redistest"
	"github.com/pimoe/pimoe/server/seal"
)

const onDevices = "needs experts on a device: TestCUDADevices"

// elsewhere are metrics that need a fault or a machine that this test has not, and why.
var elsewhere = map[string]string{
	"pimoe_alert_notifications_total":       "needs a webhook",
	"pimoe_trace_requests_total":            "needs a collector",
	"pimoe_trace_spans_exported_total":      "needs a collector",
	"pimoe_trace_spans_dropped_total":       "needs a collector",
	"pimoe_trace_spans_queued":              "needs a collector",
	"pimoe_profiles_total":                  "needs profiles at an interval",
	"pimoe_energy_joules_total":             "needs a processor that counts energy: server/cost",
	"pimoe_tls_certificate_expires_seconds": "the listener would speak https alone: server/tls_test.go",
	"pimoe_device_memory_total_bytes":       onDevices,
	"pimoe_device_memory_used_bytes":        onDevices,
	"pimoe_device_busy_ratio":               onDevices,
	"pimoe_device_weight_bytes":             onDevices,
	"pimoe_device_kernel_seconds_total":     onDevices,
	"pimoe_device_copy_seconds_total":       onDevices,
	"pimoe_device_copy_bytes_total":         onDevices,
	"pimoe_cache_rejected_total":            "needs a record that nobody here has written: server/cached_test.go",
}

// TestMetrics: a server with all that it can have, and with some of every kind of request, prints every metric of the catalogue and
// no other one, with the labels that the catalogue says. promtool finds nothing to say about it, and the real Prometheus scrapes it.
func TestMetrics(t *testing.T) {
	redis := redistest.Start(t)
	dir := home(t)
	keys := filepath.Join(dir, "seal.keys")
	if _, err := seal.Create(keys); err != nil {
		t.Fatal(err)
	}
	p := launch(t, dir, "--set", "encryption.key_file="+keys, "--set", "redis.url=redis://"+redis.Addr, "--set", "cache.answers=on", "--set", "cache.shared=redis",
		"--set", "metrics.interval=100ms", "--set", "policy=renormalise", "--set", "jobs.max_per_tenant=1")
	p.ready(t)
	p.use(t)
	redis.Kill()
	asked := 0
	eventually(t, "Redis is missed", func() bool {
		asked++ // what is kept in memory asks no Redis
		p.send(t, http.MethodPost, "/v1/completions", "", fmt.Sprintf(`{"model":"pimoe-tiny","prompt":"Day %d","max_tokens":1,"temperature":0}`, asked), 200)
		return strings.Contains(p.metrics(t), "pimoe_cache_redis_lost_total")
	})
	text := p.all(t)
	checkNames(t, text)
	lint(t, text)
	scrape(t, p)
}

func (p *program) send(t *testing.T, method, path, key, body string, want int) []byte {
	t.Helper()
	status, answer, err := p.ask(method, path, key, body)
	if err != nil || status != want {
		t.Fatalf("%s %s: %d %s, %v", method, path, status, answer, err)
	}
	return answer
}

// use sends some of each kind of request, and waits until the meter has seen them.
func (p *program) use(t *testing.T) {
	t.Helper()
	const post = http.MethodPost
	p.send(t, post, "/v1/completions", "", fmt.Sprintf(completion, false), 200)
	for range 2 {
		p.send(t, post, "/v1/completions", "again", fmt.Sprintf(completion, true), 200)
	}
	p.send(t, post, "/api/v1/process", "", `{"input_tensor":[[[`+strings.Repeat("0.5,", 255)+`0.5]]],"expected_experts":[[[0]]]}`, 200)
	p.send(t, post, "/api/v1/jobs", "", jobBody, 202)
	p.send(t, post, "/api/v1/jobs", "", jobBody, 429)
	eventually(t, "the job is done", func() bool { return strings.Contains(p.metrics(t), `pimoe_jobs{state="done"} 1`) })
	r, err := http.Post(p.admin+"/admin/reload", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	c := p.talk(t)
	body := `{"model":"pimoe-tiny","prompt":"Once","max_tokens":8,"ignore_eos":true}`
	say := func(m string) {
		if err := c.WriteMessage(websocket.TextMessage, []byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	say(`{"type":"generate","id":"a","data":` + body + `}`)
	h := hear(t, c, 8)
	say(fmt.Sprintf(`{"type":"resume","id":"b","data":{"generation":%q,"last_event":2,"request":%s}}`, h.name, strings.TrimSuffix(body, "}")+fmt.Sprintf(`,"seed":%d}`, h.seed)))
	hear(t, c, 2)
	c.Close()
	for _, series := range []string{"pimoe_layer_drift_ratio{", "pimoe_tenant_cpu_seconds_total{", "pimoe_ws_closed_total{", `pimoe_process_private_bytes{process="host"`} {
		eventually(t, series, func() bool { return strings.Contains(p.all(t), series) })
	}
}

// all is /metrics as an operator sees it.
func (p *program) all(t *testing.T) string {
	t.Helper()
	admin := *p
	admin.url = p.admin
	return admin.metrics(t)
}

var sample = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$`)

var label = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\]|\\.)*"`)

// seriesSum adds all series of a metric.
func seriesSum(text, name string) (sum float64) {
	for line := range strings.Lines(text) {
		if m := sample.FindStringSubmatch(strings.TrimSuffix(line, "\n")); m != nil && m[1] == name {
			v, _ := strconv.ParseFloat(m[3], 64)
			sum += v
		}
	}
	return sum
}

// checkNames holds what is printed against the catalogue, in both directions.
func checkNames(t *testing.T, text string) {
	t.Helper()
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("no series: %q", line)
			continue
		}
		entry, known := catalogue.Of(m[1])
		if !known {
			t.Errorf("%s is not in the catalogue", m[1])
			continue
		}
		seen[entry.Name] = true
		has := map[string]bool{}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if has[l[1]] = true; !entry.Has(l[1]) {
				t.Errorf("%s has a label %s that the catalogue does not know", m[1], l[1])
			}
		}
		for _, l := range entry.Labels {
			if !has[l] {
				t.Errorf("%s lacks its label %s", line, l)
			}
		}
	}
	for _, m := range catalogue.All() {
		switch why, other := elsewhere[m.Name]; {
		case other && seen[m.Name]:
			t.Logf("%s is printed here, too (%s)", m.Name, why)
		case !other && !seen[m.Name]:
			t.Errorf("%s is in the catalogue, and no server prints it", m.Name)
		}
	}
	checkElsewhere(t)
}

// checkElsewhere finds who prints what this test can't see.
func checkElsewhere(t *testing.T) {
	t.Helper()
	left := maps.Clone(elsewhere)
	for _, top := range []string{"core", "server"} {
		err := filepath.WalkDir(filepath.Join(coretest.Repo(t), top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/catalogue/") {
				return err
			}
			b, err := os.ReadFile(path)
			for name := range left {
				if strings.Contains(string(b), strconv.Quote(name)) {
					delete(left, name)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(left) > 0 {
		t.Errorf("nobody prints %v", slices.Sorted(maps.Keys(left)))
	}
}

// tool finds a program of Prometheus.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("no %s: %v; scripts/setup.sh installs it", name, err)
	}
	return path
}

// lint fails for whatever promtool has to say.
func lint(t *testing.T, text string) {
	t.Helper()
	cmd := exec.Command(tool(t, "promtool"), "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// scrape has a Prometheus of the test's own scrape the server, and asks it what it has found.
func scrape(t *testing.T, p *program) {
	t.Helper()
	dir, addr := t.TempDir(), "127.0.0.1:"+freePort(t)
	config := fmt.Sprintf("global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: pimoe\n  static_configs: [{targets: [%q]}]\n", strings.TrimPrefix(p.admin, "http://"))
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, tool(t, "prometheus"), "--config.file", filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", addr)
	said := &safeBuffer{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	eventually(t, "Prometheus scrapes", func() bool { return query(addr, `up{job="pimoe"}`) == 1 })
	for _, m := range catalogue.All() {
		if elsewhere[m.Name] != "" {
			continue
		}
		series := m.Name
		if m.Type == catalogue.Histogram {
			series = `histogram_quantile(0.5, sum by (le) (` + m.Name + `_bucket))`
		} else if m.Type == catalogue.Summary {
			series += "_count"
		}
		if query(addr, "count("+series+")") < 1 {
			t.Errorf("Prometheus has no %s", series)
		}
	}
	if t.Failed() {
		t.Logf("Prometheus: %s", said)
	}
}

// query is the value of an expression, 0 if there is none.
func query(addr, expr string) float64 {
	r, err := http.Get("http://" + addr + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return 0
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	var answer struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if err != nil || json.Unmarshal(b, &answer) != nil || len(answer.Data.Result) == 0 {
		return 0
	}
	text, _ := answer.Data.Result[0].Value[1].(string)
	v, _ := strconv.ParseFloat(text, 64)
	return v
}
