package helm

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/deploy"
)

// label is what Kubernetes takes as the name of an object that is part of a host's name.
var label = regexp.MustCompile(`^[a-z]([a-z0-9-]*[a-z0-9])?$`)

var unit = regexp.MustCompile(`^(all|[0-9]{1,5}(-[0-9]{1,5})?)$`)

// maxName leaves room, in the 63 characters of a name, for what is put behind it.
const maxName = 40

// check reports every value that Kubernetes would refuse, or that would render something else than it says.
func check(v deploy.Values) error {
	var problems []error
	bad := func(field string, value any, want string) {
		problems = append(problems, fmt.Errorf("%s: %v: want %s: %w", field, value, want, sdk.ErrInvalid))
	}
	name := func(field, value string) {
		if !label.MatchString(value) || len(value) > maxName {
			bad(field, fmt.Sprintf("%q", value), fmt.Sprintf("a lower-case letter, then letters, digits and -, at most %d", maxName))
		}
	}
	scale := func(field string, replicas int, s deploy.Scale, least int) {
		if s.Min < least || s.Max < s.Min || s.CPUPercent < 1 || s.CPUPercent > 100 {
			bad(field, fmt.Sprintf("%+v", s), fmt.Sprintf("%d <= min <= max, and cpu_percent from 1 to 100", least))
		} else if replicas < s.Min || replicas > s.Max {
			bad(field, replicas, fmt.Sprintf("replicas from min %d to max %d", s.Min, s.Max))
		}
	}
	resources := func(field string, r deploy.Resources) {
		if r.CPUs < 1 || r.MemoryMB < 1 {
			bad(field, fmt.Sprintf("%+v", r), "at least one core and one MiB")
		}
	}
	name("name", v.Name)
	name("namespace", v.Namespace)
	least := 1
	if v.Profile == deploy.Serverless {
		least = 0
	}
	scale("scale", v.Replicas, v.Scale, least)
	resources("resources", v.Resources)
	if v.Profile == deploy.MultiRegion && v.Region == "" {
		bad("region", `""`, "a region with the profile multi-region")
	}
	if v.Kube.Model != "" && v.Store == (deploy.Store{}) {
		bad("kube.model", v.Kube.Model, "a store that has it: store.volume or store.image")
	}
	seen := map[string]bool{"redis": true, "interceptor": true} // the names of other objects end so
	for i, g := range v.Groups {
		field := fmt.Sprintf("groups[%d]", i)
		name(field+".name", g.Name)
		name(field+".backend", g.Backend)
		scale(field+".scale", g.Replicas, g.Scale, 1)
		resources(field+".resources", g.Resources)
		if len(g.Units) == 0 {
			bad(field+".units", "none", "the units that it serves, such as {layers: all, experts: 0-3}")
		}
		for j, u := range g.Units {
			if !unit.MatchString(u.Layers) || !unit.MatchString(u.Experts) {
				bad(fmt.Sprintf("%s.units[%d]", field, j), fmt.Sprintf("%+v", u), "all, a number or a range such as 0-3 for layers and experts")
			}
		}
		if seen[g.Name] {
			bad(field+".name", g.Name, "a name that nothing else has")
		}
		seen[g.Name] = true
	}
	return errors.Join(problems...)
}
