package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/sdk/expert"
)

// expertsOf reads the experts section as Load does.
func expertsOf(t *testing.T, text string) Experts {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := Load(LoadOptions{Environ: []string{}, File: writeFile(t, "c.yaml", "experts:\n  "+strings.ReplaceAll(text, "\n", "\n  "), 0o600)})
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Experts
}

// planText writes groups as "name backend units..." lines.
func planText(plans []GroupPlan) string {
	var b strings.Builder
	for _, p := range plans {
		fmt.Fprintf(&b, "%s %s", p.Name, p.Backend)
		if p.Plugin != "" {
			fmt.Fprintf(&b, " plugin=%s", p.Plugin)
		}
		if p.Precision != "auto" {
			fmt.Fprintf(&b, " %s", p.Precision)
		}
		if p.Device != "" {
			fmt.Fprintf(&b, " on %s by %s", p.Device, p.DeviceKey)
		}
		if p.Replicas != 1 {
			fmt.Fprintf(&b, " x%d", p.Replicas)
		}
		b.WriteString(":")
		for _, u := range p.Units {
			fmt.Fprintf(&b, " %d.%d", u.Layer, u.Expert)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestGroups(t *testing.T) {
	for _, c := range []struct {
		name, yaml string
		layers     []int
		experts    int
		want, note string
	}{
		{"one expert per process", "max_processes: 64", []int{0, 1}, 3, "e0 cpu: 0.0 1.0\ne1 cpu: 0.1 1.1\ne2 cpu: 0.2 1.2\n", ""},
		{"round robin", "max_processes: 2", []int{0, 2}, 3, "e0 cpu: 0.0 0.2 2.0 2.2\ne1 cpu: 0.1 2.1\n", "3 experts share 2 groups round robin"},
		{"by layer", "group: layer", []int{1, 3}, 2, "l1 cpu: 1.0 1.1\nl3 cpu: 3.0 3.1\n", ""},
		{"by layer, round robin", "group: layer\nmax_processes: 2", []int{1, 3, 5}, 1, "l1 cpu: 1.0 5.0\nl3 cpu: 3.0\n", "3 layers share 2 groups"},
		{"dense", "backend: ref", []int{0, 1}, 1, "e0 ref: 0.0 1.0\n", ""},
		{"explicit", "group: {b: [{layers: all, experts: 0-1}], a: [{layers: 0, experts: 2}, {layers: [1], experts: [2]}]}", []int{0, 1}, 3,
			"a cpu: 0.2 1.2\nb cpu: 0.0 0.1 1.0 1.1\n", ""},
		{"whole group overridden keeps its name", "overrides: [{layers: all, experts: 1, backend: ref}]", []int{0, 1}, 2, "e0 cpu: 0.0 1.0\ne1 ref: 0.1 1.1\n", ""},
		{"split, the larger part keeps the name", "overrides: [{layers: 0, experts: 1, backend: ref}]", []int{0, 1, 2}, 2,
			"e0 cpu: 0.0 1.0 2.0\ne1 cpu: 1.1 2.1\ne1-ref ref: 0.1\n", ""},
		{"later overrides win", "overrides: [{layers: all, experts: all, backend: ref, plugin: /x}, {layers: all, experts: 0, backend: cpu, precision: f32, replicas: 2}]", []int{0}, 2,
			"e0 cpu f32 x2: 0.0\ne1 ref plugin=/x: 0.1\n", ""},
		{"names stay distinct", "overrides: [{layers: 0, experts: 0, precision: f32}, {layers: 1, experts: 0, precision: bf16w-f32}]", []int{0, 1, 2, 3}, 1,
			"e0 cpu: 2.0 3.0\ne0-cpu cpu f32: 0.0\ne0-cpu-2 cpu bf16w-f32: 1.0\n", ""},
		{"overrides make room by grouping", "max_processes: 3\noverrides: [{layers: 0, experts: 0, backend: ref}]", []int{0, 1}, 3,
			"e0 cpu: 0.2 1.0 1.2\ne0-ref ref: 0.0\ne1 cpu: 0.1 1.1\n", "3 experts share 2 groups"},
		{"replicas count as processes", "max_processes: 4\nreplicas: 2", []int{0}, 3, "e0 cpu x2: 0.0 0.2\ne1 cpu x2: 0.1\n", "3 experts share 2 groups"},
		{"devices", "backend: cuda\ndevice: 1\noverrides: [{layers: all, experts: 1, backend: cpu}, {layers: all, experts: 2, device: 0}, {layers: all, experts: 3, device: auto}]", []int{0}, 4,
			"e0 cuda on 1 by experts.device: 0.0\ne1 cpu: 0.1\ne2 cuda on 0 by experts.overrides[1].device: 0.2\ne3 cuda: 0.3\n", ""},
		{"a group is on one device", "backend: cuda\ngroup: layer\noverrides: [{layers: all, experts: 0-1, device: 0}, {layers: all, experts: 1, device: 1}]", []int{2}, 3,
			"l2 cuda on 0 by experts.overrides[0].device: 2.0\nl2-cuda cuda on 1 by experts.overrides[1].device: 2.1\nl2-cuda-2 cuda: 2.2\n", ""},
		{"a range may span layers without experts", "overrides: [{layers: 0-3, experts: all, backend: ref}]", []int{1, 3}, 1, "e0 ref: 1.0 3.0\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			plans, notes, err := expertsOf(t, c.yaml).Groups(c.layers, c.experts)
			if err != nil {
				t.Fatal(err)
			}
			if got := planText(plans); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
			if got := strings.Join(notes, "; "); (c.note == "") != (got == "") || !strings.Contains(got, c.note) {
				t.Errorf("notes %q, want %q", got, c.note)
			}
		})
	}
}

func TestGroupsRefuse(t *testing.T) {
	for _, c := range []struct {
		name, yaml string
		layers     []int
		experts    int
		want       []string
	}{
		{"missing units", "group: {a: [{layers: all, experts: 0-6}]}", []int{0, 1}, 8, []string{"in none: layer 0 expert 7, layer 1 expert 7"}},
		{"many missing", "group: {a: [{layers: 0, experts: 0}]}", []int{0, 1}, 8, []string{"and 10 more"}},
		{"doubled unit", "group: {a: [{layers: all, experts: all}], b: [{layers: 1, experts: 3}]}", []int{0, 1}, 4, []string{"in two: layer 1 expert 3 (in a and b)"}},
		{"doubled in one group", "group: {a: [{layers: all, experts: all}, {layers: 0, experts: 0}]}", []int{0}, 1, []string{"layer 0 expert 0 (in a and a)"}},
		{"no such expert", "overrides: [{layers: all, experts: 8, backend: ref}, {layers: 5, experts: 0-9, backend: ref}]", []int{0, 2}, 8, []string{
			`experts.overrides[0].experts: "8" is wrong: want the model's experts: 0-7`, `experts.overrides[1].layers: "5" is wrong: want the model's layers with experts: 0, 2`,
			`experts.overrides[1].experts: "0-9"`}},
		{"a layer without experts", "overrides: [{layers: 1, experts: 0, backend: ref}]", []int{0, 2}, 1, []string{`want the model's layers with experts: 0, 2`}},
		{"too many explicit groups", "max_processes: 1\ngroup: {a: [{layers: 0, experts: 0}], b: [{layers: 0, experts: 1}]}", []int{0}, 2, []string{"at least 2"}},
		{"overrides need more", "max_processes: 1\noverrides: [{layers: 0, experts: 0, backend: ref}]", []int{0}, 2, []string{"at least 2"}},
		{"no experts", "backend: cpu", nil, 0, []string{"a model with routed experts"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := expertsOf(t, c.yaml).Groups(c.layers, c.experts)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v\nwant it to contain %s", err, w)
				}
			}
		})
	}
}

// TestGroupsCoverEveryUnitOnce tries many shapes and bounds.
func TestGroupsCoverEveryUnitOnce(t *testing.T) {
	for _, group := range []string{"expert", "layer"} {
		for _, experts := range []int{1, 2, 8, 65, 128} {
			for _, bound := range []int{1, 3, 8, 64} {
				e := Experts{Group: group, MaxProcesses: bound, Backend: "cpu", Precision: "auto", Replicas: 1}
				plans, _, err := e.Groups([]int{0, 1, 4}, experts)
				if err != nil {
					t.Fatal(err)
				}
				seen, names := map[expert.Unit]bool{}, map[string]bool{}
				for _, p := range plans {
					if names[p.Name] || len(p.Units) == 0 {
						t.Errorf("%s %d/%d: group %s twice or empty", group, experts, bound, p.Name)
					}
					names[p.Name] = true
					for _, u := range p.Units {
						if seen[u] {
							t.Errorf("unit %v twice", u)
						}
						seen[u] = true
					}
				}
				if len(seen) != 3*experts || len(plans) > bound {
					t.Errorf("%s %d/%d: %d units in %d groups", group, experts, bound, len(seen), len(plans))
				}
			}
		}
	}
}

// TestRemoteGroupsAreNoProcesses: what runs on other machines takes nothing of experts.max_processes, but its fallback does.
func TestRemoteGroupsAreNoProcesses(t *testing.T) {
	const far = "\nremote: [{group: %s, endpoints: [127.0.0.1:7070]}]"
	for _, c := range []struct {
		name, yaml, group string
		groups, here      int
	}{
		{"all elsewhere", "max_processes: 2", `"*"`, 6, 0},
		{"one elsewhere", "max_processes: 2", "e1", 3, 2},
		{"one of a list", "max_processes: 1\ngroup: {near: [{layers: all, experts: 0-2}], far: [{layers: all, experts: 3-5}]}", "far", 2, 1},
		{"replicas there are endpoints", "max_processes: 2\nreplicas: 2\nstandby: 0", `"*"`, 6, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			plans, notes, err := expertsOf(t, c.yaml+fmt.Sprintf(far, c.group)).Groups([]int{0, 1}, 6)
			if err != nil {
				t.Fatal(err)
			}
			if n := processes(plans); len(plans) != c.groups || n != c.here {
				t.Errorf("%d groups with %d processes here, want %d with %d; notes %q\n%s", len(plans), n, c.groups, c.here, notes, planText(plans))
			}
		})
	}
	c := Default()
	c.Policy, c.Degraded.Fallback, c.Experts.MaxProcesses = "fallback", Alternative{Backend: "int8"}, 4
	c.Experts.Remote = []Remote{{Group: "*", Endpoints: []string{"127.0.0.1:7070"}}}
	plans, _, err := c.Groups([]int{0, 1}, 6)
	if n := processes(plans); err != nil || len(plans) != 4 || n != 4 {
		t.Errorf("%d groups with %d fallbacks here, %v", len(plans), n, err)
	}
	if _, _, err := expertsOf(t, "max_processes: 2"+fmt.Sprintf(far, "e9")).Groups([]int{0}, 6); err == nil || !strings.Contains(err.Error(), "experts.remote[0].group") {
		t.Errorf("a group that is not there: %v", err)
	}
}

// TestRemoteGroupsHaveNoDevice: experts.device is for the groups that run here; an override that names one for a group elsewhere is
// refused.
func TestRemoteGroupsHaveNoDevice(t *testing.T) {
	const far = "backend: cuda\ndevice: 1\nremote: [{group: e1, endpoints: [127.0.0.1:7070]}]"
	plans, _, err := expertsOf(t, far).Groups([]int{0}, 2)
	if got, want := planText(plans), "e0 cuda on 1 by experts.device: 0.0\ne1 cuda: 0.1\n"; err != nil || got != want {
		t.Errorf("%s%v, want %s", got, err, want)
	}
	const key = `experts.overrides[0].device: "0"`
	_, _, err = expertsOf(t, far+"\noverrides: [{layers: all, experts: 1, device: 0}]").Groups([]int{0}, 2)
	if err == nil || !strings.Contains(err.Error(), key) {
		t.Errorf("%v, want %s", err, key)
	}
}

// TestPolicyGroups: units of different policies are in different groups, and those with a fallback have one beside them,
// which counts as a process.
func TestPolicyGroups(t *testing.T) {
	c := Default()
	c.Policy, c.Degraded.Substitutes = "substitute", map[string]string{"1": "2"}
	c.Experts.Overrides = []Override{{Layers: "all", Experts: 3, Policy: "fallback", Fallback: Alternative{Backend: "int8"}}, {Layers: 0, Experts: 0, Policy: "strict"}}
	plans, _, err := c.Groups([]int{0, 1, 2}, 4)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range plans {
		got[p.Name] = fmt.Sprint(p.Policy, len(p.Units), p.Substitutes)
		if p.Fallback != nil {
			got[p.Fallback.Name] = fmt.Sprint(p.Fallback.Backend, p.Fallback.Precision, len(p.Fallback.Units))
		}
	}
	want := map[string]string{"e0": "substitute2 map[1:2]", "e0-cpu": "strict1 map[]", "e1": "substitute3 map[1:2]", "e2": "substitute3 map[1:2]",
		"e3": "fallback3 map[]", "e3-fallback": "int8auto3"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	c.Experts.MaxProcesses = 4
	plans, _, err = c.Groups([]int{0, 1, 2}, 4)
	if n := processes(plans); err != nil || n > 4 {
		t.Errorf("%d processes, error %v", n, err)
	}
	c.Degraded.Substitutes["9"] = "1"
	if _, _, err := c.Groups([]int{0}, 4); err == nil || !strings.Contains(err.Error(), `degraded.substitutes: "9: 1" is wrong: want experts that the model has: 0-3`) {
		t.Errorf("error %v", err)
	}
}

// TestGroupLists: what is written of a grouping reads as that grouping, also where layers have gaps.
func TestGroupLists(t *testing.T) {
	layers := []int{0, 1, 2, 5}
	groups := map[string][]expert.Unit{
		"a": {{Layer: 0, Expert: 0}, {Layer: 0, Expert: 1}, {Layer: 1, Expert: 0}, {Layer: 1, Expert: 1}, {Layer: 5, Expert: 3}},
		"b": {{Layer: 0, Expert: 2}, {Layer: 1, Expert: 2}, {Layer: 2, Expert: 0}, {Layer: 2, Expert: 2}, {Layer: 5, Expert: 2}},
		"c": {{Layer: 0, Expert: 3}, {Layer: 1, Expert: 3}, {Layer: 2, Expert: 1}, {Layer: 2, Expert: 3}, {Layer: 5, Expert: 0}, {Layer: 5, Expert: 1}},
	}
	text, err := yaml.Marshal(map[string]any{"group": GroupLists(groups)})
	if err != nil {
		t.Fatal(err)
	}
	plans, _, err := expertsOf(t, string(text)).Groups(layers, 4)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	got := map[string][]expert.Unit{}
	for _, p := range plans {
		got[p.Name] = p.Units
	}
	if d := cmp.Diff(groups, got); d != "" {
		t.Errorf("%s\n%s", d, text)
	}
}

// TestScalingSettings: groups get their greatest number, and what can't be is refused with its key.
func TestScalingSettings(t *testing.T) {
	plans, _, err := expertsOf(t, "replicas: 2\nscaling: {max_replicas: 4}\noverrides: [{layers: all, experts: 0, replicas: 3}]").Groups([]int{0}, 2)
	if err != nil || plans[0].Replicas != 3 || plans[0].MaxReplicas != 4 || plans[1].Replicas != 2 || plans[1].MaxReplicas != 4 {
		t.Errorf("%+v, %v", plans, err)
	}
	for want, change := range map[string]func(c *Config){
		`experts.scaling.max_replicas: "1" is wrong: want 0, or at least experts.replicas (2)`: func(c *Config) { c.Experts.Replicas, c.Experts.Scaling.MaxReplicas = 2, 1 },
		`experts.scaling.max_replicas: "9" is wrong: want at most experts.max_processes (8)`:   func(c *Config) { c.Experts.MaxProcesses, c.Experts.Scaling.MaxReplicas = 8, 9 },
		`experts.scaling.max_replicas: "60" is wrong: want with experts.standby at most 64`:    func(c *Config) { c.Experts.Standby, c.Experts.Scaling.MaxReplicas = 8, 60 },
		`experts.overrides[0].replicas: "60" is wrong: want with experts.standby at most 64`: func(c *Config) {
			c.Experts.Standby, c.Experts.MaxProcesses = 8, 100
			c.Experts.Overrides = []Override{{Layers: "all", Experts: 0, Replicas: 60}}
		},
		`experts.scaling.max_replicas: "2" is wrong: want 0 with experts.isolation inproc`: func(c *Config) { c.Experts.Isolation, c.Experts.Scaling.MaxReplicas = "inproc", 2 },
		`limits.memory_mb: "100" is wrong: want 0 with experts.isolation inproc`:           func(c *Config) { c.Experts.Isolation, c.Limits.MemoryMB = "inproc", 100 },
		`experts.scaling.busy_percent: "0" is wrong`:                                       func(c *Config) { c.Experts.Scaling.BusyPercent = 0 },
		`experts.scaling.window: "0s" is wrong`:                                            func(c *Config) { c.Experts.Scaling.Window = 0 },
		`plugins.cpus: "-1" is wrong`:                                                      func(c *Config) { c.Plugins.CPUs = -1 },
	} {
		c := Default()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}
