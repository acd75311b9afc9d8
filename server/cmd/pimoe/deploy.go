package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/deploy"
	"github.com/pimoe/pimoe/server/deploy/sbom"
	"github.com/pimoe/pimoe/server/deploy/targets"
)

func (a *app) deploy() *cobra.Command {
	return group("deploy", "Make the files that run PiMoE somewhere", a.renderDeploy(), a.deployValues(), a.billOfMaterials())
}

// chosen are the flags that say what is rendered.
type chosen struct {
	values, environment, profile string
}

func (o *chosen) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.values, "values", "", "`file` of values (YAML); without it the defaults")
	f.StringVar(&o.environment, "environment", "", "`environment`: development, staging, production; wins over the file")
	f.StringVar(&o.profile, "profile", "", "`profile`: standard, edge, serverless, multi-region; wins over the file")
}

func (o *chosen) load() (deploy.Values, error) {
	var data []byte
	if o.values != "" {
		var err error
		if data, err = os.ReadFile(o.values); err != nil {
			return deploy.Values{}, fmt.Errorf("read values: %w", err)
		}
	}
	return deploy.Load(o.values, data, deploy.Environment(o.environment), deploy.Profile(o.profile))
}

func (a *app) renderDeploy() *cobra.Command {
	var o chosen
	var target, out string
	var check bool
	c := &cobra.Command{
		Use: "render", Short: "Render the files of a target into a folder", Args: cobra.NoArgs,
		Long: `Render the files of a target from one set of values: ports, names and limits are the same everywhere.
Each target gets a folder of its own below --out. Files that are as they should be are left alone, and
nothing is removed. No secret is ever in a file: files name where secrets come from.

With --check nothing is written: what differs from the folder is listed, with exit code 1 if anything does.`,
		Example: `  pimoe deploy render --target all --out deploy
  pimoe deploy render --target compose --values values.yaml --environment staging --out staging
  pimoe deploy render --target all --values values.yaml --out staging --check`,
		RunE: func(*cobra.Command, []string) error {
			v, err := o.load()
			if err != nil {
				return err
			}
			files, err := filesOf(target, v)
			if err != nil {
				return err
			}
			if check {
				return a.checkDeploy(out, files)
			}
			var written []deploy.Difference
			for _, name := range targets.Names() {
				if f, there := files[name]; there {
					w, err := deploy.Write(filepath.Join(out, name), f)
					if err != nil {
						return err
					}
					written = append(written, below(name, w)...)
				}
			}
			return a.printDifferences(written)
		},
	}
	o.flags(c)
	f := c.Flags()
	f.StringVar(&target, "target", "all", "`target`: "+strings.Join(targets.Names(), ", ")+" or all")
	f.StringVar(&out, "out", "", "`folder` for the files")
	f.BoolVar(&check, "check", false, "write nothing, list what differs")
	if err := c.MarkFlagRequired("out"); err != nil {
		panic("pimoe: a flag that was just made does not exist")
	}
	return c
}

// filesOf is the files of a target, or of all, by the target's name.
func filesOf(target string, v deploy.Values) (map[string][]deploy.File, error) {
	list := targets.All()
	if target != "all" {
		t := targets.Named(target)
		if t == nil {
			return nil, usageError{fmt.Errorf("--target %q: want %s or all", target, strings.Join(targets.Names(), ", "))}
		}
		list = []deploy.Target{t}
	}
	out := map[string][]deploy.File{}
	for _, t := range list {
		files, err := t.Files(v)
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", t.Name(), err)
		}
		out[t.Name()] = deploy.Sorted(files)
	}
	return out, nil
}

// checkDeploy lists what differs from the folder; anything is a failure.
func (a *app) checkDeploy(out string, files map[string][]deploy.File) error {
	var all []deploy.Difference
	for _, name := range targets.Names() {
		f, there := files[name]
		if !there {
			continue
		}
		d, err := deploy.Compare(filepath.Join(out, name), f)
		if err != nil {
			return err
		}
		all = append(all, below(name, d)...)
	}
	if err := a.printDifferences(all); err != nil {
		return err
	}
	if len(all) > 0 {
		return fmt.Errorf("deploy: %d files differ from %s", len(all), out)
	}
	return nil
}

// below puts the target's folder before the paths.
func below(target string, list []deploy.Difference) []deploy.Difference {
	for i := range list {
		list[i].Path = path.Join(target, list[i].Path)
	}
	return list
}

func (a *app) printDifferences(list []deploy.Difference) error {
	if a.output == "json" {
		return table.JSON(a.out, append([]deploy.Difference{}, list...))
	}
	rows := make([][]string, len(list))
	for i, d := range list {
		rows[i] = []string{d.Path, d.How}
	}
	return table.Write(a.out, []string{"FILE", "WAS"}, rows)
}

func (a *app) deployValues() *cobra.Command {
	var o chosen
	c := &cobra.Command{
		Use: "values", Short: "Print the values that hold, as a file of values", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v, err := o.load()
			if err != nil {
				return err
			}
			b, err := v.YAML()
			if err != nil {
				return err
			}
			_, err = a.out.Write(b)
			return err
		},
	}
	o.flags(c)
	return c
}

func (a *app) billOfMaterials() *cobra.Command {
	return &cobra.Command{
		Use: "sbom [FOLDER]", Short: "Print what the executables of a folder are made of (CycloneDX)", Args: cobra.MaximumNArgs(1),
		Long: `Print what the host and its plugins are made of, as a CycloneDX document: modules, versions, digests,
read out of the executables themselves. FOLDER is by default the folder of the plugins.`,
		RunE: func(c *cobra.Command, args []string) error {
			dir := ""
			if len(args) == 1 {
				dir = args[0]
			} else {
				cfg, err := a.load(c, quiet)
				if err != nil {
					return err
				}
				dir = cfg.Plugins.Dir
			}
			files, err := executables(dir)
			if err != nil {
				return err
			}
			d, err := sbom.Of("pimoe", version, files)
			if err != nil {
				return err
			}
			b, err := d.JSON()
			if err != nil {
				return err
			}
			_, err = a.out.Write(b)
			return err
		},
	}
}

// executables are the host and the plugins of a folder.
func executables(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "pimoe*"))
	if err != nil || len(files) == 0 {
		return nil, errors.Join(fmt.Errorf("no executables of pimoe in %s: %w", dir, os.ErrNotExist), err)
	}
	return files, nil
}
