// Package pimoe_test holds the rules of the whole tree as tests: who may import whom and why, what every package says
// of itself, names, and that the documentation is true. Developers and CI run it. There is no package at the root: it
// refuses to become one.
package pimoe_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const module = "github.com/pimoe/pimoe"

// may is the import policy within the module: the longest matching prefix decides. A package may import the packages
// listed (and those below one that ends in /...). Each line says why not more.
var may = []struct {
	pkg     string
	imports []string
	why     string
}{
	{"sdk", nil, "every plugin carries it: one careless import here is forever"},
	{"sdk/tensor", nil, "values only, so that any language's half can mirror them"},
	{"sdk/router", []string{"sdk", "sdk/tensor"}, "a contract knows values, neither transports nor the host"},
	{"sdk/expert", []string{"sdk", "sdk/tensor"}, "a contract knows values, neither transports nor the host"},
	{"sdk/internal/...", []string{"sdk", "sdk/..."}, "the wire serves both halves and depends on neither core nor server"},
	{"sdk/serve", []string{"sdk", "sdk/..."}, "a stranger's plugin links it: nothing of the host may come along"},
	{"sdk/client", []string{"sdk", "sdk/..."}, "the host's half is usable by conformance tests without the host"},
	{"sdk/api", nil, "clients of the HTTP API link it: they carry neither plugins nor the host"},
	{"sdk/sdktest/...", []string{"sdk", "sdk/..."}, "outsiders run the conformance suite without our engine"},
	{"sdk/examples/...", []string{"sdk", "sdk/tensor", "sdk/router", "sdk/expert", "sdk/serve"}, "what an author outside can import, and no more"},
	{"backends/...", []string{"sdk", "sdk/tensor", "backends", "backends/..."}, "a backend is a library that computes: no processes, models or files"},
	{"backends", []string{"sdk", "sdk/tensor", "backends/team", "backends/pack"}, "the seam does not know who implements it"},
	{"backends/team", nil, "threads know neither tensors nor tasks"},
	{"backends/pack", []string{"sdk", "sdk/tensor"}, "layouts of bytes: the store packs without linking kernels"},
	{"plugins/...", []string{"sdk", "sdk/...", "backends", "backends/...", "core/weights", "plugins/..."}, "a plugin is what a stranger could write; it never sees the host"},
	{"core/...", []string{"sdk", "sdk/...", "backends", "backends/...", "core/..."}, "the engine works without HTTP and starts plugins instead of linking them"},
	{"server/...", []string{"sdk", "sdk/...", "backends", "backends/...", "core/...", "server", "server/..."}, "plugins are linked by the command alone"},
	{"server/atomicfile", nil, "bytes in a file"},
	{"server/seal", []string{"sdk", "core/config", "server/atomicfile"}, "keys and bytes: it knows nothing of what it seals"},
	{"server/openmetrics", nil, "text to text"},
	{"server/bundle", []string{"sdk"}, "files in a file: it knows nothing of what they say"},
	{"server/profiling", []string{"sdk", "core/config", "core/metrics"}, "files in a folder: it knows nothing of requests"},
	{"server/durable", []string{"sdk", "server/atomicfile", "server/seal"}, "one file: it knows nothing of what is in it"},
	{"server/jobs", []string{"sdk", "core/config", "core/metrics", "server/access", "server/durable"}, "it keeps jobs and computes nothing"},
	{"server/idempotency", []string{"sdk", "core/config", "server/durable"}, "it keeps answers and knows nothing of what they say"},
	{"server/alert", []string{"sdk", "core/config"}, "rules are values: they know neither a clock nor who is told"},
	{"server/dashboard", nil, "pages are text: what they ask for is printed elsewhere"},
	{"server", []string{"sdk", "sdk/...", "core/...", "server/..."}, "the edge asks the engine and computes nothing"},
	{"server/cmd/pimoe", []string{"..."}, "the one place where all is wired"},
	{"server/acceptance/...", []string{"..."}, "tests of the whole, and the plugins they start"},
	{"configs", nil, "examples, no code"},
}

// never are packages outside the module that must not be reached, not even by way of others.
var never = []struct{ pkg, external, why string }{
	{"core/...", "github.com/gofiber/fiber", "the engine works without HTTP"},
	{"core/...", "go.opentelemetry.io/", "the engine tells of itself by core/spans, whoever listens"},
	{"sdk/...", "go.opentelemetry.io/", "a plugin's time crosses as two numbers"},
	{"core/...", "gorgonia.org/", "its init ends the process where there is no driver"},
	{"server/...", "gorgonia.org/", "its init ends the process where there is no driver"},
	{"plugins/cmd/pimoe-probe-cuda", module, "it asks a driver and carries nothing else"},
	{"sdk/...", "github.com/gofiber/fiber", "a plugin serves no HTTP"},
	{"sdk/...", "gorgonia.org/", "an author's plugin must build anywhere"},
	{"sdk/...", "gonum.org/", "contracts and transports do no arithmetic"},
	{"sdk/...", module + "/core", "a stranger's plugin never links the host"},
	{"plugins/...", "github.com/gofiber/fiber", "a plugin serves no HTTP"},
	{"plugins/...", module + "/core/host", "a plugin does not run plugins"},
	{"backends/...", "google.golang.org/grpc", "a backend is a library, no program"},
	{"backends/ref", "gonum.org/", "the oracle is the naive loop; gonum is an oracle of its own, in tests"},
}

// listed is what the go command knows of one package.
type listed struct {
	ImportPath, Dir, Name string
	Imports, Deps         []string
	GoFiles, TestGoFiles  []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,Imports,Deps,GoFiles,TestGoFiles", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 20 {
		t.Fatalf("go list knows %d packages", len(all))
	}
	return all
}

// own is a package's path within the module.
func own(importPath string) (string, bool) {
	if importPath == module {
		return "", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

// matches reports whether pattern, with or without /... at its end, covers pkg.
func matches(pattern, pkg string) bool {
	if pattern == "..." {
		return true
	}
	if prefix, tree := strings.CutSuffix(pattern, "/..."); tree {
		return pkg == prefix || strings.HasPrefix(pkg, prefix+"/")
	}
	return pattern == pkg
}

func TestImportPolicy(t *testing.T) {
	for _, p := range packages(t) {
		pkg, _ := own(p.ImportPath)
		if pkg == "" {
			continue // this test
		}
		best := -1
		for i, rule := range may {
			covers := matches(rule.pkg, pkg) || rule.pkg == "server/cmd/pimoe" && matches(rule.pkg+"/...", pkg)
			if covers && (best < 0 || len(strings.TrimSuffix(rule.pkg, "/...")) > len(strings.TrimSuffix(may[best].pkg, "/...")) || rule.pkg == pkg) {
				best = i
			}
		}
		if best < 0 {
			t.Errorf("%s: no line of the import policy covers it", pkg)
			continue
		}
		for _, imp := range p.Imports {
			dep, ours := own(imp)
			if !ours || slices.ContainsFunc(may[best].imports, func(m string) bool { return matches(m, dep) }) {
				continue
			}
			t.Errorf("%s imports %s: %s", pkg, dep, may[best].why)
		}
		for _, rule := range never {
			if !matches(rule.pkg, pkg) || pkg == "server/cmd/pimoe" {
				continue
			}
			for _, dep := range p.Deps {
				if strings.HasPrefix(dep, rule.external) {
					t.Errorf("%s reaches %s: %s", pkg, dep, rule.why)
				}
			}
		}
	}
}

// TestPackageComments: every package says what it is for, who uses it and what it refuses.
func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		pkg, _ := own(p.ImportPath)
		doc := packageDoc(t, p)
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command " + path.Base(pkg) + " "
		}
		switch text := strings.Join(strings.Fields(doc), " "); {
		case pkg == "" || strings.HasPrefix(text, "Code generated"):
		case text == "":
			t.Errorf("%s has no package comment", pkg)
		case !strings.HasPrefix(text, want):
			t.Errorf("%s: the package comment begins %.40q, want %q", pkg, text, want)
		case strings.Count(text, ".") < 2 && strings.Count(text, ":") == 0:
			t.Errorf("%s: the package comment says too little: %q", pkg, text)
		}
	}
}

func packageDoc(t *testing.T, p listed) string {
	t.Helper()
	files := p.GoFiles
	if len(files) == 0 {
		files = p.TestGoFiles
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if ast.IsGenerated(f) {
			return "Code generated"
		}
		if f.Doc != nil {
			return f.Doc.Text()
		}
	}
	return ""
}

// TestPackageNames: one noun for one package, none that says nothing.
func TestPackageNames(t *testing.T) {
	empty := []string{"util", "utils", "common", "helper", "helpers", "base", "shared", "types", "pkg", "misc"}
	for _, p := range packages(t) {
		if pkg, _ := own(p.ImportPath); slices.Contains(empty, path.Base(pkg)) {
			t.Errorf("%s: the name says nothing about what is in it", pkg)
		}
	}
}

// TestText: the files that people read hold no leftovers and no typographic characters that a terminal or a diff shows
// wrongly.
func TestText(t *testing.T) {
	leftovers := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", ".cache", "bin", "testdata", "embedded", "node_modules", "zz_deps", "build"}, d.Name()) || strings.HasPrefix(d.Name(), ".venv") {
				return filepath.SkipDir
			}
			return nil
		}
		if !slices.Contains([]string{".go", ".md", ".yaml", ".yml", ".sh", ".proto"}, filepath.Ext(name)) && filepath.Base(name) != "Makefile" {
			return nil
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for i, line := range strings.Split(string(b), "\n") {
			if leftovers.MatchString(line) {
				t.Errorf("%s:%d: a leftover: %s", name, i+1, strings.TrimSpace(line))
			}
			if filepath.Ext(name) != ".go" || !strings.HasSuffix(name, "_test.go") { // tests need odd characters
				if r := strings.IndexFunc(line, typographic); r >= 0 {
					t.Errorf("%s:%d: not plain punctuation: %s", name, i+1, strings.TrimSpace(line))
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func typographic(r rune) bool {
	return r > unicode.MaxASCII && (unicode.Is(unicode.Pd, r) || unicode.Is(unicode.Pi, r) || unicode.Is(unicode.Pf, r) || r == '\u2026' || r == '\u00a0')
}

// TestOneImporterOfCU: gorgonia.org/cu ends the process where there is no driver, so one package has it, behind a tag.
func TestOneImporterOfCU(t *testing.T) {
	found := 0
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".go" {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return nil // a test's broken file: the compiler judges the others
		}
		for _, i := range f.Imports {
			if !strings.HasPrefix(i.Path.Value, `"gorgonia.org/`) {
				continue
			}
			found++
			if filepath.ToSlash(filepath.Dir(name)) != "backends/cuda" || f.Comments[0].List[0].Text != "//go:build cuda && cgo" {
				t.Errorf("%s imports %s: only backends/cuda may, behind cuda && cgo", name, i.Path.Value)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found == 0 {
		t.Error("nobody imports gorgonia.org/cu: this test looks in the wrong place")
	}
}
