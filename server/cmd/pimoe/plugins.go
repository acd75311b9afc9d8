package main

import (
	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/doctor"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

func (a *app) plugins() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the plugin executables in the plugin folder", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			found, err := doctor.Plugins(cfg.Plugins)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return table.JSON(a.out, append([]doctor.Plugin{}, found...))
			}
			rows := make([][]string, len(found))
			for i, p := range found {
				state := "ok"
				if !p.Executable {
					state = "not executable"
				}
				rows[i] = []string{p.Kind, p.Name, progress.Size(p.Bytes), state, p.Path}
			}
			return table.Write(a.out, []string{"KIND", "NAME", "SIZE", "STATE", "PATH"}, rows)
		},
	}
	setting(list.Flags(), "plugins", "", "plugins", "`folder` of the plugin executables")
	return group("plugins", "List plugins and test that they keep the contract", list)
}
