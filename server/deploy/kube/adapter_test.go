package kube

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/server/deploy"
)

// adapter is the part of prometheus-adapter's configuration that is used.
type adapter struct {
	Rules struct {
		Default          bool
		Custom, External []adapterRule
	}
}

type adapterRule struct {
	SeriesQuery string `yaml:"seriesQuery"`
	Resources   struct {
		Overrides map[string]struct{ Resource string }
	}
	Name struct {
		Matches, As string
	}
	MetricsQuery string `yaml:"metricsQuery"`
}

// TestAdapter has the real Prometheus compute the adapter's queries, as the adapter fills them in, over series as hosts have
// them; and every metric that an autoscaler asks for is one that the adapter gives.
func TestAdapter(t *testing.T) {
	out := files(t, Target{}, cases()["groups"])
	var a adapter
	d := yaml.NewDecoder(strings.NewReader(string(out[slices.IndexFunc(out, func(f deploy.File) bool { return f.Path == "prometheus-adapter/values.yaml" })].Data)))
	d.KnownFields(true)
	if err := d.Decode(&a); err != nil {
		t.Fatal(err)
	}
	if len(a.Rules.Custom) != 1 || len(a.Rules.External) != 1 {
		t.Fatalf("%+v", a.Rules)
	}
	fill := func(r adapterRule, series, matchers, by string) string {
		return strings.NewReplacer("<<.Series>>", series, "<<.LabelMatchers>>", matchers, "<<.GroupBy>>", by).Replace(r.MetricsQuery)
	}
	custom, external := a.Rules.Custom[0], a.Rules.External[0]
	promtool(t, map[string]any{
		"evaluation_interval": "1m",
		"tests": []any{map[string]any{
			"interval": "15s",
			"input_series": []any{
				series(`pimoe_queue_oldest_seconds{namespace="ns",pod="a"}`, "0 0 0 0 3x8"),
				series(`pimoe_queue_oldest_seconds{namespace="ns",pod="b"}`, "0x12"),
				// two hosts call two replicas of one group: 0.75 and 0.5 of the time; another group is busier
				series(`pimoe_expert_call_seconds_sum{namespace="ns",pod="a",group="hot",replica="0"}`, "0+11.25x12"),
				series(`pimoe_expert_call_seconds_sum{namespace="ns",pod="b",group="hot",replica="1"}`, "0+7.5x12"),
				series(`pimoe_expert_call_seconds_sum{namespace="ns",pod="a",group="cold",replica="0"}`, "0+15x12"),
			},
			"promql_expr_test": []any{
				expression(fill(custom, "pimoe_queue_oldest_seconds", `namespace="ns",pod=~"a|b"`, "pod"), `{pod="a"}`, 3, `{pod="b"}`, 0),
				expression(fill(external, "pimoe_expert_call_seconds_sum", `namespace="ns",group="hot"`, "namespace"), `{namespace="ns"}`, 1.25),
				expression("count("+custom.SeriesQuery+")", "{}", 2),
				expression("count("+external.SeriesQuery+")", "{}", 3),
			},
		}},
	})

	given := []string{"pimoe_queue_oldest_seconds", "pimoe_engine_running", external.Name.As}
	for _, o := range objects(t, out) {
		if o["kind"] != "HorizontalPodAutoscaler" {
			continue
		}
		metrics := o.at("spec", "metrics").([]any)
		for i := range metrics {
			for _, kind := range []string{"pods", "external"} {
				if name, ok := o.at("spec", "metrics", i, kind, "metric", "name").(string); ok && !slices.Contains(given, name) {
					t.Errorf("%v asks for %s", o.at("metadata", "name"), name)
				}
			}
		}
	}
}

func series(name, values string) any { return map[string]string{"series": name, "values": values} }

// expression expects samples, labels and values in turn, after two minutes.
func expression(expr string, samples ...any) any {
	var want []any
	for i := 0; i < len(samples); i += 2 {
		want = append(want, map[string]any{"labels": samples[i], "value": samples[i+1]})
	}
	return map[string]any{"expr": expr, "eval_time": "2m", "exp_samples": want}
}

func promtool(t *testing.T, tests any) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatalf("no promtool: %v; scripts/setup.sh installs it", err)
	}
	text, err := yaml.Marshal(tests)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tests.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path, "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
