package outside

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/sdk/sdktest"
)

// banned are modules that an author must not be made to download: the server's and the accelerator's.
var banned = []string{"github.com/gofiber/", "gorgonia.org/", "github.com/valyala/fasthttp", "gonum.org/", "github.com/VictoriaMetrics/", "github.com/spf13/cobra"}

// ownAllowed are the packages of this project that the serving half may pull in.
var ownAllowed = []string{
	"github.com/pimoe/pimoe/sdk", "github.com/pimoe/pimoe/sdk/expert", "github.com/pimoe/pimoe/sdk/router",
	"github.com/pimoe/pimoe/sdk/tensor", "github.com/pimoe/pimoe/sdk/serve", "github.com/pimoe/pimoe/sdk/internal/bootstrap",
	"github.com/pimoe/pimoe/sdk/internal/pb", "github.com/pimoe/pimoe/sdk/internal/plane", "github.com/pimoe/pimoe/sdk/internal/service", "github.com/pimoe/pimoe/sdk/internal/tlsfiles",
	"github.com/pimoe/pimoe/sdk/internal/wire",
}

func TestOutsideModule(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, example := range []string{"expert-swiglu", "router-top1"} {
		t.Run(example, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, "main.go", read(t, filepath.Join(root, "sdk/examples", example, "main.go")))
			put(t, dir, "go.sum", read(t, filepath.Join(root, "go.sum")))
			put(t, dir, "go.mod", outside(t, root))
			run(t, dir, "build", "-o", "plugin", ".")

			for line := range strings.Lines(run(t, dir, "list", "-deps", ".")) {
				pkg := strings.TrimSpace(line)
				for _, b := range banned {
					if strings.HasPrefix(pkg, b) {
						t.Errorf("the serving half pulls in %s", pkg)
					}
				}
				if strings.HasPrefix(pkg, "github.com/pimoe/") && !slices.Contains(ownAllowed, pkg) {
					t.Errorf("the serving half pulls in %s", pkg)
				}
			}
			var out bytes.Buffer
			if err := sdktest.Binary(t.Context(), filepath.Join(dir, "plugin"), &out); err != nil {
				t.Errorf("%v\n%s", err, out.String())
			}
		})
	}
}

// outside is the go.mod of an author whose other modules have the project's versions, as go mod tidy would choose them: to choose
// takes files of versions that nobody builds, and a network on a machine that never had them.
func outside(t *testing.T, root string) []byte {
	t.Helper()
	const project = "github.com/pimoe/pimoe"
	own, found := strings.CutPrefix(string(read(t, filepath.Join(root, "go.mod"))), "module "+project+"\n")
	if !found {
		t.Fatal("go.mod does not begin with the module's name")
	}
	return []byte("module example.com/outside\n" + own + "\nrequire " + project + " v0.0.0\n\nreplace " + project + " => " + root + "\n")
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// run calls the go command without a network: what the project's own modules bring must be enough.
func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod -trimpath", "GOPROXY=off", "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}
