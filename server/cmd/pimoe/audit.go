package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/server/audit"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

func (a *app) audit() *cobra.Command {
	return group("audit", "Check and show the log of changes", a.auditVerify(), a.auditShow())
}

// auditPath is the named log, or the configured one.
func (a *app) auditPath(c *cobra.Command, args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	cfg, err := a.load(c)
	if err != nil {
		return "", err
	}
	path := cfg.Audit.Path(cfg.Home)
	if path == "" {
		return "", usageError{errors.New("audit: audit.file is off; want a FILE")}
	}
	return path, nil
}

func (a *app) auditVerify() *cobra.Command {
	var key string
	var tail bool
	c := &cobra.Command{
		Use: "verify [FILE]", Short: "Check that no record of the log was changed, removed or put elsewhere",
		Long: `Check that no record of the log was changed, removed or put elsewhere, and that its end is the one that
the host has signed. Exit code 0 if all is right; else the first bad record is named. The key beside the log
proves nothing against somebody who may write there: note it once (FILE.pub) and give it with --key.`,
		Example: `  pimoe audit verify
  pimoe audit verify /backup/audit.jsonl --key 9f3c...`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := a.auditPath(c, args)
			if err != nil {
				return err
			}
			rep, err := audit.Verify(path, key, tail)
			var fault *audit.Fault
			if err != nil && !errors.As(err, &fault) {
				return err
			}
			if a.output == "json" {
				if err := table.JSON(a.out, struct {
					OK bool `json:"ok"`
					*audit.Report
					Fault *audit.Fault `json:"fault"`
				}{fault == nil, rep, fault}); err != nil {
					return err
				}
			}
			if fault != nil {
				return fault
			}
			if a.output == "json" {
				return nil
			}
			return a.printAuditVerified(rep)
		},
	}
	c.Flags().StringVar(&key, "key", "", "public key in `hex`, as FILE.pub holds it; default: that file")
	c.Flags().BoolVar(&tail, "tail", false, "the oldest files have been moved away: begin with the first one that is there")
	return c
}

func (a *app) printAuditVerified(rep *audit.Report) error {
	text := fmt.Sprintf("%d records in %d files, %d to %d, all as they were written\nhead %d:%s\n", rep.Records, len(rep.Files), rep.First, rep.Last, rep.Last, rep.Hash)
	if rep.Torn > 0 {
		text += fmt.Sprintf("%d lines were cut off by a crash, as later records say\n", rep.Torn)
	}
	if rep.Unsigned > 0 {
		text += "the last record is not signed yet: the host is writing, or was killed\n"
	}
	_, err := fmt.Fprint(a.out, text)
	return err
}

func (a *app) auditShow() *cobra.Command {
	var action, object string
	var last int
	var since time.Duration
	c := &cobra.Command{
		Use: "show [FILE]", Short: "Show the records of the log, newest last", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := a.auditPath(c, args)
			if err != nil {
				return err
			}
			all, err := audit.Read(path)
			if err != nil {
				return err
			}
			all = slices.DeleteFunc(all, func(r audit.Record) bool {
				return !strings.HasPrefix(r.Action, action) || object != "" && r.Object != object || since > 0 && time.Since(r.Time) > since
			})
			if last > 0 && len(all) > last {
				all = all[len(all)-last:]
			}
			if a.output == "json" {
				return table.JSON(a.out, append([]audit.Record{}, all...))
			}
			return a.printRecords(all)
		},
	}
	f := c.Flags()
	f.StringVar(&action, "action", "", "only actions that begin with `text`, such as experts.")
	f.StringVar(&object, "object", "", "only about this `object`, such as e3")
	f.DurationVar(&since, "since", 0, "only of the last `duration`, such as 24h")
	f.IntVarP(&last, "last", "n", 0, "only the last `number` of them")
	return c
}

func (a *app) printRecords(all []audit.Record) error {
	rows := make([][]string, len(all))
	for i, r := range all {
		var details []string
		for k, v := range r.Details {
			details = append(details, fmt.Sprintf("%s=%v", k, v))
		}
		slices.Sort(details)
		rows[i] = []string{fmt.Sprint(r.Seq), r.Time.Format(time.DateTime), r.Actor.Who, r.Action, r.Object, r.Outcome, strings.Join(details, " ")}
	}
	return table.Write(a.out, []string{"SEQ", "TIME (UTC)", "WHO", "ACTION", "OBJECT", "OUTCOME", "DETAILS"}, rows)
}
