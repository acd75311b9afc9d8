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
	path := filepath.Join("testdata", "syscalls_"+runtime.GOARCH+".txt")
	got := specificationOf(append(table(true, false), once(9, 1, 2, 3)))
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

// TestAtMostSixty: in every form of the table, and no number twice.
func TestAtMostSixty(t *testing.T) {
	for _, ownUser := range []bool{false, true} {
		for _, dynamic := range []bool{false, true} {
			rules := append(table(ownUser, dynamic), once(9, 1, 2, 3))
			if n := count(rules); n > 60 {
				t.Errorf("%d system calls (own user %v, dynamic %v)", n, ownUser, dynamic)
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
	}
}
