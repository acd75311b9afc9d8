package clienttest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	modelrouter "github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/server"
	"github.com/pimoe/pimoe/server/instance"
)

const key = "sk-Vq9xT2mLw8Rz4Kp7"

// TestOfficialClients runs each client's program against one server with the embedded model.
func TestOfficialClients(t *testing.T) {
	cache := filepath.Join(coretest.Repo(t), ".cache", "clients")
	url := ""
	for name, c := range map[string]struct{ installed, program, script string }{
		"python":     {filepath.Join(cache, "python.stamp"), filepath.Join(cache, ".venv", "bin", "python"), "client.py"},
		"websocket":  {filepath.Join(cache, "python.stamp"), filepath.Join(cache, ".venv", "bin", "python"), "wsclient.py"},
		"schemas":    {filepath.Join(cache, "python.stamp"), filepath.Join(cache, ".venv", "bin", "python"), "schemas.py"},
		"langchain":  {filepath.Join(cache, "python.stamp"), filepath.Join(cache, ".venv", "bin", "python"), "langchain.py"},
		"javascript": {filepath.Join(cache, "node.stamp"), "node", "client.mjs"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat(c.installed); errors.Is(err, os.ErrNotExist) {
				t.Skip("the client is not installed: run server/clienttest/setup.sh (make test does)")
			}
			if url == "" {
				url = serve(t)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, c.program, c.script)
			cmd.Env = append(os.Environ(), "PIMOE_URL="+url+"/v1", "PIMOE_KEY="+key, "PIMOE_CLIENTS="+cache, "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), "done") {
				t.Fatalf("%s: %v\n%s", c.script, err, out)
			}
			t.Logf("%s", out)
		})
	}
}

// serve runs a server with a key.
func serve(t *testing.T) string {
	t.Helper()
	return serveWith(t, func(c *config.Config) { c.APIKey = key })
}

// serveWith runs a server until the test of the whole package ends.
func serveWith(t *testing.T, change func(*config.Config)) string {
	t.Helper()
	return "http://" + start(t, change).Addr()
}

// start is serveWith for those who need more than the public address.
func start(t *testing.T, change func(*config.Config)) *server.Server {
	t.Helper()
	cfg := config.Default()
	home, err := os.MkdirTemp("", "pimoe-clienttest")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Home = home
	cfg.Plugins.Dir = coretest.Binaries(t)
	cfg.Server.Addr, cfg.Server.AdminAddr = "127.0.0.1:0", "off"
	change(&cfg)
	log := slog.New(slog.DiscardHandler)
	inst, err := instance.Open(context.Background(), instance.Options{Config: cfg, Log: log, Builtin: instance.Builtin{
		Expert: func(string) (expert.Expert, error) { return ffn.New(cpu.New(), ffn.Options{}), nil },
		Router: func(string) (router.Router, error) { return modelrouter.New(), nil },
	}})
	if err != nil {
		t.Fatal(err)
	}
	state, err := server.OpenState(cfg, log)
	if err != nil {
		t.Fatal(errors.Join(err, inst.Close()))
	}
	s, err := server.New(inst, cfg, log, server.State(state))
	if err != nil {
		t.Fatal(errors.Join(err, inst.Close()))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	before := cleanup
	cleanup = func() error {
		cancel()
		return errors.Join(before(), <-done, state.Close(), inst.Close(), os.RemoveAll(home))
	}
	return s
}

// cleanup ends the servers; subtests share one, so it outlives the one that started it.
var cleanup = func() error { return nil }

func TestMain(m *testing.M) {
	code := m.Run()
	if err := cleanup(); err != nil {
		slog.Error("close the server", "error", err)
		code = 1
	}
	os.Exit(code)
}
