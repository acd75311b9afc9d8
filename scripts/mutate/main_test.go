package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const source = `package p

const most = 3

func add(a, b int) int {
	if a > most || !ready() {
		return b
	}
	note(a)
	return a + b
}

func ready() bool { return true }
func note(int)    {}
`

const tests = `package p

import "testing"

func TestAdd(t *testing.T) {
	if add(1, 2) != 3 || add(4, 2) != 2 {
		t.Error("wrong")
	}
}
`

// tree makes a module of one package and works in it.
func tree(t *testing.T) *target {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{"go.mod": "module p\n\ngo 1.26.0\n", "p.go": source, "p_test.go": tests} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &target{files: []string{"p.go"}, tests: [][]string{{"."}}, limits: []time.Duration{time.Minute}}
}

func TestMutants(t *testing.T) {
	all, err := tree(t).mutants()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range all {
		got = append(got, strings.TrimPrefix(m.name(), "p.go "))
		if text := string(m.text()); text == source || len(text) < len(source)-20 {
			t.Errorf("%s:\n%s", m.name(), text)
		}
	}
	want := []string{
		"const: 3 -> 4 in: const most = 3",
		"add: a > most || !ready() -> false && (a > most || !ready()) in: if a > most || !ready() {",
		"add: || -> && in: if a > most || !ready() {",
		"add: > -> >= in: if a > most || !ready() {",
		"add: > -> <= in: if a > most || !ready() {",
		"add: ! -> (nothing) in: if a > most || !ready() {",
		"add: note(a) -> (nothing) in: note(a)",
		"add: + -> - in: return a + b",
		"ready: true -> false in: func ready() bool { return true }",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// The package's tests catch a changed sum, and nobody sees the forgotten note: it must be on the list.
func TestVerdicts(t *testing.T) {
	all, err := tree(t).mutants()
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(m mutant) bool {
		return !strings.Contains(m.name(), "note(a)") && !strings.Contains(m.name(), "+ -> -")
	})
	out := judge(all, t.TempDir(), 2)
	if len(out) != 2 || out[0].outcome != "survived" || out[1].outcome != "caught" {
		t.Fatalf("%+v", out)
	}
	earlier := filepath.Join(t.TempDir(), "earlier")
	lines := "survived          1 s  " + out[0].name() + "\ncaught            1 s  " + out[1].name() + "\nsurvivor: " + out[1].name() + "\n"
	if err := os.WriteFile(earlier, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	if names, err := survivors(earlier); err != nil || len(names) != 1 || !names[out[0].name()] {
		t.Errorf("survivors of the earlier run: %v, %v", names, err)
	}
	accepted := filepath.Join(t.TempDir(), "accepted")
	if err := os.WriteFile(accepted, []byte("# known\n"+out[0].name()+"\tnothing depends on it\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	reasons, err := readAccepted(accepted)
	if err != nil {
		t.Fatal(err)
	}
	if err := report(out, reasons, 50); err != nil {
		t.Errorf("the survivor is accepted: %v", err)
	}
	if err := stale(reasons, all); err != nil {
		t.Error(err)
	}
	if err := stale(reasons, all[1:]); err == nil || !strings.Contains(err.Error(), "note(a)") {
		t.Errorf("an accepted survivor that is none: %v", err)
	}
	if report(out, nil, 50) == nil || report(out, reasons, 95) == nil {
		t.Error("an unknown survivor, and too many, are passed over")
	}
	if err := os.WriteFile(accepted, []byte("a name without a reason\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readAccepted(accepted); err == nil {
		t.Error("a survivor without a reason is accepted")
	}
}
