package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

// maxAnswer bounds what is read from a server: 1,024 processes with their last log lines are far smaller.
const maxAnswer = 16 << 20

func (a *app) experts() *cobra.Command {
	var admin string
	list := func(c *cobra.Command, _ []string) error {
		url, err := a.expertsURL(c, admin)
		if err != nil {
			return err
		}
		body, err := get(c.Context(), url)
		if err != nil {
			return err
		}
		return a.printExperts(body)
	}
	c := &cobra.Command{Use: "experts", Short: "Show the expert processes of a running server", Args: cobra.NoArgs, RunE: list}
	c.PersistentFlags().StringVar(&admin, "admin", "", "`URL` of the admin API; default: the configured address")
	c.AddCommand(
		&cobra.Command{Use: "list", Short: "Show them, with their health and the reason of the last death", Args: cobra.NoArgs, RunE: list},
		&cobra.Command{
			Use: "release GROUP[/REPLICA]", Short: "Let a group's replicas, or one, out of quarantine", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				url, err := a.expertsURL(c, admin)
				if err != nil {
					return err
				}
				return a.releaseExperts(c.Context(), url, args[0])
			},
		},
	)
	return c
}

// expertsURL is the route of the experts, below the admin API that is given or configured.
func (a *app) expertsURL(c *cobra.Command, admin string) (string, error) {
	if admin == "" {
		cfg, err := a.load(c, quiet)
		if err != nil {
			return "", err
		}
		if cfg.Server.AdminAddr == "off" {
			return "", usageError{fmt.Errorf("experts: server.admin_addr is off; want --admin URL")}
		}
		admin = "http://" + reachable(cfg.Server.AdminAddr)
	}
	return strings.TrimSuffix(admin, "/") + "/admin/experts", nil
}

// releaseExperts ends the quarantine of "GROUP" or "GROUP/REPLICA".
func (a *app) releaseExperts(ctx context.Context, experts, name string) error {
	group, replica, one := strings.Cut(name, "/")
	body := "{}"
	if one {
		n, err := strconv.ParseUint(replica, 10, 16)
		if err != nil {
			return usageError{fmt.Errorf("experts release %s: want GROUP or GROUP/REPLICA, such as e3/1", name)}
		}
		body = fmt.Sprintf(`{"replica":%d}`, n)
	}
	answer, err := ask(ctx, http.MethodPost, experts+"/"+url.PathEscape(group)+"/release", strings.NewReader(body))
	if err != nil {
		return fmt.Errorf("release %s: %w", name, err)
	}
	if a.output == "json" {
		_, err := fmt.Fprintln(a.out, strings.TrimSpace(string(answer)))
		return err
	}
	var got struct {
		Released int `json:"released"`
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return fmt.Errorf("answer of the admin API: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "%d released from quarantine\n", got.Released)
	return err
}

func (a *app) printExperts(body []byte) error {
	if a.output == "json" {
		_, err := fmt.Fprintln(a.out, strings.TrimSpace(string(body)))
		return err
	}
	var list struct {
		Experts []host.Status `json:"experts"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return fmt.Errorf("answer of the admin API: %w", err)
	}
	rows := make([][]string, len(list.Experts))
	for i, s := range list.Experts {
		death := "-"
		if s.LastDeath != nil {
			death = s.LastDeath.Cause
		}
		if s.Quarantine != "" {
			death = s.Quarantine
		}
		rows[i] = []string{replicaName(s), pid(s.PID), s.State, s.Health, fmt.Sprint(s.Units), s.Backend, s.NumericClass, fmt.Sprint(s.Calls),
			fmt.Sprint(s.Rows), fmt.Sprint(s.Errors), fmt.Sprint(s.Restarts), progress.Size(int64(s.PrivateBytes)), death}
	}
	return table.Write(a.out, []string{"GROUP", "PID", "STATE", "HEALTH", "UNITS", "BACKEND", "CLASS", "CALLS", "ROWS", "ERRORS", "RESTARTS", "PRIVATE", "LAST CAUSE"}, rows)
}

// get asks a server; an answer other than 200 is an error with what it says.
func get(ctx context.Context, url string) ([]byte, error) {
	return ask(ctx, http.MethodGet, url, nil)
}

// ask makes a request, with a body of JSON if there is one.
func ask(ctx context.Context, method, url string, body io.Reader) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, usageError{fmt.Errorf("address %q: %w", url, err)}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", sdk.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", url, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return answer, nil
	case http.StatusNotFound:
		return nil, fmt.Errorf("%w: %s answers %s: %.200s", sdk.ErrNotFound, url, resp.Status, answer)
	}
	return nil, fmt.Errorf("%w: %s answers %s: %.200s", sdk.ErrUnavailable, url, resp.Status, answer)
}

func (a *app) health() *cobra.Command {
	var url string
	c := &cobra.Command{
		Use:   "health",
		Short: "Ask a running server whether it is ready (exit code 0 = yes), for container health checks",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if url == "" {
				cfg, err := a.load(c, quiet)
				if err != nil {
					return err
				}
				url = baseURL(cfg)
			}
			if _, err := get(c.Context(), strings.TrimSuffix(url, "/")+"/readyz"); err != nil {
				return err
			}
			if a.output == "json" {
				return table.JSON(a.out, map[string]string{"status": "ready"})
			}
			_, err := fmt.Fprintln(a.out, "ready")
			return err
		},
	}
	c.Flags().StringVar(&url, "url", "", "`URL` of the public API; default: the configured address")
	return c
}

func baseURL(cfg config.Config) string { return "http://" + reachable(cfg.Server.Addr) }
