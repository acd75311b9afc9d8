package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pod is a container of a rendered pod as its parts lie on this machine: paths of the container lead below a folder.
type pod struct {
	dir       string
	container object
	paths     *strings.Replacer
}

// newPod puts the ConfigMap and made-up secrets of the host where its container would see them. more are further
// replacements in its command and variables.
func newPod(t *testing.T, all []object, more []string) *pod {
	t.Helper()
	dir, err := os.MkdirTemp("", "pod-") // a short path: sockets live below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &pod{dir: dir, container: object(find(t, all, "Deployment", "pimoe").at("spec", "template", "spec", "containers", 0).(map[string]any))}
	p.paths = strings.NewReplacer(append([]string{"/etc/pimoe", dir + "/etc", "/run/secrets/pimoe", dir + "/secrets", "/data", dir + "/data"}, more...)...)
	for name, text := range map[string]string{
		"etc/pimoe.yaml": find(t, all, "ConfigMap", "pimoe").at("data", "pimoe.yaml").(string), "data/.keep": "",
		"secrets/api-key": "Vq9xT2mLw8Rz4Kp7", "secrets/redis-password": "nB7cE1kYt5Wq3Zs8",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o440); err != nil { // as the volume of a secret has it
			t.Fatal(err)
		}
	}
	return p
}

func (p *pod) config() string { return p.dir + "/etc/pimoe.yaml" }

// environment are the variables that the manifest sets, and none of this process's.
func (p *pod) environment() []string { return p.variables(p.container) }

func (p *pod) variables(container object) []string {
	var out []string
	env, _ := container["env"].([]any)
	for i := range env {
		name, _ := container.at("env", i, "name").(string)
		value, _ := container.at("env", i, "value").(string)
		out = append(out, name+"="+p.paths.Replace(value))
	}
	return out
}
