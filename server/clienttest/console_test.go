package clienttest

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/server/access"
)

// TestConsole uses the console in a real browser, as people with each role do: console.mjs has the steps. PIMOE_SHOTS=DIR has it
// write pictures there (make console-shots).
func TestConsole(t *testing.T) {
	cache := filepath.Join(coretest.Repo(t), ".cache", "clients")
	if _, err := os.Stat(filepath.Join(cache, "node_modules", "playwright-core")); errors.Is(err, os.ErrNotExist) {
		t.Skip("the browser's driver is not installed: run server/clienttest/setup.sh (make test does)")
	}
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium (Debian: chromium)")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	const secret = "Xb7nR2vQ9tZ4Lm6cXb7nR2vQ9tZ4Lm6c"
	redirect := "http://" + addr + "/auth/callback"
	issuer := startProvider(t, redirect, secret)
	environ := os.Environ()
	s := start(t, func(c *config.Config) {
		c.Server.Addr, c.Server.AdminAddr = addr, "127.0.0.1:0"
		c.Auth.OIDC.Issuer, c.Auth.OIDC.ClientID, c.Auth.OIDC.ClientSecret, c.Auth.OIDC.RedirectURL = issuer, "pimoe", secret, redirect
		c.Auth.OIDC.RoleClaim = "groups"
		c.Auth.PublicAdmin, c.Chaos.Enabled = true, true
		c.Limits.RequestTimeout = 2 * time.Minute
		c.Limits.SlowdownPercent = 0 // others' requests shall make answers take a while
		c.Alerts.Interval, c.Alerts.Restarts = time.Second, 1
		c.Alerts.CPUPercent, c.Alerts.MemoryPercent, c.Alerts.DiskFreePercent = 100, 100, 1 // whatever else this machine does
		c.Experts.Scaling.MaxReplicas, c.Experts.Scaling.Window = 2, 10*time.Minute         // by hand alone
		keys := access.NewKeyFile(c.Auth.KeysPath(c.Home), time.Now)
		for name, template := range map[string]access.Template{
			"VIEWER": {Role: access.Viewer}, "USER": {Role: access.User}, "OPERATOR": {Role: access.Operator},
			"WATCHER": {Role: access.Admin, Scopes: []string{"session", "live"}}, // nothing but that
		} {
			template.Tenant = access.DefaultTenant
			_, key, err := keys.Create(template)
			if err != nil {
				t.Fatal(err)
			}
			environ = append(environ, name+"="+key)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	script, err := filepath.Abs("console.mjs")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "node", script)
	cmd.Env = append(environ, "PUBLIC=http://"+s.Addr(), "ADMIN=http://"+s.AdminAddr(), "BROWSER="+browser, "PIMOE_CLIENTS="+cache, "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), "done") {
		t.Fatalf("console.mjs: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}
