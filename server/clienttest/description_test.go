package clienttest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
)

// TestDescription has Schemathesis ask a server whatever openapi.yaml allows and some things that it doesn't: no answer may
// be a server error or one that the description does not have, in status, type or shape. PIMOE_EXAMPLES (make description) is how
// many requests each operation gets.
func TestDescription(t *testing.T) {
	program := filepath.Join(coretest.Repo(t), ".cache", "schemathesis", ".venv", "bin", "schemathesis")
	if _, err := os.Stat(program); err != nil {
		t.Skip("Schemathesis is not installed: run server/clienttest/description.sh (make test does)")
	}
	examples := os.Getenv("PIMOE_EXAMPLES")
	if examples == "" {
		examples = "2"
	}
	url := serve(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "run", url+"/openapi.json", "--header", "Authorization: Bearer "+key,
		"--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance", "--phases", "examples,fuzzing",
		"--max-examples", examples, "--seed", "1", "--request-timeout", "60", "--generation-deterministic", "--no-color")
	cmd.Dir = t.TempDir() // it keeps a cache
	cmd.Env = append(os.Environ(), "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.ReplaceAll(string(out), key, "KEY"))
	}
	t.Logf("%s", out)
}
