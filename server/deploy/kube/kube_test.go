package kube

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/deploy"
	"github.com/pimoe/pimoe/server/deploy/helm"
)

// rules stand for the alerting rules, which another package makes.
func rules(deploy.Values) ([]byte, error) {
	return []byte("groups:\n  - name: pimoe\n    rules:\n      - alert: PimoeDown\n        expr: up == 0\n        for: 1m\n"), nil
}

// cases are the deployments whose text is kept in testdata, beside the default one in the folder deploy.
func cases() map[string]deploy.Values {
	change := func(f func(*deploy.Values)) deploy.Values {
		v := deploy.Defaults()
		f(&v)
		return v
	}
	return map[string]deploy.Values{
		"development": change(func(v *deploy.Values) {
			v.Environment, v.Namespace, v.Replicas, v.Scale = deploy.Development, "pimoe-development", 1, deploy.Scale{Min: 1, Max: 1, CPUPercent: 70}
		}),
		"edge": change(func(v *deploy.Values) {
			v.Profile, v.Replicas, v.Scale = deploy.Edge, 1, deploy.Scale{Min: 1, Max: 1, CPUPercent: 70}
			v.Resources = deploy.Resources{CPUs: 1, MemoryMB: 1024}
		}),
		"serverless": change(func(v *deploy.Values) {
			v.Profile, v.Replicas, v.Scale.Min = deploy.Serverless, 1, 0
			v.Kube.Model, v.Store.Image = "olmoe", "registry.example.com/pimoe-store:olmoe"
		}),
		"multi-region": change(func(v *deploy.Values) { v.Profile, v.Region = deploy.MultiRegion, "eu-west-1" }),
		"groups": change(func(v *deploy.Values) {
			v.Kube.Model, v.Store.Volume = "olmoe", "pimoe-models"
			v.Groups = []deploy.Group{
				{Name: "hot", Backend: "cpu", Replicas: 2, Scale: deploy.Scale{Min: 2, Max: 8, CPUPercent: 70}, Resources: deploy.Resources{CPUs: 4, MemoryMB: 8192},
					Units: []deploy.Units{{Layers: "all", Experts: "0-15"}, {Layers: "0-3", Experts: "16"}}},
				{Name: "cold", Backend: "int8", Replicas: 1, Scale: deploy.Scale{Min: 1, Max: 1, CPUPercent: 70}, Resources: deploy.Resources{CPUs: 1, MemoryMB: 2048},
					Units: []deploy.Units{{Layers: "4-15", Experts: "16"}, {Layers: "all", Experts: "17-63"}}},
			}
		}),
	}
}

// TestText compares what is rendered with the committed text: deploy/kube and deploy/helm for the default values, testdata
// for the others. PIMOE_TEST_UPDATE=1 writes it (make docs).
func TestText(t *testing.T) {
	for name, v := range cases() {
		values, err := helm.Values(v)
		if err != nil {
			t.Fatal(err)
		}
		compareFolder(t, filepath.Join("testdata", name), []deploy.File{
			{Path: "manifests.yaml", Mode: 0o644, Data: joined(files(t, Target{Rules: rules}, v))},
			{Path: "values.yaml", Mode: 0o644, Data: values},
		})
	}
}

func files(t *testing.T, target deploy.Target, v deploy.Values) []deploy.File {
	t.Helper()
	out, err := target.Files(v)
	if err != nil {
		t.Fatal(err)
	}
	again, err := target.Files(v)
	if d := cmp.Diff(out, again); err != nil || d != "" {
		t.Errorf("%s: the same values give other files: %v\n%s", target.Name(), err, d)
	}
	return out
}

// joined is all manifests as one text, each behind its name.
func joined(files []deploy.File) []byte {
	var b bytes.Buffer
	for _, f := range files {
		if !strings.HasPrefix(f.Path, "prometheus-adapter/") {
			b.WriteString("---\n# " + f.Path + "\n")
			b.Write(f.Data)
		}
	}
	return b.Bytes()
}

// compareFolder holds a folder against files: their names, bytes and modes, and nothing beside them.
func compareFolder(t *testing.T, dir string, want []deploy.File) {
	t.Helper()
	if os.Getenv("PIMOE_TEST_UPDATE") == "1" {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		for _, f := range want {
			path := filepath.Join(dir, f.Path)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, f.Data, f.Mode)); err != nil {
				t.Fatal(err)
			}
		}
	}
	there := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(dir, path)
			there[filepath.ToSlash(name)] = true
		}
		return err
	})
	if err != nil {
		t.Fatalf("%v; PIMOE_TEST_UPDATE=1 go test ./server/deploy/kube makes it", err)
	}
	for _, f := range want {
		got, err := os.ReadFile(filepath.Join(dir, f.Path))
		if d := cmp.Diff(string(got), string(f.Data)); err != nil || d != "" {
			t.Errorf("%s/%s is not what is rendered (PIMOE_TEST_UPDATE=1 writes it): %v\n%s", dir, f.Path, err, d)
		}
		delete(there, f.Path)
	}
	for name := range there {
		t.Errorf("%s/%s: no target renders it", dir, name)
	}
}

// object is a manifest of which a test looks at a part.
type object map[string]any

// at follows a path of keys and indices.
func (o object) at(path ...any) any {
	var v any = map[string]any(o)
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			l, _ := v.([]any)
			if step >= len(l) {
				return nil
			}
			v = l[step]
		}
	}
	return v
}

// objects are all manifests of files.
func objects(t *testing.T, files []deploy.File) []object {
	t.Helper()
	var out []object
	for _, f := range files {
		if strings.HasPrefix(f.Path, "prometheus-adapter/") {
			continue
		}
		for d := yaml.NewDecoder(bytes.NewReader(f.Data)); ; {
			var o map[string]any // a type of its own would be that of the maps in it, too
			err := d.Decode(&o)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", f.Path, err)
			}
			out = append(out, o)
		}
	}
	return out
}

// find is the object of that kind and name.
func find(t *testing.T, all []object, kind, name string) object {
	t.Helper()
	i := slices.IndexFunc(all, func(o object) bool { return o["kind"] == kind && o.at("metadata", "name") == name })
	if i < 0 {
		t.Fatalf("no %s %s", kind, name)
	}
	return all[i]
}

// TestNames: the files that people who come from elsewhere look for, and the figures that they know.
func TestNames(t *testing.T) {
	out := files(t, Target{}, deploy.Defaults())
	for _, name := range []string{"namespace.yaml", "deployment.yaml", "service.yaml", "hpa.yaml", "ingress.yaml"} {
		if !slices.ContainsFunc(out, func(f deploy.File) bool { return f.Path == name }) {
			t.Errorf("no %s", name)
		}
	}
	all := objects(t, out)
	find(t, all, "Namespace", "pimoe-production")
	if n := find(t, all, "Deployment", "pimoe").at("spec", "replicas"); n != 3 {
		t.Errorf("%v replicas", n)
	}
	if port := find(t, all, "Service", "pimoe").at("spec", "ports", 0, "port"); port != 8080 {
		t.Errorf("port %v", port)
	}
	hpa := find(t, all, "HorizontalPodAutoscaler", "pimoe")
	got := []any{hpa.at("spec", "minReplicas"), hpa.at("spec", "maxReplicas"), hpa.at("spec", "metrics", 0, "resource", "target", "averageUtilization")}
	if d := cmp.Diff([]any{2, 10, 70}, got); d != "" {
		t.Error(d)
	}
}

// TestConfiguration: the host takes the rendered configuration and variables without a warning.
func TestConfiguration(t *testing.T) {
	all := cases()
	all["default"] = deploy.Defaults()
	for name, v := range all {
		t.Run(name, func(t *testing.T) {
			pod := newPod(t, objects(t, files(t, Target{}, v)), nil)
			c, warnings, err := config.Load(config.LoadOptions{File: pod.config(), Environ: pod.environment()})
			if err != nil || len(warnings) > 0 {
				t.Fatalf("%v %v", warnings, err)
			}
			want := map[string]string{"development": "development", "edge": "cost_optimized"}[name]
			if want == "" {
				want = "production"
			}
			if c.Mode != want || c.Server.Addr != "0.0.0.0:8080" || c.Model != v.Kube.Model || c.Limits.Threads != v.Resources.CPUs {
				t.Errorf("%s %s %q %d", c.Mode, c.Server.Addr, c.Model, c.Limits.Threads)
			}
		})
	}
}

// TestNoSecrets: manifests name secrets and hold none, in no case.
func TestNoSecrets(t *testing.T) {
	for name, v := range cases() {
		for _, o := range objects(t, files(t, Target{Rules: rules}, v)) {
			if o["kind"] == "Secret" {
				t.Errorf("%s: a Secret among the manifests", name)
			}
		}
	}
}

// TestRules: the alerting rules that are given become a PrometheusRule and a file of the chart; an error is told.
func TestRules(t *testing.T) {
	with, without := objects(t, files(t, Target{Rules: rules}, deploy.Defaults())), objects(t, files(t, Target{}, deploy.Defaults()))
	if len(with) != len(without)+1 {
		t.Errorf("%d objects with rules, %d without", len(with), len(without))
	}
	if alert := find(t, with, "PrometheusRule", "pimoe").at("spec", "groups", 0, "rules", 0, "alert"); alert != "PimoeDown" {
		t.Errorf("alert %v", alert)
	}
	if !slices.ContainsFunc(files(t, helm.Target{Rules: rules}, deploy.Defaults()), func(f deploy.File) bool { return f.Path == "pimoe/files/rules.yaml" }) {
		t.Error("the chart has no rules")
	}
	broken := errors.New("no such rule")
	if _, err := (Target{Rules: func(deploy.Values) ([]byte, error) { return nil, broken }}).Files(deploy.Defaults()); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

// TestRefused: values that Kubernetes would refuse or that contradict each other are refused by their names, all at once.
func TestRefused(t *testing.T) {
	v := deploy.Defaults()
	v.Name, v.Namespace, v.Replicas, v.Resources.CPUs = "PiMoE", "", 11, 0
	v.Profile, v.Kube.Model = deploy.MultiRegion, "olmoe"
	group := deploy.Group{Name: "redis", Backend: "../x", Replicas: 1, Scale: deploy.Scale{Min: 0, Max: 1, CPUPercent: 70}, Resources: deploy.Resources{CPUs: 1}, Units: []deploy.Units{{Layers: "0-3;", Experts: "all"}}}
	v.Groups = []deploy.Group{group}
	_, err := Target{}.Files(v)
	if !errors.Is(err, sdk.ErrInvalid) {
		t.Fatalf("%v", err)
	}
	for _, field := range []string{"name:", "namespace:", "scale:", "resources:", "region:", "kube.model:", "groups[0].name:", "groups[0].backend:", "groups[0].scale:", "groups[0].resources:", "groups[0].units[0]:"} {
		if !strings.Contains("\n"+err.Error(), "\n"+field) {
			t.Errorf("nothing about %s in\n%v", field, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 11 {
		t.Errorf("%d problems:\n%v", n, err)
	}
}
