package main

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/catalogue"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/sdktest"
	"github.com/pimoe/pimoe/server/atomicfile"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/doctor"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
)

func (a *app) plugins() *cobra.Command {
	return group("plugins", "List plugins, pin what may be started, test that they keep the contract",
		a.pluginsList(), a.pluginsVerify(), a.pluginsPin(), a.pluginsTest(), a.pluginsRun())
}

func (a *app) pluginsList() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the plugin executables in the plugin folder, and whether they may be started", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			found, err := doctor.Plugins(cfg.Plugins.Dir)
			if err != nil {
				return err
			}
			listed := make([]listedPlugin, len(found))
			for i, p := range found {
				listed[i] = listedPlugin{Plugin: p, State: pluginState(cfg.Plugins, p), Profile: pluginProfile(cfg.Plugins, p)}
			}
			if a.output == "json" {
				return table.JSON(a.out, listed)
			}
			rows := make([][]string, len(listed))
			for i, p := range listed {
				rows[i] = []string{p.Kind, p.Name, progress.Size(p.Bytes), p.State, confinedAs(p.Profile), p.Path}
			}
			return table.Write(a.out, []string{"KIND", "NAME", "SIZE", "STATE", "CONFINED AS", "PATH"}, rows)
		},
	}
	setting(c.Flags(), "plugins", "", "plugins.dir", "`folder` of the plugin executables")
	return c
}

// listedPlugin is the JSON form of an executable in the plugin folder.
type listedPlugin struct {
	doctor.Plugin
	State string `json:"state"` // "pinned", or why the host would not start it
	// Profile is the wider confinement of a script; nil for a program.
	Profile *catalogue.Profile `json:"profile,omitempty"`
}

// pluginProfile is what the catalogue gives a file, if there is a catalogue: pluginState tells its faults.
func pluginProfile(c config.Plugins, p doctor.Plugin) *catalogue.Profile {
	list, err := instance.ReadCatalogue(c)
	if err != nil {
		return nil
	}
	return list.Profile(c.Dir, p.Path)
}

// confinedAs names a profile in a table.
func confinedAs(p *catalogue.Profile) string {
	if p == nil {
		return "program"
	}
	var reads []string
	for _, r := range p.Reads {
		reads = append(reads, r.Path)
	}
	what, who := "program", "NVIDIA's devices,"
	if p.Interpreter.Path != "" {
		what, who = "script", p.Interpreter.Path
	}
	return fmt.Sprintf("%s %s, wider: %s reads %s", p.Name, what, who, cmp.Or(strings.Join(reads, " "), "nothing more"))
}

// pluginState says what a host would make of an executable.
func pluginState(c config.Plugins, p doctor.Plugin) string {
	if !p.Executable {
		return "not executable"
	}
	list, err := instance.ReadCatalogue(c)
	if errors.Is(err, os.ErrNotExist) {
		return "no catalogue"
	} else if err != nil {
		return err.Error()
	}
	switch _, err := pluginDigest(c, list, p.Kind, p.Path); {
	case err != nil:
		return err.Error()
	default:
		return "pinned"
	}
}

// pluginDigest is the digest of an executable, with the host's own objections to it.
func pluginDigest(c config.Plugins, list *catalogue.Catalogue, kind, path string) (string, error) {
	f, err := client.OpenTrusted(path, false)
	if err != nil {
		return "", err
	}
	defer f.Close()
	digest, err := client.Digest(f)
	if err != nil {
		return "", err
	}
	for _, e := range list.Plugins {
		if e.Kind == kind && e.File(c.Dir) == path && "sha256:"+e.SHA256 == digest {
			if e.Profile == nil {
				return digest, nil
			}
			return digest, instance.ProfileOf(e.Profile, false).Verify()
		}
	}
	return digest, fmt.Errorf("not pinned: its digest is %s: %w", digest, sdk.ErrUnsupported)
}

// verified is the JSON form of one entry's check.
type verified struct {
	catalogue.Plugin
	File  string `json:"file"`
	Error string `json:"error,omitempty"`
}

func (a *app) pluginsVerify() *cobra.Command {
	c := &cobra.Command{
		Use: "verify", Short: "Check the executables against the catalogue; exit code 0 = each is what was pinned", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			list, err := instance.ReadCatalogue(cfg.Plugins)
			if err != nil {
				return err
			}
			out, bad := []verified{}, 0
			for _, p := range list.Plugins {
				v := verified{Plugin: p, File: p.File(cfg.Plugins.Dir)}
				if _, err := pluginDigest(cfg.Plugins, list, p.Kind, v.File); err != nil {
					v.Error = oneLine(err.Error())
					bad++
				}
				out = append(out, v)
			}
			if err := a.printVerified(out); err != nil {
				return err
			}
			if bad > 0 {
				return fmt.Errorf("%d of %d plugins are not what the catalogue pins", bad, len(out))
			}
			return nil
		},
	}
	catalogueFlags(c)
	return c
}

func (a *app) printVerified(list []verified) error {
	if a.output == "json" {
		return table.JSON(a.out, list)
	}
	rows := make([][]string, len(list))
	for i, v := range list {
		groups := cmp.Or(strings.Join(v.Groups, " "), "all")
		rows[i] = []string{v.Kind, v.Name, v.Version, v.SHA256[:12], groups, cmp.Or(v.Error, "ok")}
	}
	return table.Write(a.out, []string{"KIND", "NAME", "VERSION", "SHA256", "GROUPS", "STATE"}, rows)
}

func catalogueFlags(c *cobra.Command) {
	setting(c.Flags(), "plugins", "", "plugins.dir", "`folder` of the plugin executables")
	setting(c.Flags(), "catalogue", "", "plugins.catalogue", "`file` with the list of plugins; default: plugins.yaml in the folder")
}

func (a *app) pluginsPin() *cobra.Command {
	var groups []string
	var script scriptFlags
	c := &cobra.Command{
		Use:   "pin [PATH...]",
		Short: "Write the digests of plugins into the catalogue: of all in the plugin folder, or of those named",
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			if script.name != "" && len(args) == 0 {
				return usageError{errors.New("plugins pin: --profile is for plugins that are named: want PATH")}
			}
			return a.pin(cfg.Plugins, args, groups, script)
		},
	}
	catalogueFlags(c)
	script.add(c)
	c.Flags().StringSliceVar(&groups, "groups", nil, "expert `groups` that they may serve; default: all, or those pinned before")
	return c
}

// pin leaves the entries of other files as they are. Without paths, entries of files that are gone from the folder go too.
func (a *app) pin(c config.Plugins, paths, groups []string, script scriptFlags) error {
	list, err := instance.ReadCatalogue(c)
	if errors.Is(err, os.ErrNotExist) {
		list = &catalogue.Catalogue{}
	} else if err != nil {
		return err
	}
	if len(paths) == 0 {
		found, err := doctor.Plugins(c.Dir)
		if err != nil {
			return err
		}
		for _, p := range found {
			paths = append(paths, p.Path)
		}
		list.Plugins = slices.DeleteFunc(list.Plugins, func(p catalogue.Plugin) bool {
			return p.Path == "" && !slices.Contains(paths, p.File(c.Dir))
		})
	}
	for _, path := range paths {
		p, err := pinned(c, path)
		if err != nil {
			return err
		}
		p.Groups = groups
		if p.Profile, err = script.pinned(path, list.Profile(c.Dir, p.File(c.Dir))); err != nil {
			return err
		}
		list.Pin(p)
	}
	b, err := list.Bytes()
	if err != nil {
		return err
	}
	return atomicfile.Write(instance.CataloguePath(c), b, 0o644)
}

// pinned is the entry for an executable as it is now.
func pinned(c config.Plugins, path string) (catalogue.Plugin, error) {
	var p catalogue.Plugin
	path, err := filepath.Abs(path)
	if err != nil {
		return p, fmt.Errorf("pin: %w", err)
	}
	f, err := client.OpenTrusted(path, false)
	if err != nil {
		return p, fmt.Errorf("pin: %w", err)
	}
	defer f.Close()
	digest, err := client.Digest(f)
	if err != nil {
		return p, fmt.Errorf("pin %s: %w", path, err)
	}
	kind, name, ok := doctor.PluginName(filepath.Base(path))
	if !ok {
		return p, usageError{fmt.Errorf("pin %s: want a file name such as pimoe-expert-NAME or pimoe-router-NAME", path)}
	}
	p = catalogue.Plugin{Name: name, Kind: kind, SHA256: strings.TrimPrefix(digest, "sha256:"), Version: "unknown"}
	if info, err := buildinfo.Read(f); err == nil && info.Main.Version != "" {
		p.Version = info.Main.Version
		if own, ok := debug.ReadBuildInfo(); ok && info.Main.Path == own.Main.Path && p.Version == "(devel)" {
			p.Version = version // of the same tree
		}
	}
	if dir, err := filepath.Abs(c.Dir); err != nil || filepath.Dir(path) != dir {
		p.Path = path
	}
	return p, nil
}

// conformance is the JSON form of a plugin's test.
type conformance struct {
	Path   string   `json:"path"`
	Passed bool     `json:"passed"`
	Report []string `json:"report"` // a line for each check
}

func (a *app) pluginsTest() *cobra.Command {
	var script scriptFlags
	c := &cobra.Command{
		Use:   "test PATH",
		Short: "Run the conformance suite on a plugin executable; exit code 0 = it keeps the contract",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := os.Stat(args[0]); err != nil {
				return fmt.Errorf("plugin: %w", err)
			}
			profile, err := script.any()
			if err != nil {
				return err
			}
			if a.output != "json" {
				return sdktest.Interpreted(c.Context(), args[0], profile, a.out)
			}
			var report bytes.Buffer
			err = sdktest.Interpreted(c.Context(), args[0], profile, &report)
			lines := strings.Split(strings.TrimSpace(report.String()), "\n")
			if e := table.JSON(a.out, conformance{args[0], err == nil, lines}); e != nil {
				return e
			}
			return err
		},
	}
	script.add(c)
	return c
}
