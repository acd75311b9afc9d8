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
)

// TestTritonClient runs Triton's client for Python, over HTTP and gRPC.
func TestTritonClient(t *testing.T) {
	cache := filepath.Join(coretest.Repo(t), ".cache", "clients")
	if _, err := os.Stat(filepath.Join(cache, "python.stamp")); errors.Is(err, os.ErrNotExist) {
		t.Skip("the client is not installed: run server/clienttest/setup.sh (make test does)")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	url := serveWith(t, func(c *config.Config) { c.APIKey, c.Server.GRPCAddr = key, addr })
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(cache, ".venv", "bin", "python"), "triton.py")
	cmd.Env = append(os.Environ(), "PIMOE_HTTP="+strings.TrimPrefix(url, "http://"), "PIMOE_GRPC="+addr, "PIMOE_KEY="+key, "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), "done") {
		t.Fatalf("triton.py: %v\n%s", err, out)
	}
}
