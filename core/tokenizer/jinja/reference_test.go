package jinja

import (
	"context"
	"encoding/json"
	"os"
	"testing"
	"time"
)

// TestReference compares small templates with what Jinja2 made of them (testdata/reference.py): every operator, filter,
// test and method on every kind of value, the statements, and white space around tags in thousands of mixtures.
func TestReference(t *testing.T) {
	b, err := os.ReadFile("testdata/reference.json")
	if err != nil {
		t.Fatal(err)
	}
	var ref struct {
		Vars  json.RawMessage
		Cases [][]*string // template, text or nil, error or nil
	}
	if err := json.Unmarshal(b, &ref); err != nil {
		t.Fatal(err)
	}
	vars := readVars(t, ref.Vars)
	failed := 0
	for _, c := range ref.Cases {
		got, err := render(*c[0], vars)
		switch {
		case c[1] == nil && err == nil:
			t.Errorf("%q\n got %q\nwant error %s", *c[0], got, *c[2])
		case c[1] != nil && err != nil:
			t.Errorf("%q\n got error %v\nwant %q", *c[0], err, *c[1])
		case c[1] != nil && got != *c[1]:
			t.Errorf("%q\n got %q\nwant %q", *c[0], got, *c[1])
		}
		if c[1] == nil {
			failed++
		}
	}
	if len(ref.Cases) < 4000 || failed == len(ref.Cases) {
		t.Errorf("%d cases, %d errors", len(ref.Cases), failed)
	}
	t.Logf("%d templates, %d of them errors", len(ref.Cases), failed)
}

func readVars(t testing.TB, raw []byte) map[string]Value {
	t.Helper()
	v, err := FromJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	d := v.(*Dict)
	vars := map[string]Value{}
	for _, k := range d.Keys() {
		vars[k], _ = d.Get(k)
	}
	return vars
}

func render(source string, vars map[string]Value) (string, error) {
	p, err := Parse(source)
	if err != nil {
		return "", err
	}
	return p.Render(context.Background(), vars, time.Unix(0, 0).UTC())
}
