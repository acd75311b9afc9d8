package chart

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	helm "helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/pimoe/pimoe/scripts/kubecheck/committed"
)

func chartDir(t *testing.T) string { return filepath.Join(committed.Deploy(t), "helm", "pimoe") }

// rendered is what Helm makes of the chart, as text.
func rendered(t *testing.T, ch *helm.Chart, release, namespace string, values map[string]any) (string, error) {
	t.Helper()
	all, err := chartutil.ToRenderValues(ch, values, chartutil.ReleaseOptions{Name: release, Namespace: namespace, IsInstall: true, Revision: 1}, chartutil.DefaultCapabilities.Copy())
	if err != nil {
		return "", err
	}
	out, err := engine.Engine{Strict: true}.Render(ch, all)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for name, text := range out {
		if filepath.Ext(name) == ".yaml" {
			b.WriteString("---\n" + text + "\n")
		}
	}
	return b.String(), nil
}

func load(t *testing.T) *helm.Chart {
	t.Helper()
	ch, err := loader.LoadDir(chartDir(t))
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func valuesOf(t *testing.T, path string) map[string]any {
	t.Helper()
	v, err := chartutil.ReadValuesFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// meaning is the objects of a stream by kind and name, as JSON in one order. A configuration inside a ConfigMap is compared by
// what it says, too: two writers of YAML break lines elsewhere.
func meaning(t *testing.T, stream string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, doc := range committed.Documents(t, []byte(stream)) {
		var o map[string]any
		if err := yaml.Unmarshal(doc, &o); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if data, ok := o["data"].(map[string]any); ok {
			for name, text := range data {
				var config any
				if err := yaml.Unmarshal([]byte(text.(string)), &config); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				data[name] = config
			}
		}
		metadata, ok := o["metadata"].(map[string]any)
		if !ok {
			t.Fatalf("no object:\n%s", doc)
		}
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		out[fmt.Sprint(o["kind"], " ", metadata["name"])] = string(b)
	}
	return out
}

// TestHelmGivesTheManifests: for every committed committed.Deployment, the real Helm makes of the chart and its values what the plain
// manifests say.
func TestHelmGivesTheManifests(t *testing.T) {
	for _, d := range committed.All(t) {
		ch := load(t)
		if d.Rules {
			ch.Files = append(ch.Files, &helm.File{Name: "files/rules.yaml", Data: rulesOf(t, d)})
		}
		values := valuesOf(t, d.Values)
		values["namespace"].(map[string]any)["create"] = true
		values["monitoring"].(map[string]any)["enabled"] = true
		text, err := rendered(t, ch, "pimoe", d.Namespace, values)
		if err != nil {
			t.Fatalf("%s: %v", d.Name, err)
		}
		got, want := meaning(t, text), meaning(t, string(d.Manifests))
		for name := range maps.Keys(want) {
			if got[name] != want[name] {
				t.Errorf("%s: %s: Helm gives\n%s\nthe manifests have\n%s", d.Name, name, got[name], want[name])
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: Helm gives %d objects, the manifests are %d", d.Name, len(got), len(want))
		}
	}
}

// rulesOf is the text of the rules that a deployment was rendered with.
func rulesOf(t *testing.T, d committed.Deployment) []byte {
	t.Helper()
	for _, doc := range committed.Documents(t, d.Manifests) {
		var o struct {
			metav1.TypeMeta `json:",inline"`
			Spec            any `json:"spec"`
		}
		if err := yaml.Unmarshal(doc, &o); err == nil && o.Kind == "PrometheusRule" {
			b, err := yaml.Marshal(o.Spec)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	t.Fatalf("%s has no rules", d.Name)
	return nil
}

// TestDefaults: with the chart's own values Helm gives what kubectl applies from the folder deploy/kube, but for the namespace,
// which is Helm's to make.
func TestDefaults(t *testing.T) {
	text, err := rendered(t, load(t), "pimoe", "pimoe-production", map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	got, want := meaning(t, text), meaning(t, string(committed.Folder(t, filepath.Join(committed.Deploy(t), "kube"))))
	delete(want, "Namespace pimoe-production")
	if len(got) != len(want) {
		t.Errorf("%d objects, want %d", len(got), len(want))
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s differs", name)
		}
	}
}

// TestRelease: nothing in the chart is tied to one release's name or namespace.
func TestRelease(t *testing.T) {
	text, err := rendered(t, load(t), "second", "elsewhere", map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range committed.Decode(t, []byte(text)) {
		m := o.(metav1.Object)
		if m.GetNamespace() != "elsewhere" || !strings.HasPrefix(m.GetName(), "second") {
			t.Errorf("%T %s in %s", o, m.GetName(), m.GetNamespace())
		}
	}
}

// TestLint is `helm lint --strict` of the chart with the values of every deployment.
func TestLint(t *testing.T) {
	for _, d := range committed.All(t) {
		for _, m := range lint.All(chartDir(t), valuesOf(t, d.Values), d.Namespace, true).Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s: %v", d.Name, m)
			}
		}
	}
}

// TestSchema: wrong values are refused, by their names.
func TestSchema(t *testing.T) {
	ch := load(t)
	for field, text := range map[string]string{
		"replica":        "replica: 3",
		"cpus":           "resources: {cpus: 0}",
		"memoryMB":       "resources: {memoryMB: 4Gi}",
		"cpuPercent":     "autoscaling: {cpuPercent: 700}",
		"http":           "ports: {http: 80800}",
		"digest":         "image: {digest: latest}",
		"drain_timeout":  "config: {server: {drain_timeout: 1m}}",
		"max_batch_size": "config: {limits: {max_batch_size: many}}",
		"apiKey":         "secret: {apiKey: abc}",
		"name":           "groups: [{name: Hot, backend: cpu, replicas: 1, minReplicas: 1, maxReplicas: 1, cpuPercent: 70, cpus: 1, memoryMB: 512}]",
		"backend":        "groups: [{name: hot, replicas: 1, minReplicas: 1, maxReplicas: 1, cpuPercent: 70, cpus: 1, memoryMB: 512}]",
	} {
		var values map[string]any
		if err := yaml.Unmarshal([]byte(text), &values); err != nil {
			t.Fatal(err)
		}
		if _, err := rendered(t, ch, "pimoe", "pimoe", values); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := rendered(t, ch, "pimoe", "pimoe", map[string]any{"config": map[string]any{"policy": "fallback"}}); err != nil {
		t.Errorf("a key of the host's configuration: %v", err)
	}
}

// TestPackage: the chart is a chart: nothing in its folder is left out by .helmignore, and a package of it can be read again.
func TestPackage(t *testing.T) {
	path, err := chartutil.Save(load(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ch, err := loader.LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{"Chart.yaml": true, "values.yaml": true}
	for _, f := range ch.Raw {
		there[f.Name] = true
	}
	err = filepath.WalkDir(chartDir(t), func(path string, d os.DirEntry, err error) error {
		if name, _ := filepath.Rel(chartDir(t), path); err == nil && !d.IsDir() && !there[name] {
			t.Errorf("%s is not in the package", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
