package targets_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/server/deploy"
	"github.com/pimoe/pimoe/server/deploy/targets"
)

// TestFolder: the folder deploy is what the defaults render. PIMOE_TEST_UPDATE=1 renders it again (make docs).
func TestFolder(t *testing.T) {
	for _, target := range targets.All() {
		files, err := target.Files(deploy.Defaults())
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(coretest.Repo(t), "deploy", target.Name())
		if os.Getenv("PIMOE_TEST_UPDATE") == "1" {
			if _, err := deploy.Write(dir, files); err != nil {
				t.Fatal(err)
			}
		}
		differences, err := deploy.Compare(dir, files)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range differences {
			t.Errorf("deploy/%s/%s: %s; run: make docs", target.Name(), d.Path, d.How)
		}
	}
}

// secret finds what stands where the value of a secret would, and private keys.
var secret = regexp.MustCompile(`(?i)(?:password|passwd|secret|api_?key|token|private)["']?\s*[:=]\s*["']?([A-Za-z0-9+_-]{16,})|-----BEGIN|pimoe_[a-z0-9]{8}_[A-Za-z0-9]{20,}`)

// leak is a secret in a file; "" if there is none. A name that secrets go by has no digits.
func leak(data []byte) string {
	for _, m := range secret.FindAllSubmatch(data, -1) {
		if m[1] == nil || bytes.ContainsAny(m[1], "0123456789") {
			return string(m[0])
		}
	}
	return ""
}

// Every target renders every environment and profile: the same bytes each time, paths within the folder, each once, and
// no secret in a file.
func TestEveryTarget(t *testing.T) {
	if len(targets.All()) < 3 {
		t.Fatalf("targets %v", targets.Names())
	}
	for _, target := range targets.All() {
		if targets.Named(target.Name()) == nil {
			t.Errorf("%s is not found by its name", target.Name())
		}
		for _, e := range deploy.Environments() {
			for _, p := range deploy.Profiles() {
				v := deploy.For(e, p)
				v.Name = "other" // what depends on the name must follow it
				if err := v.Validate(); err != nil {
					t.Fatal(err)
				}
				files, err := target.Files(v)
				if err != nil {
					t.Fatalf("%s, %s, %s: %v", target.Name(), e, p, err)
				}
				again, err := target.Files(v)
				if err != nil || len(files) == 0 || len(again) != len(files) {
					t.Fatalf("%s, %s, %s: %d files, then %d, %v", target.Name(), e, p, len(files), len(again), err)
				}
				for i, f := range files {
					if again[i].Path != f.Path || again[i].Mode != f.Mode || !bytes.Equal(again[i].Data, f.Data) {
						t.Errorf("%s, %s, %s: %s differs from run to run", target.Name(), e, p, f.Path)
					}
					if !filepath.IsLocal(f.Path) || slices.ContainsFunc(files[:i], func(g deploy.File) bool { return g.Path == f.Path }) {
						t.Errorf("%s: path %q", target.Name(), f.Path)
					}
					if m := leak(f.Data); m != "" {
						t.Errorf("%s, %s, %s: %s seems to hold a secret: %s", target.Name(), e, p, f.Path, m)
					}
				}
				dir := t.TempDir()
				if _, err := deploy.Write(dir, files); err != nil {
					t.Fatal(err)
				}
				if w, err := deploy.Write(dir, files); err != nil || len(w) > 0 {
					t.Errorf("%s, %s, %s: the second time %v was written, %v", target.Name(), e, p, w, err)
				}
			}
		}
	}
}
