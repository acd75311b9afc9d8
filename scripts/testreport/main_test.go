package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const stream = `{"Action":"start","Package":"p/a"}
{"Action":"run","Package":"p/a","Test":"TestGPU"}
{"Action":"output","Package":"p/a","Test":"TestGPU","Output":"=== RUN   TestGPU\n"}
{"Action":"output","Package":"p/a","Test":"TestGPU","Output":"    a_test.go:5: needs a GPU\n"}
{"Action":"output","Package":"p/a","Test":"TestGPU","Output":"--- SKIP: TestGPU (0.00s)\n"}
{"Action":"skip","Package":"p/a","Test":"TestGPU","Elapsed":0}
{"Action":"output","Package":"p/a","Test":"TestNet","Output":"    a_test.go:9: no network: dial\n"}
{"Action":"skip","Package":"p/a","Test":"TestNet","Elapsed":0}
{"Action":"pass","Package":"p/a","Elapsed":0.1}
{"Action":"skip","Package":"p/empty","Elapsed":0}
`

func run(t *testing.T, in string, strict bool) (string, bool) {
	t.Helper()
	var out bytes.Buffer
	r := &report{out: &out, strict: strict, allowed: []*regexp.Regexp{regexp.MustCompile("^needs a GPU")}}
	r.read(strings.NewReader(in))
	r.table()
	return out.String(), r.failed
}

func TestSkips(t *testing.T) {
	out, failed := run(t, stream, false)
	if failed || !strings.Contains(out, "allowed  p/a TestGPU  needs a GPU") || !strings.Contains(out, "skipped  p/a TestNet  no network: dial") || strings.Contains(out, "empty") {
		t.Errorf("failed %v:\n%s", failed, out)
	}
	out, failed = run(t, stream, true)
	if !failed || !strings.Contains(out, "FAILURE  p/a TestNet") || strings.Contains(out, "FAILURE  p/a TestGPU") {
		t.Errorf("strict, failed %v:\n%s", failed, out)
	}
	if out, failed := run(t, strings.Replace(stream, "no network: dial", "needs a GPU too", 1), true); failed {
		t.Errorf("strict with allowed skips only:\n%s", out)
	}
}

func TestFailures(t *testing.T) {
	for name, in := range map[string]string{
		"test":  `{"Action":"output","Package":"p","Test":"TestX","Output":"    x_test.go:1: broken\n"}` + "\n" + `{"Action":"fail","Package":"p","Test":"TestX"}` + "\n" + `{"Action":"fail","Package":"p"}`,
		"build": `{"ImportPath":"p","Action":"build-output","Output":"x.go:1: broken\n"}` + "\n" + `{"ImportPath":"p","Action":"build-fail"}`,
	} {
		if out, failed := run(t, in, false); !failed || !strings.Contains(out, "broken") {
			t.Errorf("%s: failed %v:\n%s", name, failed, out)
		}
	}
	if out, failed := run(t, "go: cannot find module\n", false); failed || !strings.Contains(out, "cannot find module") {
		t.Errorf("a line that is no JSON: %v %s", failed, out) // go test's own exit code fails the run
	}
}

func TestSaveAndNote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skips")
	r := &report{out: &bytes.Buffer{}}
	r.read(strings.NewReader(stream + "\n" + `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n" + `{"Action":"fail","Package":"p","Test":"TestB"}` + "\n"))
	if err := r.saveTo(path); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	again := &report{out: &out}
	if err := again.addNoted(path); err != nil {
		t.Fatal(err)
	}
	again.table()
	if again.count != r.count || r.count.passed == 0 || r.count.failed == 0 {
		t.Errorf("counts %+v, saved %+v", again.count, r.count)
	}
	if last := out.String(); !strings.HasSuffix(last, " skipped\n") {
		t.Errorf("the last line is not the counts:\n%s", last)
	}
	if len(again.skips) != 2 || !strings.Contains(out.String(), "p/a TestGPU  needs a GPU") {
		t.Errorf("%+v\n%s", again.skips, out.String())
	}
	if err := again.addNoted(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Error(err)
	}
}

func TestAllowedList(t *testing.T) {
	if _, err := readPatterns(filepath.Join("..", "allowed-skips.txt")); err != nil {
		t.Error(err)
	}
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("# comment\n\n(\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readPatterns(bad); err == nil {
		t.Error("a wrong expression was taken")
	}
}

func TestMeasured(t *testing.T) {
	var out bytes.Buffer
	r := &report{out: &out}
	r.read(strings.NewReader(`{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: measured: p50 1ms\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:4: chatter\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":1}
`))
	if got := out.String(); got != "      TestA: p50 1ms\n" {
		t.Errorf("%q", got)
	}
}
