package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

// change is what the flags of a change of a group say.
type change struct {
	Backend   string  `json:"backend,omitempty"`
	Plugin    string  `json:"plugin,omitempty"`
	Precision string  `json:"precision,omitempty"`
	Percent   float64 `json:"percent,omitempty"`
	Bound     float64 `json:"max_relative,omitempty"`
}

func (c *change) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.Backend, "backend", "", "new `backend`: cpu, int8, ref or a plugin's name; empty keeps the present one")
	cmd.Flags().StringVar(&c.Plugin, "plugin", "", "`path` of a plugin's executable instead of the backend's own")
	cmd.Flags().StringVar(&c.Precision, "precision", "", "numeric `class`; empty: the new backend's own")
}

// swap replaces a group's processes.
func (a *app) swap(admin *string) *cobra.Command {
	var in change
	c := &cobra.Command{
		Use: "swap GROUP", Short: "Replace an expert group's processes under load", Args: cobra.ExactArgs(1),
		Long: `Replace an expert group's processes under load. The new ones are started, load, pass their known-answer
test and are compared with the present ones; new requests then go to them, while requests under way end
on the old ones. Where the numeric class stays the same every bit must, too. On any fault the present
processes go on as if nothing had happened. Without a flag the same program is started again.`,
		RunE: func(c *cobra.Command, args []string) error {
			var done host.Swapped
			if err := a.post(c, *admin, args[0], "swap", in, &done); err != nil {
				return err
			}
			return a.show(done, []string{"GROUP", "FROM", "TO", "SAME BITS", "RELATIVE", "READY", "DRAINED"},
				[]string{done.Group, done.From, done.To, fmt.Sprint(done.Difference.Same), fmt.Sprintf("%.3g", done.Difference.Relative), done.Ready.String(), done.Drained.String()})
		},
	}
	in.flags(c)
	return c
}

// try starts a canary or a shadow.
func (a *app) try(admin *string, kind, short, long string) *cobra.Command {
	var in change
	c := &cobra.Command{
		Use: kind + " GROUP", Short: short, Long: long, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.trial(c, *admin, args[0], kind, in) },
	}
	in.flags(c)
	c.Flags().Float64Var(&in.Percent, "percent", 10, "`share` of the requests (canary) or calls (shadow)")
	c.Flags().Float64Var(&in.Bound, "max-relative", 0, "roll back when answers differ by more than this part of the largest value; 0: by the numeric class")
	return c
}

// decide ends a trial.
func (a *app) decide(admin *string, word, short string) *cobra.Command {
	return &cobra.Command{
		Use: word + " GROUP", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.trial(c, *admin, args[0], word, change{}) },
	}
}

func (a *app) trial(c *cobra.Command, admin, group, word string, in change) error {
	var t host.Trial
	if err := a.post(c, admin, group, word, in, &t); err != nil {
		return err
	}
	return a.show(t, []string{"GROUP", "KIND", "SHARE", "TO", "STATE", "CALLS", "ERRORS", "COMPARED", "RELATIVE", "COSINE", "WHY"},
		[]string{t.Group, t.Kind, fmt.Sprintf("%g %%", 100*t.Share), t.To, t.State, fmt.Sprint(t.Calls), fmt.Sprint(t.Errors), fmt.Sprint(t.Checked),
			fmt.Sprintf("%.3g", t.Live.Relative), fmt.Sprintf("%.6f", t.Live.Cosine), t.Why})
}

// show prints one thing.
func (a *app) show(v any, head, row []string) error {
	if a.output == "json" {
		return table.JSON(a.out, v)
	}
	return table.Write(a.out, head, [][]string{row})
}

// post asks the admin API for a change of a group.
func (a *app) post(c *cobra.Command, admin, group, word string, in change, out any) error {
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

// send posts JSON; an answer other than 200 is an error with what it says.
func (a *app) send(ctx context.Context, url string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return usageError{fmt.Errorf("address %q: %w", url, err)}
	}
	req.Header.Set("Content-Type", "application/json")
	if err := a.authorise(req); err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", sdk.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		var problem struct{ Detail, Title string }
		if json.Unmarshal(answer, &problem) == nil && problem.Detail != "" {
			return fmt.Errorf("%w: the server refuses: %s", sdk.ErrInvalid, problem.Detail)
		}
		return fmt.Errorf("%w: %s answers %s: %.200s", sdk.ErrUnavailable, url, resp.Status, strings.TrimSpace(string(answer)))
	}
	return json.Unmarshal(answer, out)
}
