package production

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pimoe/pimoe/core/catalogue"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/server/instance"
)

// others is the permission of those who are neither owner nor group; writable is that of both of them to write.
const (
	others   = 0o007
	writable = 0o022
)

func inProcess(f *Facts) bool { return f.Config.Experts.Isolation == "inproc" }

func pluginFolder(f *Facts) Verdict {
	if inProcess(f) {
		return ok("no plugin is started")
	}
	paths := []string{f.Config.Plugins.Dir}
	for _, n := range f.Needed {
		paths = append(paths, filepath.Join(f.Config.Plugins.Dir, n))
	}
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			return fail(err.Error(), "make plugins, or set plugins.dir")
		}
		if st.Mode().Perm()&writable != 0 {
			return fail(fmt.Sprintf("others can write %s (%s)", p, st.Mode().Perm()), "chmod go-w "+p)
		}
	}
	return ok(f.Config.Plugins.Dir + ": nobody else can write it")
}

func pinned(f *Facts) Verdict {
	p := f.Config.Plugins
	switch {
	case inProcess(f):
		return ok("no plugin is started")
	case p.Dev:
		return fail("plugins.dev starts executables that nobody has pinned", "take plugins.dev away; pimoe plugins pin PATH")
	}
	list, err := instance.ReadCatalogue(p)
	if err != nil {
		return fail(err.Error(), "pimoe plugins pin PATH for each plugin")
	}
	for _, name := range f.Needed {
		if err := pinnedAs(list, p.Dir, name); err != nil {
			return fail(name+": "+err.Error(), "find out why; then pimoe plugins pin "+filepath.Join(p.Dir, name))
		}
	}
	return ok(fmt.Sprintf("%d plugins are what %s says", len(f.Needed), instance.CataloguePath(p)))
}

func pinnedAs(list *catalogue.Catalogue, dir, name string) error {
	path := filepath.Join(dir, name)
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	digest, err := client.Digest(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if strings.HasPrefix(name, "pimoe-router-") {
		return list.Check(dir, catalogue.Router, filepath.Join(dir, name), digest)
	}
	groups := []string{"any"} // for which expert groups a plugin may serve is the host's to judge
	for _, p := range list.Plugins {
		groups = append(groups, p.Groups...)
	}
	for _, g := range groups {
		if err = list.Check(dir, g, filepath.Join(dir, name), digest); err == nil {
			return nil
		}
	}
	return err
}

// dispensable are measures that a machine may lack for good reasons, each with another one beside it.
var dispensable = []string{client.MeasureCgroup}

func confinement(f *Facts) Verdict {
	switch {
	case inProcess(f):
		return fail("experts run within the host: experts.isolation is inproc", "experts.isolation: process")
	case f.Config.Plugins.Confine == "off":
		return fail("plugins run with all rights of the host's user: plugins.confine is off", "plugins.confine: strict")
	case f.Live == nil:
		return warn("what the system really does could not be asked: "+f.NotLive, "run it beside the running host")
	}
	all := map[string][]client.Measure{"router": f.Live.Router.Confinement}
	for _, e := range f.Live.Experts {
		all[fmt.Sprintf("%s/%d", e.Group, e.Replica)] = e.Confinement
	}
	var lacking, minor []string
	for _, name := range sortedKeys(all) {
		for _, m := range all[name] {
			switch {
			case m.Applied:
			case slices.Contains(dispensable, m.Name):
				minor = append(minor, m.Name+" ("+m.Detail+")")
			default:
				lacking = append(lacking, name+": "+m.Name+" ("+m.Detail+")")
			}
		}
	}
	switch {
	case len(lacking) > 0:
		return fail("not applied: "+first(lacking), "SECURITY.md says what each needs: a newer kernel, or a right for the host")
	case len(minor) > 0:
		return warn("not applied: "+first(minor), "run the host where it may divide its cgroup (Delegate=yes)")
	}
	return ok(fmt.Sprintf("every measure is applied to %d processes", len(all)))
}
