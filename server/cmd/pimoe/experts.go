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
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

// maxAnswer bounds what is read from a server: 1,024 processes with their last log lines are far smaller.
const maxAnswer = 16 << 20

func (a *app) experts() *cobra.Command {
	var admin string
	c := &cobra.Command{
		Use: "experts", Short: "Show and change the expert processes of a running server", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.listExperts(c, admin)
		},
	}
	c.PersistentFlags().StringVar(&admin, "admin", "", "`URL` of the admin API; default: the configured address")
	c.AddCommand(a.profile(), a.expertsShow(&admin), &cobra.Command{
		Use: "list", Short: "Show the expert processes", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.listExperts(c, admin) },
	}, a.swap(&admin),
		a.try(&admin, "canary", "Give a new version of a group a share of the new requests",
			`Start a new version of a group, test it, and give it a share of the new requests. It is rolled back by
itself when one of its processes dies or answers wrongly, or when its answers to calls that both versions
compute differ too much. It ends with promote or rollback.`),
		a.try(&admin, "shadow", "Have a new version of a group repeat calls whose answers nobody uses",
			`Start a new version of a group, test it, and have it repeat a share of the calls behind the back of the
requests. Its answers are compared and thrown away. It ends with promote or rollback.`),
		a.decide(&admin, "promote", "Put the version that is being tried in the group's place"),
		a.decide(&admin, "rollback", "End a canary or shadow"),
		a.scale(&admin), a.restart(&admin), a.drain(&admin), a.rebalance(&admin),
		&cobra.Command{
			Use: "release GROUP[/REPLICA]", Short: "Let a group's replicas, or one, out of quarantine", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				base, err := a.adminURL(c, admin)
				if err != nil {
					return err
				}
				return a.releaseExperts(c.Context(), base+"/admin/experts", args[0])
			},
		})
	return c
}

// adminURL is where the admin API is.
func (a *app) adminURL(c *cobra.Command, admin string) (string, error) {
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
	return strings.TrimSuffix(admin, "/"), nil
}

func (a *app) listExperts(c *cobra.Command, admin string) error {
	body, err := a.askExperts(c, admin)
	if err != nil {
		return err
	}
	return a.printExperts(body)
}

func (a *app) askExperts(c *cobra.Command, admin string) ([]byte, error) {
	base, err := a.adminURL(c, admin)
	if err != nil {
		return nil, err
	}
	return a.get(c.Context(), base+"/admin/experts")
}

// expertsShow tells everything about the processes of one group.
func (a *app) expertsShow(admin *string) *cobra.Command {
	return &cobra.Command{
		Use: "show GROUP", Short: "Show how many processes an expert group has and why, how they, or the router's, are confined, and their devices", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			body, err := a.askExperts(c, *admin)
			if err != nil {
				return err
			}
			return a.printConfinement(body, args[0])
		},
	}
}

// shown is the JSON form of a process's confinement.
type shown struct {
	Process     string           `json:"process"`
	PID         int              `json:"pid"`
	Endpoint    string           `json:"endpoint,omitempty"`
	Zone        string           `json:"zone,omitempty"`
	Confinement []client.Measure `json:"confinement"`
	Devices     []expert.Device  `json:"devices,omitempty"`
}

// deviceRows are lines of the table of measures about the devices of a process.
func (s shown) deviceRows() (rows [][]string) {
	for _, d := range s.Devices {
		detail := fmt.Sprintf("%s: %s of weights, %s of %s in use, kernels %.3f s, copies %.3f s for %s up and %.3f s for %s down", d.Name,
			progress.Size(d.WeightBytes), progress.Size(d.UsedBytes), progress.Size(d.MemoryBytes), d.KernelSeconds,
			d.UploadSeconds, progress.Size(d.UploadBytes), d.DownloadSeconds, progress.Size(d.DownloadBytes))
		if d.Staged != "" {
			detail += "; rows are copied once more: " + d.Staged
		}
		rows = append(rows, []string{s.Process, pid(s.PID), "device " + d.ID, "computes", detail})
	}
	return rows
}

func (a *app) printConfinement(body []byte, name string) error {
	var list struct {
		Router  host.RouterStatus `json:"router"`
		Experts []host.Status     `json:"experts"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return fmt.Errorf("answer of the admin API: %w", err)
	}
	out := []shown{}
	if name == "router" {
		out = append(out, shown{Process: "router " + list.Router.Name, PID: list.Router.PID, Confinement: list.Router.Confinement})
	}
	for _, s := range list.Experts {
		if s.Group == name {
			out = append(out, shown{replicaName(s), s.PID, s.Endpoint, s.Zone, s.Confinement, s.Devices})
		}
	}
	if len(out) == 0 {
		return fmt.Errorf("no expert group %q (see: pimoe experts): %w", name, sdk.ErrNotFound)
	}
	if a.output == "json" {
		return table.JSON(a.out, out)
	}
	if err := a.printScaling(body, name); err != nil {
		return err
	}
	var rows [][]string
	for _, p := range out {
		if p.Endpoint != "" { // its machine's operator confines it
			rows = append(rows, []string{p.Process, pid(p.PID), "where", "remote", where(p.Endpoint, p.Zone)})
		}
		for _, m := range p.Confinement {
			state := "applied"
			if !m.Applied {
				state = "NOT applied"
			}
			rows = append(rows, []string{p.Process, pid(p.PID), m.Name, state, m.Detail})
		}
		rows = append(rows, p.deviceRows()...)
	}
	return table.Write(a.out, []string{"PROCESS", "PID", "MEASURE", "STATE", "DETAIL"}, rows)
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
	answer, err := a.ask(ctx, http.MethodPost, experts+"/"+url.PathEscape(group)+"/release", strings.NewReader(body))
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
			fmt.Sprint(s.Rows), fmt.Sprint(s.Errors), fmt.Sprint(s.Restarts), progress.Size(int64(s.PrivateBytes)), death, where(s.Endpoint, s.Zone)}
	}
	return table.Write(a.out, []string{"GROUP", "PID", "STATE", "HEALTH", "UNITS", "BACKEND", "CLASS", "CALLS", "ROWS", "ERRORS", "RESTARTS", "PRIVATE", "LAST CAUSE", "WHERE"}, rows)
}

// where says on which machine a replica runs.
func where(endpoint, zone string) string {
	switch {
	case endpoint == "":
		return "here"
	case zone == "":
		return endpoint
	}
	return endpoint + " in " + zone
}

// get asks a server; an answer other than 200 is an error with what it says.
func (a *app) get(ctx context.Context, url string) ([]byte, error) {
	return a.ask(ctx, http.MethodGet, url, nil)
}

// ask makes a request, with a body of JSON if there is one.
func (a *app) ask(ctx context.Context, method, url string, body io.Reader) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, usageError{fmt.Errorf("address %q: %w", url, err)}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if err := a.authorise(req); err != nil {
		return nil, err
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
			if _, err := a.get(c.Context(), strings.TrimSuffix(url, "/")+"/readyz"); err != nil {
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

func baseURL(cfg config.Config) string { return scheme(cfg) + reachable(cfg.Server.Addr) }
