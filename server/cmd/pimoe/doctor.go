package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/doctor"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

func (a *app) doctor() *cobra.Command {
	var strict bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Show what this machine can do; exit code 4 if serve would fail",
		Long: `Show what this machine can do; exit code 4 if serve would fail.

With --production judge whether people may be served: configuration, credentials, certificate, limits, plugins and
their confinement, audit log, keys, permissions, backup, disk, kernel and clock, and what the running host says of
itself. Each item is ok, warn or fail, with the reason and what to do; exit code 4 if one fails. Run it as the
host's user, with the host's configuration and environment, beside the running host. It changes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			if strict {
				if cfg, err = a.load(c); err != nil { // with the host's own log level
					return err
				}
				return a.doctorProduction(c, cfg)
			}
			checks := doctor.Run(cfg.Plugins.Dir, cfg.Home, neededPlugins(cfg))
			if a.output == "json" {
				err = table.JSON(a.out, map[string]any{"checks": checks})
			} else {
				rows := make([][]string, len(checks))
				for i, k := range checks {
					rows[i] = []string{string(k.Status), k.Name, k.Detail}
				}
				err = table.Write(a.out, []string{"STATUS", "CHECK", "DETAIL"}, rows)
			}
			if err != nil {
				return err
			}
			if n := doctor.Failures(checks); n > 0 {
				return fmt.Errorf("doctor: %d of %d checks failed: %w", n, len(checks), sdk.ErrUnavailable)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&strict, "production", false, "judge whether people may be served by this host")
	modelFlags(c)
	return c
}

// neededPlugins are the files in the plugin folder that a configuration starts.
func neededPlugins(cfg config.Config) []string {
	if cfg.Experts.Isolation == "inproc" {
		return nil
	}
	names := []string{"pimoe-router-" + cfg.Router.Plugin, "pimoe-expert-" + cfg.Experts.Backend}
	for _, o := range cfg.Experts.Overrides {
		if o.Plugin == "" && o.Backend != "" {
			names = append(names, "pimoe-expert-"+o.Backend)
		} else if o.Plugin != "" && filepath.Dir(o.Plugin) == filepath.Clean(cfg.Plugins.Dir) {
			names = append(names, filepath.Base(o.Plugin))
		}
	}
	return names
}
