package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

func (a *app) config() *cobra.Command {
	check := &cobra.Command{
		Use: "check [FILE]", Short: "Check the configuration and report every problem", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				a.file = args[0]
			}
			_, err := a.load(c)
			return a.reportProblems(err)
		},
	}
	show := &cobra.Command{
		Use: "print", Short: "Print the configuration that flags, environment, file and defaults make, without secrets", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.load(c)
			if err != nil {
				return err
			}
			text, err := cfg.YAML()
			if err != nil {
				return fmt.Errorf("print configuration: %w", err)
			}
			_, err = a.out.Write(text)
			return err
		},
	}
	schema := &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of a configuration file", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := config.Schema()
			if err != nil {
				return fmt.Errorf("configuration schema: %w", err)
			}
			_, err = fmt.Fprintf(a.out, "%s\n", s)
			return err
		},
	}
	c := group("config", "Check, print and describe the configuration", check, show, schema)
	f := c.PersistentFlags()
	setting(f, "addr", "", "server.addr", "`address` of the public API")
	setting(f, "plugins", "", "plugins.dir", "`folder` of the plugin executables")
	return c
}

// reportProblems shows each problem on its own line; as JSON, {"ok", "problems"}.
func (a *app) reportProblems(err error) error {
	var problems config.Problems
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = oneLine(p.String())
	}
	if a.output == "json" {
		if e := table.JSON(a.out, map[string]any{"ok": err == nil, "problems": lines}); e != nil {
			return e
		}
	} else if err == nil {
		fmt.Fprintln(a.out, "the configuration is valid")
	} else {
		for _, l := range lines {
			fmt.Fprintln(a.err, "pimoe: "+l)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	return nil
}
