package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
)

func (a *app) reload() *cobra.Command {
	var admin string
	c := &cobra.Command{
		Use: "reload", Short: "Have a running server read its configuration and plugins again", Args: cobra.NoArgs,
		Long: `Have a running server read its configuration and plugins again: the same file, variables and flags as at
its start. Expert groups and the router whose settings or executables have changed are replaced under load,
all or none. What can't be applied changes nothing, and the answer says why.`,
		RunE: func(c *cobra.Command, _ []string) error {
			base, err := a.adminURL(c, admin)
			if err != nil {
				return err
			}
			var done instance.Reloaded
			if err := a.send(c.Context(), base+"/admin/reload", []byte("{}"), &done); err != nil {
				return err
			}
			if a.output == "json" {
				return table.JSON(a.out, done)
			}
			rows := [][]string{}
			for _, ch := range done.Changes {
				rows = append(rows, []string{ch.Key, ch.From, ch.To})
			}
			if done.Processes != nil {
				for _, g := range done.Processes.Groups {
					rows = append(rows, []string{"expert group " + g.Group, g.From, g.To})
				}
				if r := done.Processes.Router; r != "" {
					rows = append(rows, []string{"router", "", r})
				}
			}
			if err := table.Write(a.out, []string{"CHANGED", "FROM", "TO"}, rows); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "\nconfiguration %s, applied in %v\n", done.Hash, done.Took.Round(time.Millisecond))
			return err
		},
	}
	c.Flags().StringVar(&admin, "admin", "", "`URL` of the admin API; default: the configured address")
	return c
}

// again reads the configuration as it was read at the start. The model of a shape was made then, and stays.
func (a *app) again(c *cobra.Command, first config.Config) (config.Config, error) {
	cfg, err := a.load(c)
	if shape := c.Flags().Lookup("shape"); shape != nil && shape.Changed {
		cfg.Model, cfg.Home = first.Model, first.Home
	}
	return cfg, err
}

// onEach calls f for each signal, one after the other, until the function that it returns is called, which waits for the
// last one.
func onEach(signals <-chan os.Signal, f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-signals:
				f(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-ended }
}
