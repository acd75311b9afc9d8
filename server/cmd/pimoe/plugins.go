package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/sdk/sdktest"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/doctor"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

func (a *app) plugins() *cobra.Command {
	return group("plugins", "List plugins and test that they keep the contract", a.pluginsList(), a.pluginsTest())
}

func (a *app) pluginsList() *cobra.Command {
	c := &cobra.Command{
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
	setting(c.Flags(), "plugins", "", "plugins", "`folder` of the plugin executables")
	return c
}

// conformance is the JSON form of a plugin's test.
type conformance struct {
	Path   string   `json:"path"`
	Passed bool     `json:"passed"`
	Report []string `json:"report"` // a line for each check
}

func (a *app) pluginsTest() *cobra.Command {
	return &cobra.Command{
		Use:   "test PATH",
		Short: "Run the conformance suite on a plugin executable; exit code 0 = it keeps the contract",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := os.Stat(args[0]); err != nil {
				return fmt.Errorf("plugin: %w", err)
			}
			if a.output != "json" {
				return sdktest.Binary(c.Context(), args[0], a.out)
			}
			var report bytes.Buffer
			err := sdktest.Binary(c.Context(), args[0], &report)
			lines := strings.Split(strings.TrimSpace(report.String()), "\n")
			if e := table.JSON(a.out, conformance{args[0], err == nil, lines}); e != nil {
				return e
			}
			return err
		},
	}
}
