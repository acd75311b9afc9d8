package pimoe_test

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// wall is what takes a time's monotonic reading away: from then on whoever sets the machine's clock decides what is between two
// times.
var wall = regexp.MustCompile(`\.(?:Unix|UnixNano|UnixMilli|UnixMicro|UTC|Local)\(\)|\.Round\(0\)|time\.Unix\(`)

// wallClocks are the packages of core that speak of dates, each with the reason.
var wallClocks = map[string]string{
	"core/weights": "files have dates",
}

// TestCoreMeasuresTime: what core does by time (deadlines, breakers, restarts, scaling) it measures by times with a monotonic
// reading, so a clock that is set changes nothing (fault X18).
func TestCoreMeasuresTime(t *testing.T) {
	files, allowed := 0, map[string]bool{}
	err := filepath.WalkDir("core", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") || strings.HasPrefix(filepath.ToSlash(name), "core/coretest/") {
			return err
		}
		files++
		for i, line := range strings.Split(read(t, name), "\n") {
			code, _, _ := strings.Cut(line, "//")
			if !wall.MatchString(code) {
				continue
			}
			pkg := filepath.ToSlash(filepath.Dir(name))
			if wallClocks[pkg] == "" {
				t.Errorf("%s:%d reads the wall clock: %s", name, i+1, strings.TrimSpace(line))
			}
			allowed[pkg] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 {
		t.Errorf("only %d files", files)
	}
	var unused []string
	for pkg := range wallClocks {
		if !allowed[pkg] {
			unused = append(unused, pkg)
		}
	}
	if slices.Sort(unused); len(unused) > 0 {
		t.Errorf("no date is read any more in %v", unused)
	}
}
