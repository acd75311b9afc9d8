//go:build amd64 || arm64

package confine

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// specificationOf is a table as text, by number.
func specificationOf(rules []rule) string {
	rules = slices.Clone(rules)
	slices.SortFunc(rules, func(a, b rule) int { return int(a.number) - int(b.number) })
	var b strings.Builder
	for _, r := range rules {
		fmt.Fprintf(&b, "%d %v\n", r.number, r)
	}
	return b.String()
}

// TestSpecification holds the table against the file that people read. PIMOE_TEST_UPDATE=1 rewrites it.
func TestSpecification(t *testing.T) {
	for name, rules := range map[string][]rule{
		"": table(false, ProfileNone), "_python": table(true, ProfilePython), "_cuda": table(true, ProfileCUDA),
	} {
		compareSpecification(t, filepath.Join("testdata", "syscalls"+name+"_"+runtime.GOARCH+".txt"), append(rules, once(9, 1, 2, 3)))
	}
}

func compareSpecification(t *testing.T, path string, rules []rule) {
	t.Helper()
	got := specificationOf(rules)
	if os.Getenv("PIMOE_TEST_UPDATE") == "1" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not the table; got\n%s", path, got)
	}
}

// TestAtMostSixty: in every form of the table of a program, some more for an interpreter and for NVIDIA's driver, and no number twice.
func TestAtMostSixty(t *testing.T) {
	for _, dynamic := range []bool{false, true} {
		checkTable(t, append(table(dynamic, ProfileNone), once(9, 1, 2, 3)), 60)
	}
	for _, p := range []Profile{ProfilePython, ProfileCUDA} {
		checkTable(t, append(table(true, p), once(9, 1, 2, 3)), 72)
	}
}

func checkTable(t *testing.T, rules []rule, most int) {
	t.Helper()
	if n := count(rules); n > most {
		t.Errorf("%d system calls, at most %d", n, most)
	}
	seen := map[uint32]string{}
	for _, r := range rules {
		if seen[r.number] != "" {
			t.Errorf("%s and %s have one number", r.name, seen[r.number])
		}
		seen[r.number] = r.name
	}
	if _, err := assemble(rules); err != nil {
		t.Error(err)
	}
}
