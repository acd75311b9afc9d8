package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk/client"
)

// pluginsRun starts a plugin for its author to debug.
func (a *app) pluginsRun() *cobra.Command {
	var admin, group, debugger string
	var patience time.Duration
	c := &cobra.Command{
		Use: "run PATH", Short: "Run a plugin of yours, also under a debugger, in the place of an expert group of a running host", Args: cobra.ExactArgs(1),
		Long: `Run a plugin of yours in the place of an expert group of a running host on this machine, which was started
with --dev. It runs as you start it, without confinement, and under a debugger if you like. It may stand at a
breakpoint as long as you like: calls that it doesn't answer in time go to the group's former processes, and
so does the group when the plugin ends or you press Ctrl-C.`,
		Example: `  pimoe plugins run ./pimoe-expert-mine --attach http://127.0.0.1:8081 --group e3
  pimoe plugins run ./pimoe-expert-mine --attach http://127.0.0.1:8081 --group e3 --exec "dlv exec --headless --listen 127.0.0.1:4000"`,
		RunE: func(c *cobra.Command, args []string) error {
			path, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("plugin: %w", err)
			}
			base, err := a.adminURL(c, admin)
			if err != nil {
				return err
			}
			body, err := json.Marshal(map[string]float64{"patience": patience.Seconds()})
			if err != nil {
				return err
			}
			var place struct{ Socket string }
			if err := a.send(c.Context(), base+"/admin/experts/"+url.PathEscape(group)+"/attach", body, &place); err != nil {
				return err
			}
			command := []string{path}
			if debugger != "" {
				command = []string{"/bin/sh", "-c", "exec " + debugger + ` "$@"`, "sh", path}
			}
			return client.Attach(c.Context(), place.Socket, command, a.out, func(note string) { fmt.Fprintln(a.out, note) })
		},
	}
	c.Flags().StringVar(&admin, "attach", "", "`URL` of the host's admin API; default: the configured address")
	c.Flags().StringVar(&group, "group", "", "the expert `group` whose place it gets")
	c.Flags().StringVar(&debugger, "exec", "", "`command` that starts the plugin, whose path is added at its end")
	c.Flags().DurationVar(&patience, "patience", host.DefaultGuestPatience, "how long a call waits for it before the former processes answer")
	c.MarkFlagRequired("group")
	return c
}
