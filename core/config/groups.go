package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/sdk/expert"
)

// GroupPlan is one expert group: the units that one process serves, and how.
type GroupPlan struct {
	Name      string
	Units     []expert.Unit // by layer, then expert; never empty
	Backend   string
	Plugin    string // path of an executable; empty = pimoe-expert-BACKEND
	Precision string
	// Device is the number of the device that the group computes on, and DeviceKey the key that says so; empty = what its plugin
	// takes.
	Device, DeviceKey string
	Replicas          int // at least 1
	// MaxReplicas is how many it may have while load calls for them; 0 = Replicas.
	MaxReplicas int
	Standby     int // further ones
	// Remote is where the group runs; nil = here. Replicas, MaxReplicas and Standby say nothing then.
	Remote *Remote

	Policy      string      // what is done while it can't answer
	Fallback    *GroupPlan  // under policy fallback: the group beside it that then serves the same units
	Substitutes map[int]int // under policy substitute
}

// traits are what all units of a group share.
type traits struct {
	backend, plugin, precision, device string
	replicas, most, standby            int
	remedy                             remedy
}

// Groups is the placement of Experts under the policies of the configuration.
func (c Config) Groups(sparseLayers []int, experts int) (plans []GroupPlan, notes []string, err error) {
	bad := substitutesOf("degraded.substitutes", c.Degraded.Substitutes, experts)
	for i, o := range c.Experts.Overrides {
		bad = append(bad, substitutesOf(fmt.Sprintf("experts.overrides[%d].substitutes", i), o.Substitutes, experts)...)
	}
	if bad != nil {
		return nil, nil, Problems(bad)
	}
	return c.Experts.groups(sparseLayers, experts, remedy{policy: c.Policy, fallback: c.Degraded.Fallback, substitutes: pairs(c.Degraded.Substitutes)})
}

// Groups spreads the units of a model, (layer, expert) for every sparse layer and 0 <= expert < experts, over groups.
// It is a pure function: the same settings and shape give the same groups, names and order. notes are what start-up
// should tell the operator. Problems of the settings with this model are Problems.
func (e Experts) Groups(sparseLayers []int, experts int) (plans []GroupPlan, notes []string, err error) {
	return e.groups(sparseLayers, experts, remedy{policy: policies[0]})
}

func (e Experts) groups(sparseLayers []int, experts int, r remedy) (plans []GroupPlan, notes []string, err error) {
	if len(sparseLayers) == 0 || experts < 1 {
		return nil, nil, Problems{{Key: "experts", Want: "a model with routed experts"}}
	}
	layers := slices.Sorted(slices.Values(sparseLayers))
	traitsOf, bad := e.traits(layers, experts, r)
	if bad != nil {
		return nil, nil, Problems(bad)
	}
	lists, p := e.lists()
	if p != nil {
		return nil, nil, Problems{*p}
	}
	if lists != nil {
		bases, bad := explicit(lists, layers, experts)
		if bad != nil {
			return nil, nil, Problems(bad)
		}
		plans = split(bases, traitsOf)
		if bad := e.elsewhere(plans); bad != nil {
			return nil, nil, Problems(bad)
		}
		if n := processes(plans); n > e.MaxProcesses {
			return nil, nil, Problems{{Key: "experts.max_processes", Value: strconv.Itoa(e.MaxProcesses),
				Want: fmt.Sprintf("at least %d: experts.group and experts.overrides make that many processes", n)}}
		}
		if bad := e.devices(plans, layers, experts); bad != nil {
			return nil, nil, Problems(bad)
		}
		return plans, nil, nil
	}
	if plans, notes, err = e.regular(layers, experts, traitsOf); err != nil {
		return nil, nil, err
	}
	if bad := e.devices(plans, layers, experts); bad != nil {
		return nil, nil, Problems(bad)
	}
	return plans, notes, nil
}

// autoDevice leaves the choice of a device to the plugin.
const autoDevice = "auto"

// devices says of every group whose device is chosen which key has chosen it, for errors: the last override with a device for
// one of its units, or experts.device. Who runs elsewhere chooses its own.
func (e Experts) devices(plans []GroupPlan, layers []int, experts int) []Problem {
	var bad []Problem
	for i := range plans {
		p := &plans[i]
		if p.Device == "" || p.Device == autoDevice {
			p.Device = ""
			continue
		}
		p.DeviceKey = e.deviceKey(p.Units[0], layers, experts)
		switch {
		case p.Remote == nil:
		case p.DeviceKey == wholeDevice: // of the groups that run here
			p.Device, p.DeviceKey = "", ""
		default:
			bad = append(bad, Problem{Key: p.DeviceKey, Value: p.Device,
				Want: fmt.Sprintf("no device: group %s runs on another machine, whose expert program chooses one", p.Name)})
		}
	}
	return bad
}

// wholeDevice is the key of the device of all groups that have none of their own.
const wholeDevice = "experts.device"

func (e Experts) deviceKey(u expert.Unit, layers []int, experts int) string {
	found := wholeDevice
	for n, o := range e.Overrides {
		key := fmt.Sprintf("experts.overrides[%d]", n)
		units, _ := entry{o.Layers, o.Experts}.units(key, layers, experts) // traits has refused bad ones
		if o.Device != "" && slices.Contains(units, u) {
			found = key + ".device"
		}
	}
	return found
}

// base is a named set of units before overrides split it.
type base struct {
	name  string
	units []expert.Unit
}

// regular places by expert or by layer, with as many groups as max_processes allows.
func (e Experts) regular(layers []int, experts int, traitsOf map[expert.Unit]traits) ([]GroupPlan, []string, error) {
	byLayer := e.Group == "layer"
	want, noun := experts, "experts"
	if byLayer {
		want, noun = len(layers), "layers"
	}
	most := min(want, e.MaxProcesses)
	if len(e.Remote) > 0 {
		most = want // groups that run elsewhere take none of them
	}
	for n := most; n >= 1; n-- { // overrides may split groups and add processes
		plans := split(roundRobin(layers, experts, n, byLayer), traitsOf)
		bad := e.elsewhere(plans)
		if processes(plans) > e.MaxProcesses {
			continue
		}
		if bad != nil {
			return nil, nil, Problems(bad)
		}
		var notes []string
		if n < want {
			notes = append(notes, fmt.Sprintf("%d %s share %d groups round robin, because experts.max_processes is %d",
				want, noun, n, e.MaxProcesses))
		}
		return plans, notes, nil
	}
	one := split(roundRobin(layers, experts, 1, byLayer), traitsOf)
	e.elsewhere(one)
	n := processes(one)
	return nil, nil, Problems{{Key: "experts.max_processes", Value: strconv.Itoa(e.MaxProcesses),
		Want: fmt.Sprintf("at least %d: experts.replicas, experts.standby and experts.overrides need that many processes", n)}}
}

// roundRobin deals experts (or layers) to n groups. A group carries the number of its first expert (or layer).
func roundRobin(layers []int, experts, n int, byLayer bool) []base {
	bases := make([]base, n)
	for i, l := range layers {
		for x := range experts {
			g, first := x%n, "e"+strconv.Itoa(x)
			if byLayer {
				g, first = i%n, "l"+strconv.Itoa(l)
			}
			if bases[g].name == "" {
				bases[g].name = first
			}
			bases[g].units = append(bases[g].units, expert.Unit{Layer: l, Expert: x})
		}
	}
	return bases
}

// split cuts every base into groups of equal traits. The group with the most units (the first on a tie) keeps the
// base's name; the others get the backend's name behind it, and a number where that is taken.
func split(bases []base, traitsOf map[expert.Unit]traits) []GroupPlan {
	taken := map[string]bool{}
	for _, b := range bases {
		taken[b.name] = true
	}
	var plans []GroupPlan
	for _, b := range bases {
		var order []traits
		parts := map[traits][]expert.Unit{}
		for _, u := range b.units {
			t := traitsOf[u]
			if parts[t] == nil {
				order = append(order, t)
			}
			parts[t] = append(parts[t], u)
		}
		slices.SortStableFunc(order, func(x, y traits) int { return cmp.Compare(len(parts[y]), len(parts[x])) })
		for i, t := range order {
			name := b.name
			if i > 0 {
				name = free(b.name+"-"+t.backend, taken)
			}
			p := GroupPlan{Name: name, Units: parts[t], Backend: t.backend, Plugin: t.plugin,
				Precision: t.precision, Device: t.device, Replicas: t.replicas, MaxReplicas: t.most, Standby: t.standby, Policy: t.remedy.policy}
			if f := t.remedy.fallback; f != (Alternative{}) {
				p.Fallback = &GroupPlan{Name: free(name+"-fallback", taken), Units: p.Units, Backend: f.Backend, Plugin: f.Plugin,
					Precision: cmp.Or(f.Precision, "auto"), Replicas: 1, Policy: policies[0]}
			}
			if t.remedy.substitutes != "" {
				p.Substitutes = numbers(t.remedy.substitutes)
			}
			plans = append(plans, p)
		}
	}
	return plans
}

func free(name string, taken map[string]bool) string {
	out := name
	for i := 2; taken[out]; i++ {
		out = name + "-" + strconv.Itoa(i)
	}
	taken[out] = true
	return out
}

// processes is how many the groups have here. One that runs elsewhere has none, but its fallback has.
func processes(plans []GroupPlan) int {
	n := 0
	for _, p := range plans {
		if p.Remote == nil {
			n += p.Replicas + p.Standby
		}
		if p.Fallback != nil {
			n += p.Fallback.Replicas
		}
	}
	return n
}

// traits gives every unit its traits: those of Experts, changed by the overrides in order.
func (e Experts) traits(layers []int, experts int, r remedy) (map[expert.Unit]traits, []Problem) {
	of := make(map[expert.Unit]traits, len(layers)*experts)
	for _, l := range layers {
		for x := range experts {
			of[expert.Unit{Layer: l, Expert: x}] = traits{e.Backend, "", e.Precision, e.Device, max(1, e.Replicas), e.Scaling.MaxReplicas, e.Standby, r}
		}
	}
	var bad []Problem
	for i, o := range e.Overrides {
		key := fmt.Sprintf("experts.overrides[%d]", i)
		units, p := entry{o.Layers, o.Experts}.units(key, layers, experts)
		bad = append(bad, p...)
		for _, u := range units {
			t := of[u]
			if o.Backend != "" {
				if o.Backend != t.backend {
					t.device = autoDevice
				}
				t.backend, t.plugin = o.Backend, "" // another backend is another executable
			}
			if o.Plugin != "" {
				t.plugin = o.Plugin
			}
			if o.Precision != "" {
				t.precision = o.Precision
			}
			if o.Device != "" {
				t.device = o.Device
			}
			if o.Replicas > 0 {
				t.replicas = o.Replicas
			}
			t.remedy = e.change(t.remedy, o)
			of[u] = t
		}
	}
	for u, t := range of {
		t.remedy = t.remedy.used()
		of[u] = t
	}
	return of, bad
}

// entry is one {layers, experts} of an explicit list or an override.
type entry struct{ layers, experts any }

func (en entry) units(key string, layers []int, experts int) ([]expert.Unit, []Problem) {
	var bad []Problem
	all := make([]int, experts)
	for i := range all {
		all[i] = i
	}
	ls, p := pick(key+".layers", en.layers, layers, "layers with experts")
	if p != nil {
		bad = append(bad, *p)
	}
	xs, p := pick(key+".experts", en.experts, all, "experts")
	if p != nil {
		bad = append(bad, *p)
	}
	units := make([]expert.Unit, 0, len(ls)*len(xs))
	for _, l := range ls {
		for _, x := range xs {
			units = append(units, expert.Unit{Layer: l, Expert: x})
		}
	}
	return units, bad
}

// lists is Group as explicit lists; nil for a word.
func (e Experts) lists() (map[string][]entry, *Problem) {
	const key = "experts.group"
	const want = "expert, layer, or a map NAME: [{layers: all, experts: 0-3}]"
	switch g := e.Group.(type) {
	case string:
		if g != "expert" && g != "layer" {
			return nil, &Problem{Key: key, Value: short(orEmpty(g)), Want: want}
		}
		return nil, nil
	case map[string]any:
		if len(g) == 0 {
			return nil, &Problem{Key: key, Want: want}
		}
		out := map[string][]entry{}
		for _, name := range slices.Sorted(maps.Keys(g)) {
			if !groupName.MatchString(name) {
				return nil, &Problem{Key: key, Value: short(name), Want: "group names of at most 63 letters, digits, _, . and -"}
			}
			entries, p := parseEntries(key+"."+name, g[name])
			if p != nil {
				return nil, p
			}
			out[name] = entries
		}
		return out, nil
	}
	return nil, &Problem{Key: key, Value: short(fmt.Sprint(e.Group)), Want: want}
}

func parseEntries(key string, v any) ([]entry, *Problem) {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return nil, &Problem{Key: key, Want: "a list of {layers, experts}"}
	}
	var out []entry
	for i, item := range list {
		k := fmt.Sprintf("%s[%d]", key, i)
		m, ok := item.(map[string]any)
		if !ok {
			return nil, &Problem{Key: k, Want: "{layers: ..., experts: ...}"}
		}
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if name != "layers" && name != "experts" {
				return nil, &Problem{Key: k + "." + name, Unknown: true, Want: "layers or experts"}
			}
		}
		for _, name := range []string{"layers", "experts"} {
			if _, p := parseSelection(k+"."+name, m[name]); p != nil {
				return nil, p
			}
		}
		out = append(out, entry{m["layers"], m["experts"]})
	}
	return out, nil
}

// explicit makes the bases of explicit lists, which must cover every unit exactly once.
func explicit(lists map[string][]entry, layers []int, experts int) ([]base, []Problem) {
	var bases []base
	var bad []Problem
	owner := map[expert.Unit]string{}
	var doubled []string
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		b := base{name: name}
		for i, en := range lists[name] {
			units, p := en.units(fmt.Sprintf("experts.group.%s[%d]", name, i), layers, experts)
			bad = append(bad, p...)
			for _, u := range units {
				if other, ok := owner[u]; ok {
					doubled = append(doubled, fmt.Sprintf("layer %d expert %d (in %s and %s)", u.Layer, u.Expert, other, name))
					continue
				}
				owner[u] = name
				b.units = append(b.units, u)
			}
		}
		slices.SortFunc(b.units, func(x, y expert.Unit) int {
			return cmp.Or(cmp.Compare(x.Layer, y.Layer), cmp.Compare(x.Expert, y.Expert))
		})
		if len(b.units) > 0 {
			bases = append(bases, b)
		}
	}
	var missing []string
	for _, l := range layers {
		for x := range experts {
			if u := (expert.Unit{Layer: l, Expert: x}); owner[u] == "" {
				missing = append(missing, fmt.Sprintf("layer %d expert %d", l, x))
			}
		}
	}
	if len(missing) > 0 && bad == nil {
		bad = append(bad, Problem{Key: "experts.group", Want: "every unit in one group; in none: " + some(missing)})
	}
	if len(doubled) > 0 {
		bad = append(bad, Problem{Key: "experts.group", Want: "every unit in one group; in two: " + some(doubled)})
	}
	return bases, bad
}

// some is the first few of a list and how many there are.
func some(list []string) string {
	const few = 5
	if len(list) <= few {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:few], ", "), len(list)-few)
}

// span is a range of numbers, both ends included; single says that it was written as one number.
type span struct {
	from, to int
	single   bool
}

// parseSelection reads "all" (nil spans), a number, a range "0-3" or a list of them.
func parseSelection(key string, v any) ([]span, *Problem) {
	const want = `all, a number, a range "0-3" or a list of them`
	items, isList := v.([]any)
	if !isList {
		if v == "all" {
			return nil, nil
		}
		items = []any{v}
	}
	if len(items) == 0 {
		return nil, &Problem{Key: key, Value: "[]", Want: want}
	}
	var out []span
	for _, item := range items {
		s, ok := parseSpan(item)
		if !ok {
			text := ""
			if item != nil {
				text = short(fmt.Sprint(item))
			}
			return nil, &Problem{Key: key, Value: text, Want: want}
		}
		out = append(out, s)
	}
	return out, nil
}

func parseSpan(v any) (span, bool) {
	switch v := v.(type) {
	case int:
		return span{v, v, true}, v >= 0
	case string:
		a, b, isRange := strings.Cut(v, "-")
		from, err := strconv.Atoi(strings.TrimSpace(a))
		if err != nil || from < 0 {
			return span{}, false
		}
		if !isRange {
			return span{from, from, true}, true
		}
		to, err := strconv.Atoi(strings.TrimSpace(b))
		return span{from, to, false}, err == nil && to >= from
	}
	return span{}, false
}

// pick is the numbers of have, ascending, that a selection names. A single number must exist; a range may leave gaps
// (layers without experts), but must not end behind the last.
func pick(key string, v any, have []int, noun string) ([]int, *Problem) {
	spans, p := parseSelection(key, v)
	if p != nil {
		return nil, p
	}
	if spans == nil {
		return have, nil
	}
	chosen := map[int]bool{}
	for _, s := range spans {
		found := false
		for _, n := range have {
			if n >= s.from && n <= s.to {
				chosen[n], found = true, true
			}
		}
		if !found || s.to > have[len(have)-1] {
			return nil, &Problem{Key: key, Value: s.String(), Want: "the model's " + noun + ": " + listText(have)}
		}
	}
	return slices.Sorted(maps.Keys(chosen)), nil
}

func (s span) String() string {
	if s.single {
		return strconv.Itoa(s.from)
	}
	return fmt.Sprintf("%d-%d", s.from, s.to)
}

// listText writes ascending numbers as ranges: 0-3, 5, 7-9.
func listText(nums []int) string {
	var parts []string
	for i := 0; i < len(nums); {
		j := i
		for j+1 < len(nums) && nums[j+1] == nums[j]+1 {
			j++
		}
		parts = append(parts, span{nums[i], nums[j], i == j}.String())
		i = j + 1
	}
	return strings.Join(parts, ", ")
}
