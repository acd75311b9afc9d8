package pimoe_test

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
)

// pages are the files that people read.
func pages(t *testing.T) []string {
	t.Helper()
	out := []string{"README.md", "SCOPE.md", "SECURITY.md", "CHANGELOG.md"}
	for _, pattern := range []string{"docs/*.md", ".github/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	if len(out) < 10 {
		t.Fatalf("only %d pages: %v", len(out), out)
	}
	return out
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// tested finds the shell blocks that a test runs: <!-- test --> or <!-- test contains="TEXT" --> before them.
var tested = regexp.MustCompile("(?s)<!-- test(?: contains=\"([^\"]*)\")? -->\n```sh\n(.*?)```")

// TestCommands runs the marked shell blocks of the documentation, each in a folder that looks like the project's.
func TestCommands(t *testing.T) {
	count := 0
	for _, page := range pages(t) {
		for i, m := range tested.FindAllStringSubmatch(read(t, page), -1) {
			count++
			t.Run(fmt.Sprintf("%s#%d", page, i+1), func(t *testing.T) { runBlock(t, m[2], m[1]) })
		}
	}
	if count < 5 {
		t.Errorf("only %d blocks are run", count)
	}
}

func runBlock(t *testing.T, script, contains string) {
	dir, err := os.MkdirTemp("", "pimoe-doc-") // a short path: sockets live below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.MkdirAll(filepath.Join(coretest.Repo(t), ".cache"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"bin": coretest.Binaries(t), "configs": filepath.Join(coretest.Repo(t), "configs"),
		"sdk": filepath.Join(coretest.Repo(t), "sdk"), "deploy": filepath.Join(coretest.Repo(t), "deploy"), ".cache": filepath.Join(coretest.Repo(t), ".cache"),
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "PIMOE_HOME=" + filepath.Join(dir, "home"), "TMPDIR=" + dir}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	if !strings.Contains(string(out), contains) {
		t.Errorf("%s\ngives\n%s\nwithout %q", script, out, contains)
	}
}

var link = regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)

// TestLinks: what a page points at is there.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}

// TestConfigureListsEveryKey holds the tables of docs/configure.md against the code. PIMOE_TEST_UPDATE=1 rewrites them
// (make docs).
func TestConfigureListsEveryKey(t *testing.T) {
	const page = "docs/configure.md"
	text := read(t, page)
	want := between(t, between(t, between(t, text, "keys", keyTable()), "modes", modeTable()), "live", "`"+strings.Join(config.LiveKeys(), "`, `")+"`\n")
	if want == text {
		return
	}
	if os.Getenv("PIMOE_TEST_UPDATE") != "1" {
		t.Fatalf("%s does not list the keys as they are; run: make docs", page)
	}
	if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// between replaces what stands between <!-- name --> and <!-- /name -->.
func between(t *testing.T, text, name, content string) string {
	t.Helper()
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
	i, j := strings.Index(text, begin), strings.Index(text, end)
	if i < 0 || j < i {
		t.Fatalf("no %s...%s", begin, end)
	}
	return text[:i+len(begin)] + content + text[j:]
}

func keyTable() string {
	var b strings.Builder
	b.WriteString("| key | variable | default | meaning |\n|---|---|---|---|\n")
	for _, k := range config.Keys() {
		env := k.Env
		if env != "" {
			env = "`" + env + "`"
		}
		if k.Flat != "" {
			env += " or `" + k.Flat + "`"
		}
		if k.Secret {
			env += " or `" + k.Env + "_FILE`"
		}
		about := k.About
		if k.Enum != nil {
			about += " One of `" + strings.Join(k.Enum, "`, `") + "`."
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.Name, env, defaultText(k), strings.ReplaceAll(about, "|", "\\|"))
	}
	return b.String()
}

func defaultText(k config.Key) string {
	switch {
	case k.Name == "home":
		return "`$XDG_DATA_HOME/pimoe`, else `~/.local/share/pimoe`"
	case k.Name == "plugins.dir":
		return "the folder of `pimoe`"
	case k.Default == nil:
		return ""
	}
	switch text := fmt.Sprint(k.Default); text {
	case "":
		return "empty"
	case "map[]":
		return "`{}`"
	default:
		return "`" + text + "`"
	}
}

func modeTable() string {
	var b strings.Builder
	b.WriteString("| mode | what it changes |\n|---|---|\n")
	for _, mode := range config.Modes() {
		keys, values := config.Preset(mode)
		var parts []string
		for _, k := range keys {
			parts = append(parts, fmt.Sprintf("`%s: %v`", k, values[k]))
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", mode, cmp.Or(strings.Join(parts, ", "), "nothing: the defaults are production's"))
	}
	return b.String()
}

// TestDockerfile: the image is what docs/install.md says of it. There is no container engine where the tests run.
func TestDockerfile(t *testing.T) {
	text := read(t, "Dockerfile")
	lines := strings.Split(text, "\n")
	var from []string
	for _, l := range lines {
		if f, ok := strings.CutPrefix(l, "FROM "); ok {
			from = append(from, f)
		}
	}
	if len(from) != 3 || !strings.HasSuffix(from[0], " AS build") || !strings.HasSuffix(from[1], " AS plugins") || !strings.HasSuffix(from[2], " AS host") || strings.Contains(text, ":latest") {
		t.Errorf("stages %q", from)
	}
	goVersion := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))
	if len(goVersion) != 2 || !strings.HasPrefix(from[0], "golang:"+goVersion[1]+"-") {
		t.Errorf("built by %s, go.mod asks for %v", from[0], goVersion)
	}
	final := text[strings.LastIndex(text, "\nFROM "):]
	for _, want := range []string{"USER nonroot:nonroot", "HEALTHCHECK ", `"/usr/local/bin/pimoe", "health"`, "VOLUME /data", "PIMOE_HOME=/data",
		"org.opencontainers.image.source", "org.opencontainers.image.licenses=\"Apache-2.0\"", "org.opencontainers.image.version", "STOPSIGNAL SIGTERM",
		`ENTRYPOINT ["/usr/local/bin/pimoe"]`} {
		if !strings.Contains(final, want) {
			t.Errorf("the image lacks %s", want)
		}
	}
	for _, stage := range strings.Split(text, "\nFROM ")[2:] {
		if strings.Contains(stage, "API_KEY") || !strings.Contains(stage, "USER nonroot:nonroot") || !strings.Contains(stage, "org.opencontainers.image.revision") {
			t.Errorf("a secret in the image, another user, or no labels:\n%s", stage)
		}
	}
	for _, m := range regexp.MustCompile(`PIMOE_[A-Z_]+`).FindAllString(final, -1) {
		if !slices.ContainsFunc(config.Keys(), func(k config.Key) bool { return k.Env == m }) {
			t.Errorf("%s is no setting", m)
		}
	}
}

// TestMakefile: every target that a page names is there.
func TestMakefile(t *testing.T) {
	makefile := read(t, "Makefile")
	for _, page := range append(pages(t), ".github/workflows/ci.yml") {
		for _, m := range regexp.MustCompile("(?m)(?:`|^)make ([a-z][a-z-]*)").FindAllStringSubmatch(read(t, page), -1) {
			if !strings.Contains(makefile, "\n"+m[1]+": ") && !strings.Contains(makefile, "\n"+m[1]+":\n") {
				t.Errorf("%s names make %s", page, m[1])
			}
		}
	}
}

// TestFaultsNameTests: every test that docs/faults.md names is one.
func TestFaultsNameTests(t *testing.T) {
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(read(t, "docs/faults.md"), -1)
	if len(named) < 80 {
		t.Fatalf("it names %d tests", len(named))
	}
	there := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]+)\(`)
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		for _, m := range declared.FindAllStringSubmatch(read(t, path), -1) {
			there[m[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range named {
		if !there[m[1]] {
			t.Errorf("docs/faults.md names %s, which there is not", m[1])
		}
	}
}

// TestQuotes: the messages and codes that docs/troubleshoot.md explains, and the series that docs/operations.md names,
// are those of the program.
func TestQuotes(t *testing.T) {
	var source strings.Builder
	for _, dir := range []string{"core", "server", "sdk", "plugins"} {
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err == nil && filepath.Ext(name) == ".go" && !strings.HasSuffix(name, "_test.go") {
				source.WriteString(read(t, name))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	rows := 0
	for line := range strings.Lines(read(t, "docs/troubleshoot.md")) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.Contains(cells[1], "`") {
			continue
		}
		rows++
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
			for piece := range strings.SplitSeq(m[1], "...") {
				if piece = strings.TrimSpace(piece); !strings.Contains(source.String(), piece) {
					t.Errorf("no message says %q", piece)
				}
			}
		}
	}
	if rows < 15 {
		t.Errorf("only %d rows", rows)
	}
	series := regexp.MustCompile(`pimoe_[a-z_]+`).FindAllString(read(t, "docs/operations.md"), -1)
	for _, name := range series {
		if !strings.Contains(source.String(), `"`+name+`"`) {
			t.Errorf("no series %s", name)
		}
	}
	if len(series) < 15 {
		t.Errorf("only %d series", len(series))
	}
}
