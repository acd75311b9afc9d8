package deploy_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/deploy"
)

// Every environment and profile is valid as it is, and the file wins over both.
func TestOverlays(t *testing.T) {
	for _, e := range deploy.Environments() {
		for _, p := range deploy.Profiles() {
			v, err := deploy.Load("", nil, e, p)
			if err != nil {
				t.Errorf("%s, %s: %v", e, p, err)
			}
			if v.Environment != e || v.Profile != p {
				t.Errorf("%s, %s gives %s, %s", e, p, v.Environment, v.Profile)
			}
			text, err := v.YAML()
			if err != nil {
				t.Fatal(err)
			}
			again, err := deploy.Load("printed", text, "", "")
			if err != nil || len(again.Groups) != 0 {
				t.Errorf("%s, %s, printed and read again: %v", e, p, err)
			}
			again.Groups = v.Groups // none is an empty list then
			if !reflect.DeepEqual(v, again) {
				t.Errorf("%s, %s, printed and read again:\n%+v\n%+v", e, p, v, again)
			}
		}
	}
	v, err := deploy.Load("values.yaml", []byte("environment: staging\nreplicas: 5\nscale: {max: 9}\ngroups:\n  - name: e0\n    replicas: 2\n"), "", "")
	if err != nil {
		t.Fatal(err)
	}
	staging := deploy.For(deploy.Staging, deploy.Standard)
	if v.Namespace != staging.Namespace || v.Replicas != 5 || v.Scale.Max != 9 || v.Scale.Min != staging.Scale.Min {
		t.Errorf("a file over staging gives %+v", v)
	}
	if g := v.Groups[0]; g.Name != "e0" || g.Backend != "cpu" || g.Replicas != 2 || g.Resources.CPUs == 0 {
		t.Errorf("group %+v", g)
	}
	if v, err = deploy.Load("values.yaml", []byte("environment: staging\n"), deploy.Production, ""); err != nil || v.Environment != deploy.Production || v.Namespace != "pimoe-production" {
		t.Errorf("a flag over the file gives %v, %v", v.Environment, err)
	}
	if reflect.DeepEqual(deploy.Defaults(), staging) || !reflect.DeepEqual(deploy.Defaults(), deploy.For(deploy.Production, deploy.Standard)) {
		t.Error("the defaults are not production's")
	}
}

// What is wrong with a file is said with its field, and all of it at once.
func TestWrongValues(t *testing.T) {
	for text, want := range map[string]string{
		"replicaz: 3":              "v.yaml:1: replicaz: unknown field; want one of name, namespace",
		"ports: {http: 1, htp: 2}": "v.yaml:1: ports.htp: unknown field; want one of http",
		"a: [":                     "read values v.yaml: yaml",
		"name: a\n---\nname: b":    "one YAML document",
		"replicas: three":          `v.yaml:1: replicas: want a whole number, have "three"`,
		"replicas: 3\nreplicas: 4": "v.yaml:2: replicas: given twice",
		"name: &x pimoe\nhost: *x": "v.yaml:2: host: anchors and aliases are not taken",
		"scale: 3":                 "v.yaml:1: scale: want a map of min, max, cpu_percent",
		"groups: {}":               "v.yaml:1: groups: want a list",
		"proxy: {hosts: [[]]}":     "v.yaml:1: proxy.hosts[0]: want a word",
		"region:":                  "v.yaml:1: region: empty; leave the field out",
		"region: eu":               "region: only the profile multi-region has one",
		"profile: serverless\nstore: {volume: ''}":  "store: the profile serverless starts hosts that import nothing",
		"store: {volume: a/b}":                      "store.volume: want the name of a volume",
		"store: {image: x}\nprofile: serverless":    "store.image: want a volume or an image, have the volume pimoe-models, too",
		"replicas: 0":                               "replicas: want 1 to 100, have 0",
		"scale: {min: 5, max: 4}":                   "scale.max: want 5 to 1000, have 4",
		"scale: {min: 0}":                           "scale.min: want 1 to 1000, have 0",
		"ports: {redis: 8080}":                      "ports.redis: 8080 is ports.http, too",
		"ports: {http: 70000}":                      "ports.http: want 1 to 65535, have 70000",
		"environment: prod":                         `environment: want one of [development staging production], have "prod"`,
		"name: 'a; rm -rf /'":                       "name: want lower-case letters",
		"host: \"x\\n  evil: true\"":                "host: want a name such as",
		"image: {digest: sha256:12}":                "image.digest: want sha256:",
		"image: {repository: 'a b'}":                "image.repository: want a repository",
		"network: 10.0.0.0/8":                       "network: want an IPv4 network of 24 bits",
		"proxy: {hosts: []}":                        "proxy.hosts: want the address of one host",
		"proxy: {hosts: [pimoe.example.com]}":       "proxy.hosts[0]: want an IP address",
		"proxy: {addresses: [10.0.0.0/8]}":          "proxy.addresses[0]: want an IP address",
		"programs: /usr/../bin":                     "programs: want the absolute path",
		"profile: edge\nreplicas: 2":                "replicas: the profile edge is one host, have 2",
		"groups: [{name: a}, {name: a}]":            "groups[1].name: a is there already",
		"groups: [{name: a, backend: ../../bin}]":   "groups[0].backend: want the name of a backend",
		"resources: {memory_mb: 16}":                "resources.memory_mb: want 256",
		"groups: [{name: 'x{y}'}]":                  "groups[0].name: want letters, digits and marks",
		"replicas: 0\nlimits: {rate_per_minute: 0}": "replicas: want 1 to 100, have 0; limits.rate_per_minute: want 1",
	} {
		_, err := deploy.Load("v.yaml", []byte(text), "", "")
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%q:\n%v\nwant %s", text, err, want)
		}
	}
	if _, err := deploy.Load("", nil, "prod", ""); err == nil || !strings.Contains(err.Error(), `have "prod"`) {
		t.Errorf("an unknown environment: %v", err)
	}
	long := "groups: [" + strings.Repeat("{name: a},", 5000) + "]"
	if _, err := deploy.Load("v.yaml", []byte(long), "", ""); err == nil || !strings.Contains(err.Error(), "more than 10000 values") {
		t.Errorf("a huge file: %.200v", err)
	}
}

// The configuration of a host is one that the host takes, with what the values say.
func TestHostConfig(t *testing.T) {
	for _, e := range deploy.Environments() {
		for _, p := range deploy.Profiles() {
			v := deploy.For(e, p)
			file := filepath.Join(t.TempDir(), "pimoe.yaml")
			at := deploy.Place{Addr: "0.0.0.0:8080", GRPC: "0.0.0.0:9000", Names: []string{"pimoe-1"}, Proxies: []string{"10.0.0.0/24"}, Redis: "redis:6379", Keys: "/run/keys.json"}
			if err := os.WriteFile(file, v.HostConfig(at), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, warnings, err := config.Load(config.LoadOptions{File: file, Environ: []string{"HOME=/x", "PIMOE_API_KEY=k9aB-3zQp-71Wx-rTfe"}})
			if err != nil || len(warnings) > 0 {
				t.Errorf("%s, %s: %v %v", e, p, err, warnings)
			}
			if cfg.Server.Addr != at.Addr || cfg.Limits.RequestTimeout.Seconds() != float64(v.Limits.RequestSeconds) || cfg.Limits.TotalMemoryMB != v.Resources.MemoryMB ||
				!slices.Contains(cfg.Web.Hosts, v.Host) || !slices.Equal(cfg.Web.TrustedProxies, at.Proxies) || cfg.Redis.URL != "redis://redis:6379/0" || cfg.Auth.KeysFile != at.Keys {
				t.Errorf("%s, %s: %+v", e, p, cfg)
			}
		}
	}
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	files := []deploy.File{{Path: "a/b.txt", Mode: 0o644, Data: []byte("b")}, {Path: "run.sh", Mode: 0o755, Data: []byte("#!")}}
	differences := func(want ...deploy.Difference) {
		t.Helper()
		got, err := deploy.Compare(dir, files)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("differs in %v, %v; want %v", got, err, want)
		}
	}
	differences(deploy.Difference{Path: "a/b.txt", How: "missing"}, deploy.Difference{Path: "run.sh", How: "missing"})
	if w, err := deploy.Write(dir, files); err != nil || len(w) != 2 {
		t.Fatalf("wrote %v, %v", w, err)
	}
	differences()
	if w, err := deploy.Write(dir, files); err != nil || len(w) != 0 {
		t.Errorf("wrote %v again, %v", w, err)
	}
	for _, name := range []string{"mine.txt", "secrets/key"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "a/b.txt"), []byte("edited"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o644); err != nil {
		t.Fatal(err)
	}
	differences(deploy.Difference{Path: "a/b.txt", How: "changed"}, deploy.Difference{Path: "mine.txt", How: "extra"}, deploy.Difference{Path: "run.sh", How: "mode"})
	if w, err := deploy.Write(dir, files); err != nil || len(w) != 2 {
		t.Errorf("wrote %v, %v", w, err)
	}
	differences(deploy.Difference{Path: "mine.txt", How: "extra"}) // nothing is removed
	for _, name := range []string{"../out", "/abs", "secrets", ""} {
		if _, err := deploy.Write(dir, []deploy.File{{Path: name, Mode: 0o644}}); err == nil {
			t.Errorf("a file %q was written", name)
		}
	}
}
