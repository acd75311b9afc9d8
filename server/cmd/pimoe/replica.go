package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

// restart gives a group or a replica fresh processes.
func (a *app) restart(admin *string) *cobra.Command {
	return &cobra.Command{
		Use: "restart GROUP[/REPLICA]", Short: "Give a group, or one replica, fresh processes while requests run", Args: cobra.ExactArgs(1),
		Long: `Give an expert group fresh processes of the same program: they start, load and pass their tests before the
old ones end, and nobody waits. One replica of several ends when it has finished its calls, while the others
serve; the only one is restarted as its group is.`,
		RunE: func(c *cobra.Command, args []string) error {
			var done struct {
				Restarted bool `json:"restarted"`
			}
			if err := a.onReplica(c, *admin, "restart", args[0], &done); err != nil {
				return err
			}
			if a.output == "json" {
				return table.JSON(a.out, done)
			}
			_, err := fmt.Fprintf(a.out, "%s restarted\n", args[0])
			return err
		},
	}
}

// drain takes a replica out of use.
func (a *app) drain(admin *string) *cobra.Command {
	return &cobra.Command{
		Use: "drain GROUP/REPLICA", Short: "Take one replica out of use when it has finished its calls", Args: cobra.ExactArgs(1),
		Long: `Take one replica out of use: it gets no new calls, finishes those that it has, and ends. The group has one
replica fewer from then on, whatever its load, until pimoe experts scale says otherwise.`,
		RunE: func(c *cobra.Command, args []string) error {
			if !strings.Contains(args[0], "/") {
				return usageError{fmt.Errorf("experts drain %s: want GROUP/REPLICA, such as e3/1", args[0])}
			}
			var st host.GroupStatus
			if err := a.onReplica(c, *admin, "drain", args[0], &st); err != nil {
				return err
			}
			return a.show(st, scaleHead, scaleRow(st))
		},
	}
}

// onReplica asks the admin API for something about "GROUP" or "GROUP/REPLICA".
func (a *app) onReplica(c *cobra.Command, admin, word, name string, out any) error {
	group, replica, one := strings.Cut(name, "/")
	in := map[string]uint64{}
	if one {
		n, err := strconv.ParseUint(replica, 10, 16)
		if err != nil {
			return usageError{fmt.Errorf("experts %s %s: want GROUP/REPLICA, such as e3/1", word, name)}
		}
		in["replica"] = n
	}
	base, err := a.adminURL(c, admin)
	if err != nil {
		return err
	}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return a.send(c.Context(), base+"/admin/experts/"+url.PathEscape(group)+"/"+word, body, out)
}
