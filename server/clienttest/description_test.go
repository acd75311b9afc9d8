package clienttest

import (
	"context"
	"encoding/json"
	"net/http"
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
// many requests each operation gets; it also has the examples of the description sent.
func TestDescription(t *testing.T) {
	program := filepath.Join(coretest.Repo(t), ".cache", "schemathesis", ".venv", "bin", "schemathesis")
	if _, err := os.Stat(program); err != nil {
		t.Skip("Schemathesis is not installed: run server/clienttest/description.sh (make test does)")
	}
	examples, phases := os.Getenv("PIMOE_EXAMPLES"), "examples,fuzzing"
	if examples == "" {
		examples, phases = "1", "fuzzing"
	}
	url, dir := serve(t), t.TempDir()
	file := filepath.Join(dir, "openapi.json")
	writeDescription(t, url, file)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "run", file, "--url", url, "--header", "Authorization: Bearer "+key,
		"--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance", "--phases", phases,
		"--max-examples", examples, "--seed", "1", "--request-timeout", "60", "--generation-deterministic", "--no-color")
	cmd.Dir = dir // it keeps a cache
	cmd.Env = append(os.Environ(), "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.ReplaceAll(string(out), key, "KEY"))
	}
	t.Logf("%s", out)
}

// writeDescription stores what a server says of itself, without the schemas of event streams: Schemathesis reads them as those of one
// event, as OpenAPI 3.2 has them, and in 3.1 they are those of the whole text.
func writeDescription(t *testing.T, url, file string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url+"/openapi.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var doc any
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the description: %s, %v", resp.Status, err)
	}
	withoutStreams(doc)
	b, err := json.Marshal(doc)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func withoutStreams(node any) {
	switch n := node.(type) {
	case map[string]any:
		for k, v := range n {
			if stream, ok := v.(map[string]any); ok && k == "text/event-stream" {
				delete(stream, "schema")
			}
			withoutStreams(v)
		}
	case []any:
		for _, v := range n {
			withoutStreams(v)
		}
	}
}
