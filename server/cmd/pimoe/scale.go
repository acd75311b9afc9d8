package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
)

// scale sets how many replicas a group has.
func (a *app) scale(admin *string) *cobra.Command {
	var replicas int
	var auto bool
	c := &cobra.Command{
		Use: "scale GROUP", Short: "Give an expert group more or fewer processes, or have it follow its load again", Args: cobra.ExactArgs(1),
		Long: `Give an expert group so many processes that serve the same units, up to experts.scaling.max_replicas. New
ones are started, load and pass their known-answer test before they get calls; those too many get no new
calls, finish the ones that they have and end. The number stays, whatever the load is, until --auto.`,
		RunE: func(c *cobra.Command, args []string) error {
			if auto == (replicas > 0) {
				return usageError{fmt.Errorf("experts scale %s: want --replicas N, at least 1, or --auto", args[0])}
			}
			base, err := a.adminURL(c, *admin)
			if err != nil {
				return err
			}
			body, err := json.Marshal(map[string]any{"replicas": replicas})
			if auto {
				body, err = json.Marshal(map[string]any{"auto": true})
			}
			if err != nil {
				return err
			}
			var st host.GroupStatus
			if err := a.send(c.Context(), base+"/admin/experts/"+url.PathEscape(args[0])+"/scale", body, &st); err != nil {
				return err
			}
			return a.show(st, scaleHead, scaleRow(st))
		},
	}
	c.Flags().IntVar(&replicas, "replicas", 0, "`number` of processes that serve the group's units")
	c.Flags().BoolVar(&auto, "auto", false, "follow the load again, between experts.replicas and experts.scaling.max_replicas")
	return c
}

var scaleHead = []string{"GROUP", "WANTED", "READY", "MIN", "MAX", "SET BY", "BUSY", "QUEUE", "LAST CHANGE"}

func scaleRow(st host.GroupStatus) []string {
	by, last := "load", "-"
	switch {
	case st.Pinned:
		by = "operator"
	case st.Min == st.Max:
		by = "configuration"
	}
	if d := st.Last; d != nil {
		last = fmt.Sprintf("%s: %d to %d, %s", d.At.Format(time.DateTime), d.From, d.To, d.Why)
		if d.Failed != "" {
			last += "; failed: " + d.Failed
		}
	}
	if st.Held != "" {
		last += "; no more: " + st.Held
	}
	return []string{st.Group, fmt.Sprint(st.Wanted), fmt.Sprint(st.Ready), fmt.Sprint(st.Min), fmt.Sprint(st.Max), by,
		fmt.Sprintf("%.0f %%", 100*st.Busy), st.Queue.Round(time.Millisecond).String(), last}
}

// printScaling shows how many replicas a group has and should have.
func (a *app) printScaling(body []byte, name string) error {
	var list struct {
		Groups []host.GroupStatus `json:"groups"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return fmt.Errorf("answer of the admin API: %w", err)
	}
	for _, st := range list.Groups {
		if st.Group != name {
			continue
		}
		if err := table.Write(a.out, scaleHead, [][]string{scaleRow(st)}); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.out)
		return err
	}
	return nil
}

// rebalance deals the units anew.
func (a *app) rebalance(admin *string) *cobra.Command {
	var dry, file bool
	c := &cobra.Command{
		Use: "rebalance", Short: "Move units (layer, expert) between the processes, as suits their measured heat", Args: cobra.NoArgs,
		Long: `Deal the units (layer, expert) over the present groups anew, by what each has had to do since the server's
start, with few moves, while requests run: groups that get other units are replaced by new processes that have
passed their tests, all in one step. Requests under way end as they began, and no grouping changes an answer.
--dry-run shows the present and the proposed grouping and how even they are, and changes nothing. --print prints
the proposal as configuration instead: without it in the server's file, a reload or a restart brings back the
grouping of the file.`,
		RunE: func(c *cobra.Command, _ []string) error {
			base, err := a.adminURL(c, *admin)
			if err != nil {
				return err
			}
			r := instance.Rebalance{}
			if dry || file {
				err = a.proposal(c.Context(), base, &r)
			} else {
				err = a.send(c.Context(), base+"/admin/rebalance", []byte("{}"), &r)
			}
			switch {
			case err != nil:
				return err
			case a.output == "json":
				return table.JSON(a.out, r)
			case file:
				return a.printGrouping(r)
			}
			return a.printRebalance(r)
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "show the proposed grouping and change nothing")
	c.Flags().BoolVar(&file, "print", false, "print the proposed grouping as configuration and change nothing")
	c.MarkFlagsMutuallyExclusive("dry-run", "print")
	return c
}

// proposal asks for the grouping that a rebalance would make.
func (a *app) proposal(ctx context.Context, base string, r *instance.Rebalance) error {
	body, err := a.get(ctx, base+"/admin/rebalance")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, r); err != nil {
		return fmt.Errorf("answer of the admin API: %w", err)
	}
	return nil
}

func (a *app) printRebalance(r instance.Rebalance) error {
	percent := func(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }
	var rows [][]string
	for _, g := range r.Groups {
		rows = append(rows, []string{g.Group, fmt.Sprint(g.Units), percent(g.Heat), fmt.Sprint(g.Later), percent(g.Cooled)})
	}
	if err := table.Write(a.out, []string{"GROUP", "UNITS", "HEAT", "UNITS THEN", "HEAT THEN"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.out, `
%d units change places.
The hottest group has %.2f times the mean heat, then %.2f times.
The hottest groups of all layers have %.2f times the mean, then %.2f times.
`, r.Moved, r.Before.Busiest, r.After.Busiest, r.Before.Layers, r.After.Layers)
	return err
}

// printGrouping prints the proposal as a file of settings.
func (a *app) printGrouping(r instance.Rebalance) error {
	group := map[string]any{}
	for name, entries := range r.Group {
		var n yaml.Node
		if err := n.Encode(entries); err != nil {
			return fmt.Errorf("grouping of %s: %w", name, err)
		}
		for _, entry := range n.Content {
			entry.Style = yaml.FlowStyle
		}
		group[name] = &n
	}
	text, err := yaml.Marshal(map[string]any{"experts": map[string]any{"group": group}})
	if err != nil {
		return fmt.Errorf("grouping: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "# %d units in other processes than before: pimoe experts rebalance --print\n%s", r.Moved, text)
	return err
}
