package clienttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
)

// example is a program of docs/clients.md, and what it must print.
var example = regexp.MustCompile("(?m)^<!-- prints \"([^\"\n]+)\" -->\n```([a-z]+)\n((?s:.*?))^```$")

// runner knows how to run the examples of one language. It gets a folder and the program's text.
type runner func(dir, text string) ([]string, error)

// TestExamples runs every example of docs/clients.md against a server with the embedded model.
func TestExamples(t *testing.T) {
	repo := coretest.Repo(t)
	text, err := os.ReadFile(filepath.Join(repo, "docs", "clients.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := example.FindAllStringSubmatch(string(text), -1)
	if fences := strings.Count(string(text), "\n```") / 2; len(found) != fences || fences < 16 {
		t.Fatalf("%d examples in %d blocks of code: each needs the comment about what it prints", len(found), fences)
	}
	cache := filepath.Join(repo, ".cache", "sdk")
	if _, err := os.Stat(filepath.Join(cache, "node.stamp")); errors.Is(err, os.ErrNotExist) {
		t.Skip("the generators are not installed: run scripts/sdk.sh (make test does)")
	}
	url := serve(t)
	runners := map[string]runner{"sh": shell, "go": golang(repo), "python": python(repo), "typescript": typescript(t, repo, cache, found)}
	for n, m := range found {
		want, language, program := m[1], m[2], m[3]
		t.Run(fmt.Sprintf("%s%d", language, n), func(t *testing.T) {
			if runners[language] == nil {
				t.Fatalf("no way to run %s", language)
			}
			command, err := runners[language](t.TempDir(), program)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, command[0], command[1:]...)
			cmd.Env = append(os.Environ(), "PIMOE_URL="+url, "PIMOE_KEY="+key, "PYTHONPATH="+filepath.Join(repo, "sdk", "python"), "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("error %v, want %q in\n%s", err, want, out)
			}
		})
	}
}

func shell(_, text string) ([]string, error) {
	return []string{"bash", "-euo", "pipefail", "-c", text}, nil
}

func golang(repo string) runner {
	return func(dir, text string) ([]string, error) {
		file := filepath.Join(dir, "main.go")
		return []string{"go", "-C", repo, "run", file}, os.WriteFile(file, []byte(text), 0o600)
	}
}

// python uses the interpreter of the official clients, which has the same HTTP library.
func python(repo string) runner {
	return func(_, text string) ([]string, error) {
		return []string{filepath.Join(repo, ".cache", "clients", ".venv", "bin", "python"), "-c", text}, nil
	}
}

// typescript compiles the client, as its package does, and all examples against it, strictly.
func typescript(t *testing.T, repo, cache string, found [][]string) runner {
	t.Helper()
	home := t.TempDir()
	modules := filepath.Join(home, "node_modules")
	client := filepath.Join(modules, "pimoe-client")
	errs := []error{
		os.MkdirAll(client, 0o700),
		os.CopyFS(client, os.DirFS(filepath.Join(repo, "sdk", "typescript"))),
		os.WriteFile(filepath.Join(home, "package.json"), []byte(`{"type": "module"}`), 0o600),
	}
	for _, name := range []string{"openapi-fetch", "openapi-typescript-helpers", "@types", "undici-types"} {
		errs = append(errs, os.Symlink(filepath.Join(cache, "node_modules", name), filepath.Join(modules, name)))
	}
	files := map[string]string{} // by text
	for n, m := range found {
		if m[2] == "typescript" {
			files[m[3]] = filepath.Join(home, fmt.Sprintf("example%d.ts", n))
			errs = append(errs, os.WriteFile(files[m[3]], []byte(m[3]), 0o600))
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	options := []string{"--strict", "--target", "es2022", "--module", "nodenext", "--types", "node", "--preserveSymlinks"}
	for _, args := range [][]string{{"-p", client, "--preserveSymlinks"}, append(options, slices.Sorted(maps.Values(files))...)} {
		cmd := exec.Command(filepath.Join(cache, "node_modules", ".bin", "tsc"), args...)
		cmd.Dir = home
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("tsc: %v\n%s", err, out)
		}
	}
	return func(_, text string) ([]string, error) {
		return []string{"node", "--preserve-symlinks", strings.TrimSuffix(files[text], ".ts") + ".js"}, nil
	}
}
