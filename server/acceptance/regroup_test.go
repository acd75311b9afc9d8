package acceptance

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/instance"
)

// lists are the units of some groups as experts.group has them: experts of all layers.
func lists(experts map[string]string) map[string]any {
	out := map[string]any{}
	for name, list := range experts {
		out[name] = []any{map[string]any{"layers": "all", "experts": list}}
	}
	return out
}

// unitsOf are how many units the processes of each group serve for new requests.
func unitsOf(i *instance.Instance) map[string]int {
	out := map[string]int{}
	for _, st := range i.Host.Status() {
		if !st.Aside {
			out[st.Group] = st.Units
		}
	}
	return out
}

// TestRegroup: units change processes while requests run: no request fails and no bit changes, of those that began before
// either. Groups that stand by follow, and the grouping of the file comes back with a reload.
func TestRegroup(t *testing.T) {
	skewed := lists(map[string]string{"a": "0-5", "b": "6", "c": "7"})
	i := open(t, func(c *config.Config) {
		c.Experts.Group = skewed
		c.Policy, c.Degraded.Fallback = "fallback", config.Alternative{Backend: "ref"}
	})
	requests, right := exact(t, i, 3)
	before, want := unitsOf(i), map[string]int{}
	version := i.Host.Version()
	asked := underLoad(t, i, requests, right, func() {
		r, done, err := i.Regroup(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		for _, g := range r.Groups {
			want[g.Group], want[g.Group+"-fallback"] = g.Later, g.Later
		}
		t.Logf("measured: %d units moved in %v; %+v became %+v", r.Moved, done.Took, r.Before, r.After)
		if r.Moved == 0 || len(done.Processes.Groups) < 4 {
			t.Errorf("moved %d units, replaced %+v", r.Moved, done.Processes)
		}
	})
	if got := unitsOf(i); !maps.Equal(got, want) || maps.Equal(got, before) {
		t.Errorf("units %v, want %v; before %v", got, want, before)
	}
	if i.Host.Version() == version {
		t.Error("a swap of a group now, and one of the same group before, would be one version: other units change their bits")
	}
	next := i.Applied()
	next.Experts.Group = skewed
	asked += underLoad(t, i, requests, right, func() {
		if _, err := i.Reload(t.Context(), next); err != nil {
			t.Error(err)
		}
	})
	if got := unitsOf(i); !maps.Equal(got, before) {
		t.Errorf("units %v, want those of the file, %v", got, before)
	}
	if i.Host.Version() != version {
		t.Error("the first placement has another version than it had")
	}
	if asked == 0 {
		t.Error("nobody has asked meanwhile")
	}
	var series strings.Builder
	i.Metrics.Write(&series)
	ready := regexp.MustCompile(`(?m)^pimoe_expert_ready.*$`).FindAllString(series.String(), -1)
	if len(ready) != 6 || slices.ContainsFunc(ready, func(line string) bool { return !strings.HasSuffix(line, "} 1") }) {
		t.Errorf("readiness of three groups and of those that stand by for them: %q", ready)
	}
	if r, err := i.Rebalance(); err != nil || r.Moved == 0 {
		t.Errorf("what can be balanced again: %+v, %v", r, err)
	}
}

// TestRegroupByLists: groups that a word has made get other units by lists of the same names. What can't be done in a running
// host is refused with nothing changed.
func TestRegroupByLists(t *testing.T) {
	layers := map[string]any{}
	i := open(t, func(c *config.Config) { c.Experts.Group = "layer" })
	requests, right := exact(t, i, 1)
	names := slices.Sorted(maps.Keys(unitsOf(i)))
	for n, name := range names {
		// Each layer's first expert goes to the group before.
		next := (n + 1) % len(names)
		layers[name] = []any{
			map[string]any{"layers": fmt.Sprint(n), "experts": "1-7"}, map[string]any{"layers": fmt.Sprint(next), "experts": "0"},
		}
	}
	next := i.Applied()
	next.Experts.Group = layers
	asked := underLoad(t, i, requests, right, func() {
		if _, err := i.Reload(t.Context(), next); err != nil {
			t.Error(err)
		}
	})
	for c, request := range requests {
		if a := run(context.Background(), i, request); a.err != nil || exactly(a) != right[c] {
			t.Errorf("request %d: error %v, %q, want %q", c, a.err, exactly(a), right[c])
		}
	}
	if asked == 0 {
		t.Error("nobody has asked meanwhile")
	}
	hash := i.Applied().Hash()
	other := i.Applied()
	other.Experts.Group = "expert"
	if done, err := i.Reload(t.Context(), other); err == nil || i.Applied().Hash() != hash {
		t.Errorf("other groups: %+v, %v", done, err)
	}
}
