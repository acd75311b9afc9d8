package smoke

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/server/deploy"
	"github.com/pimoe/pimoe/server/deploy/compose"
)

// composition is as much of the compose specification as is used. What is not in it is an error, so that a slip in a
// field's name is found; scripts/composecheck holds the file against the whole specification.
type composition struct {
	Name     string             `yaml:"name"`
	Services map[string]service `yaml:"services"`
	Networks map[string]any     `yaml:"networks"`
	Volumes  map[string]struct {
		Name     string `yaml:"name"`
		External bool   `yaml:"external"`
	} `yaml:"volumes"`
	Secrets map[string]struct {
		File string `yaml:"file"`
	} `yaml:"secrets"`
	XConfined any `yaml:"x-confined"`
	XHost     any `yaml:"x-host"`
}

type service struct {
	Image       string            `yaml:"image"`
	User        string            `yaml:"user"`
	Profiles    []string          `yaml:"profiles"`
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Secrets     []string          `yaml:"secrets"`
	Volumes     []struct {
		Type     string `yaml:"type"`
		Source   string `yaml:"source"`
		Target   string `yaml:"target"`
		ReadOnly bool   `yaml:"read_only"`
	} `yaml:"volumes"`
	Networks    yaml.Node         `yaml:"networks"`
	Ports       []string          `yaml:"ports"`
	DependsOn   map[string]any    `yaml:"depends_on"`
	Restart     string            `yaml:"restart"`
	ReadOnly    bool              `yaml:"read_only"`
	CapDrop     []string          `yaml:"cap_drop"`
	CapAdd      []string          `yaml:"cap_add"`
	SecurityOpt []string          `yaml:"security_opt"`
	Logging     any               `yaml:"logging"`
	GracePeriod string            `yaml:"stop_grace_period"`
	CPUs        float64           `yaml:"cpus"`
	MemLimit    string            `yaml:"mem_limit"`
	PidsLimit   int               `yaml:"pids_limit"`
	Ulimits     map[string]int    `yaml:"ulimits"`
	Tmpfs       []string          `yaml:"tmpfs"`
	Labels      map[string]string `yaml:"labels"`
	Healthcheck struct {
		Test        []string `yaml:"test"`
		Interval    string   `yaml:"interval"`
		Timeout     string   `yaml:"timeout"`
		StartPeriod string   `yaml:"start_period"`
		Retries     int      `yaml:"retries"`
	} `yaml:"healthcheck"`
}

// renderedCompose writes the target into a folder and reads its compose.yaml.
func renderedCompose(t *testing.T, v deploy.Values) (dir string, c composition) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "compose")
	files, err := compose.Target{}.Files(v)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := deploy.Write(dir, files); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		t.Fatalf("%s, %s: %v", v.Environment, v.Profile, err)
	}
	return dir, c
}

// TestCompose: every service of every environment and profile is confined, limited and pinned, and names only what there
// is.
func TestCompose(t *testing.T) {
	for _, e := range deploy.Environments() {
		for _, p := range deploy.Profiles() {
			v := deploy.For(e, p)
			dir, c := renderedCompose(t, v)
			hosts := 0
			for name, s := range c.Services {
				checkService(t, dir, c, name, s)
				if s.Image == v.Image.Ref() {
					hosts++
				}
			}
			if hosts != v.Replicas {
				t.Errorf("%s, %s: %d hosts, want %d", e, p, hosts, v.Replicas)
			}
			for name, secret := range c.Secrets {
				if secret.File != "./secrets/"+name {
					t.Errorf("secret %s comes from %s", name, secret.File)
				}
			}
		}
	}
}

// monitored are the files of the target monitoring that containers mount.
var monitored = []string{"prometheus.yml", "rules", "alertmanager.yml", "grafana/provisioning", "grafana/dashboards", "loki.yml", "promtail.yml", "otel-collector.yml"}

func checkService(t *testing.T, dir string, c composition, name string, s service) {
	t.Helper()
	if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) {
		t.Errorf("%s is not confined", name)
	}
	if strings.HasPrefix(s.User, "0:") != slices.Equal(s.CapAdd, []string{"DAC_READ_SEARCH"}) || s.User == "" && name != "nginx" { // nginx's image has a user
		t.Errorf("%s runs as %q with %v", name, s.User, s.CapAdd)
	}
	if s.CPUs <= 0 || s.MemLimit == "" || s.PidsLimit <= 0 || s.Restart != "unless-stopped" || s.Logging == nil {
		t.Errorf("%s has no limits", name)
	}
	if i := strings.LastIndex(s.Image, ":"); i < 0 || strings.HasSuffix(s.Image, ":latest") && !strings.Contains(s.Image, "pimoe") {
		t.Errorf("%s: image %s", name, s.Image)
	}
	for _, p := range s.Profiles {
		if !slices.Contains([]string{"proxy", "cache", "monitoring", "logs", "tracing"}, p) {
			t.Errorf("%s: profile %s", name, p)
		}
	}
	for _, key := range s.Secrets {
		if _, there := c.Secrets[key]; !there {
			t.Errorf("%s: no secret %s", name, key)
		}
	}
	for other := range s.DependsOn {
		if _, there := c.Services[other]; !there {
			t.Errorf("%s depends on %s", name, other)
		}
	}
	for _, m := range s.Volumes {
		switch rest, beside := strings.CutPrefix(m.Source, "../monitoring/"); {
		case m.Type == "volume":
			if _, there := c.Volumes[m.Source]; !there {
				t.Errorf("%s: no volume %s", name, m.Source)
			}
		case !m.ReadOnly:
			t.Errorf("%s may write %s", name, m.Source)
		case beside:
			if !slices.Contains(monitored, rest) {
				t.Errorf("%s mounts %s", name, m.Source)
			}
		case strings.HasPrefix(m.Source, "./"):
			if _, err := os.Stat(filepath.Join(dir, m.Source)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	var networks map[string]any
	if s.Networks.Decode(&networks) != nil {
		var list []string
		if err := s.Networks.Decode(&list); err != nil {
			t.Errorf("%s: networks: %v", name, err)
		}
		networks = map[string]any{}
		for _, n := range list {
			networks[n] = nil
		}
	}
	for n := range networks {
		if _, there := c.Networks[n]; !there {
			t.Errorf("%s: no network %s", name, n)
		}
	}
	if _, outside := networks["outside"]; len(s.Ports) > 0 && !outside {
		t.Errorf("%s publishes ports from an internal network", name)
	}
	for _, port := range s.Ports {
		if name != "nginx" && !strings.HasPrefix(port, "127.0.0.1:") {
			t.Errorf("%s is open to everybody at %s", name, port)
		}
	}
}
