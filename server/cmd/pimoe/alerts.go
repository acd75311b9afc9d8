package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/server/alert"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

// alerts shows what is wrong with a running server, and the rules.
func (a *app) alerts() *cobra.Command {
	var admin string
	c := &cobra.Command{
		Use: "alerts", Short: "Show what is wrong with a running server, and the rules that say so", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.listAlerts(c, admin) },
	}
	c.PersistentFlags().StringVar(&admin, "admin", "", "`URL` of the admin API; default: the configured address")
	c.AddCommand(&cobra.Command{
		Use: "list", Short: "Show the alerts that fire, are pending or were resolved lately", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.listAlerts(c, admin) },
	}, a.alertRules())
	return c
}

func (a *app) listAlerts(c *cobra.Command, admin string) error {
	base, err := a.adminURL(c, admin)
	if err != nil {
		return err
	}
	body, err := a.get(c.Context(), base+"/admin/alerts")
	if err != nil {
		return err
	}
	var list struct {
		Enabled bool          `json:"enabled"`
		Alerts  []alert.Alert `json:"alerts"`
		Over    []alert.Alert `json:"over"`
	}
	if a.output == "json" {
		return table.JSON(a.out, json.RawMessage(body))
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return fmt.Errorf("answer of the admin API: %w", err)
	}
	if !list.Enabled {
		_, err := fmt.Fprintln(a.out, "The server evaluates no rules: alerts.enabled is false.")
		return err
	}
	rows := [][]string{}
	for _, x := range append(list.Alerts, list.Over...) {
		ended := "-"
		if !x.Resolved.IsZero() {
			ended = x.Resolved.Local().Format(time.DateTime)
		}
		rows = append(rows, []string{x.Rule, string(x.Severity), string(x.State), x.Since.Local().Format(time.DateTime), ended, oneLine(x.Summary)})
	}
	return table.Write(a.out, []string{"ALERT", "SEVERITY", "STATE", "SINCE", "ENDED", "SUMMARY"}, rows)
}

// alertRules needs no server: the rules follow from the configuration.
func (a *app) alertRules() *cobra.Command {
	var file bool
	c := &cobra.Command{
		Use: "rules", Short: "Show the rules of the configuration, or print them as a rule file for Prometheus", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			rules := alert.Rules(cfg.Alerts)
			if file {
				text, err := alert.Prometheus(rules, cfg.Alerts.Interval)
				if err != nil {
					return err
				}
				_, err = a.out.Write(text)
				return err
			}
			list := alert.Describe(rules)
			if a.output == "json" {
				return table.JSON(a.out, list)
			}
			rows := make([][]string, len(list))
			for i, r := range list {
				rows[i] = []string{r.Name, string(r.Severity), r.For, r.KeepFiring, r.Expr}
			}
			return table.Write(a.out, []string{"RULE", "SEVERITY", "FOR", "KEEPS FIRING", "CONDITION"}, rows)
		},
	}
	c.Flags().BoolVar(&file, "prometheus", false, "print a rule file for Prometheus")
	return c
}
