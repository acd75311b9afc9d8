package main

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/server"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

func (a *app) keys() *cobra.Command {
	return group("keys", "API keys of a server: make, list, revoke and rotate them", a.createKey(), a.listKeys(), a.revokeKey(), a.rotateKey())
}

// keyFile is the file that the configuration names.
func (a *app) keyFile(c *cobra.Command) (*access.KeyFile, error) {
	cfg, err := a.load(c, quiet)
	if err != nil {
		return nil, err
	}
	return access.NewKeyFile(cfg.Auth.KeysPath(cfg.Home), time.Now), nil
}

func (a *app) createKey() *cobra.Command {
	var role, tenant, name string
	var scopes []string
	var expires time.Duration
	c := &cobra.Command{
		Use: "create", Short: "Make an API key and print it, once", Args: cobra.NoArgs,
		Long: `Make an API key and print it, once: the file keeps only its salted hash. A running server takes it within
a second. Keys begin with pimoe_ and end with a checksum, so that scanners of leaked secrets find them.`,
		Example: `  pimoe keys create --name ci --expires 720h
  pimoe keys create --role viewer --scopes metrics --name prometheus`,
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := a.keyFile(c)
			if err != nil {
				return err
			}
			t := access.Template{Name: name, Tenant: tenant, Scopes: scopes}
			if t.Role, err = access.ParseRole(role); err != nil {
				return err
			}
			if err := checkScopes(scopes); err != nil {
				return err
			}
			if expires < 0 {
				return usageError{fmt.Errorf("--expires %s: want a duration to come, such as 720h", expires)}
			}
			if expires > 0 {
				t.Expires = time.Now().Add(expires)
			}
			r, key, err := f.Create(t)
			if err != nil {
				return err
			}
			return a.showKey(r, key)
		},
	}
	f := c.Flags()
	f.StringVar(&role, "role", "user", "`role`: "+strings.Join(access.Roles(), ", "))
	f.StringVar(&tenant, "tenant", access.DefaultTenant, "`tenant` whose requests these are")
	f.StringSliceVar(&scopes, "scopes", nil, "of the role's rights only these `scopes`; empty for all")
	f.DurationVar(&expires, "expires", 0, "`time` until the key ends; 0 for never")
	f.StringVar(&name, "name", "", "what the key is for; a `text` for lists")
	return c
}

// checkScopes refuses scopes that no route has: such a key would open nothing.
func checkScopes(scopes []string) error {
	t, err := server.Rules()
	if err != nil {
		return err
	}
	for _, s := range scopes {
		if known := t.Scopes(); !slices.Contains(known, s) {
			return usageError{fmt.Errorf("--scopes %q: want some of %s", s, strings.Join(known, ", "))}
		}
	}
	return nil
}

func (a *app) listKeys() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List API keys; the keys themselves are nowhere", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := a.keyFile(c)
			if err != nil {
				return err
			}
			records, err := f.List()
			if err != nil {
				return err
			}
			return a.printKeys(records, f.LastUsed())
		},
	}
}

func (a *app) revokeKey() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "End an API key within a second", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			f, err := a.keyFile(c)
			if err != nil {
				return err
			}
			r, err := f.Revoke(args[0])
			if err != nil {
				return err
			}
			return a.printKeys([]access.Record{r}, f.LastUsed())
		},
	}
}

func (a *app) rotateKey() *cobra.Command {
	var overlap time.Duration
	c := &cobra.Command{
		Use: "rotate ID", Short: "Make the successor of an API key; the old one works for an overlap", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if overlap < 0 {
				return usageError{fmt.Errorf("--overlap %s: want 0 or more", overlap)}
			}
			f, err := a.keyFile(c)
			if err != nil {
				return err
			}
			r, key, err := f.Rotate(args[0], overlap)
			if err != nil {
				return err
			}
			return a.showKey(r, key)
		},
	}
	c.Flags().DurationVar(&overlap, "overlap", 24*time.Hour, "`time` for which the old key works, too")
	return c
}

// shownKey is a record as it is printed: without salt and hash.
type shownKey struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Role      string     `json:"role"`
	Tenant    string     `json:"tenant"`
	Scopes    []string   `json:"scopes"`
	State     string     `json:"state"`
	Created   time.Time  `json:"created"`
	Expires   *time.Time `json:"expires"`
	LastUsed  *time.Time `json:"last_used"` // to the hour
	RotatedTo string     `json:"rotated_to,omitempty"`
	Key       string     `json:"key,omitempty"` // only of create and rotate
}

func shownOf(r access.Record, used time.Time) shownKey {
	s := shownKey{ID: r.ID, Name: r.Name, Role: r.Role, Tenant: r.Tenant, Scopes: append([]string{}, r.Scopes...), State: r.State(time.Now()), Created: r.Created, RotatedTo: r.Rotated}
	if !r.Expires.IsZero() {
		s.Expires = &r.Expires
	}
	if !used.IsZero() {
		s.LastUsed = &used
	}
	return s
}

// showKey prints a new key alone on standard output, so that it can go to a file, and what it is on standard error.
func (a *app) showKey(r access.Record, key string) error {
	s := shownOf(r, time.Time{})
	if a.output == "json" {
		s.Key = key
		return table.JSON(a.out, s)
	}
	fmt.Fprintf(a.err, "key %s, role %s, tenant %s; it is shown this once:\n", s.ID, s.Role, s.Tenant)
	_, err := fmt.Fprintln(a.out, key)
	return err
}

func (a *app) printKeys(records []access.Record, used map[string]time.Time) error {
	list := make([]shownKey, len(records))
	for i, r := range records {
		list[i] = shownOf(r, used[r.ID])
	}
	if a.output == "json" {
		return table.JSON(a.out, list)
	}
	rows := make([][]string, len(list))
	for i, s := range list {
		rows[i] = []string{s.ID, s.Name, s.Role, s.Tenant, strings.Join(s.Scopes, ","), s.State, day(&s.Created), day(s.Expires), day(s.LastUsed)}
	}
	return table.Write(a.out, []string{"ID", "NAME", "ROLE", "TENANT", "SCOPES", "STATE", "CREATED", "EXPIRES", "LAST USED"}, rows)
}

func day(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04")
}

// adminKeyFile names the variable with the file of the key for an admin API that asks for one. There is no flag for the
// key itself: a command line is visible to every process.
const adminKeyFile = "PIMOE_ADMIN_KEY_FILE"

// authorise adds the key of adminKeyFile, where it is set, to a request to the admin API.
func (a *app) authorise(req *http.Request) error {
	if !strings.HasPrefix(req.URL.Path, "/admin/") {
		return nil
	}
	for _, e := range a.environ {
		path, ok := strings.CutPrefix(e, adminKeyFile+"=")
		if !ok || path == "" {
			continue
		}
		key, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("%s: %w", adminKeyFile, err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(key)))
	}
	return nil
}
