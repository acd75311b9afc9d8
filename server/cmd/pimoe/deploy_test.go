package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/server/deploy"
	"github.com/pimoe/pimoe/server/deploy/sbom"
	"github.com/pimoe/pimoe/server/deploy/targets"
)

// TestDeployRender renders, renders again, finds what somebody has changed, and puts it right.
func TestDeployRender(t *testing.T) {
	out := t.TempDir()
	first := decode[[]deploy.Difference](t, pimoe(t, "deploy", "render", "--out", out, "-o", "json"))
	if len(first) < 8 || first[0].How != "missing" {
		t.Fatalf("the first time %v was written", first)
	}
	for _, name := range targets.Names() {
		if _, err := os.Stat(filepath.Join(out, name)); err != nil {
			t.Error(err)
		}
	}
	if again := decode[[]deploy.Difference](t, pimoe(t, "deploy", "render", "--target", "all", "--out", out, "-o", "json")); len(again) > 0 {
		t.Errorf("the second time %v was written", again)
	}
	pimoe(t, "deploy", "render", "--out", out, "--check").ok(t)
	conf := filepath.Join(out, "nginx", "nginx.conf")
	if err := os.WriteFile(conf, []byte("edited"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := pimoe(t, "deploy", "render", "--out", out, "--check"); r.code != exitFailure || !strings.Contains(r.out, "nginx/nginx.conf") || !strings.Contains(r.err, "1 files differ") {
		t.Errorf("code %d, %s, %s", r.code, r.out, r.err)
	}
	if b, err := os.ReadFile(conf); err != nil || string(b) != "edited" {
		t.Errorf("--check has written: %s, %v", b, err)
	}
	pimoe(t, "deploy", "render", "--target", "compose", "--out", out, "--check").ok(t)
	if fixed := decode[[]deploy.Difference](t, pimoe(t, "deploy", "render", "--target", "nginx", "--out", out, "-o", "json")); len(fixed) != 1 || fixed[0] != (deploy.Difference{Path: "nginx/nginx.conf", How: "changed"}) {
		t.Errorf("put right: %v", fixed)
	}
}

// TestDeployValues: a file and flags change what is rendered, what is wrong is told, and what is printed can be read.
func TestDeployValues(t *testing.T) {
	out := t.TempDir()
	values := write(t, "values.yaml", []byte("environment: staging\nhost: moe.example.org\nports: {http: 8888}\n"))
	pimoe(t, "deploy", "render", "--values", values, "--out", out).ok(t)
	for name, want := range map[string]string{"compose/pimoe.yaml": "addr: 0.0.0.0:8888", "nginx/nginx.conf": "server 10.0.0.11:8888", "systemd/pimoe.yaml": "mode: staging"} {
		b, err := os.ReadFile(filepath.Join(out, name))
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s has no %q, %v", name, want, err)
		}
	}
	printed := pimoe(t, "deploy", "values", "--values", values, "--profile", "edge").ok(t).out
	again := write(t, "again.yaml", []byte(printed))
	if got := pimoe(t, "deploy", "values", "--values", again).ok(t).out; got != printed || !strings.Contains(got, "host: moe.example.org") || !strings.Contains(got, "profile: edge") {
		t.Errorf("printed and read again:\n%s\n%s", printed, got)
	}
	wrong := write(t, "wrong.yaml", []byte("replicaz: 3\nports: {http: no}\n"))
	for want, args := range map[string][]string{
		"wrong.yaml:1: replicaz: unknown field": {"--values", wrong}, "ports.http: want a whole number": {"--values", wrong},
		`--target "nope": want compose`: {"--target", "nope"}, `environment: want one of`: {"--environment", "prod"},
	} {
		if r := pimoe(t, append([]string{"deploy", "render", "--out", t.TempDir()}, args...)...); r.code != exitUsage || !strings.Contains(r.err, want) {
			t.Errorf("%v: code %d, %s, want %s", args, r.code, r.err, want)
		}
	}
	if r := pimoe(t, "deploy", "render", "--out", t.TempDir(), "--values", "/nonexistent.yaml"); r.code != exitNotFound {
		t.Errorf("no file: code %d, %s", r.code, r.err)
	}
	if r := pimoe(t, "deploy", "render"); r.code == exitOK || !strings.Contains(r.err, "out") {
		t.Errorf("no folder: code %d, %s", r.code, r.err)
	}
}

func TestDeploySBOM(t *testing.T) {
	var d sbom.Document
	text := pimoe(t, "deploy", "sbom", coretest.Binaries(t)).ok(t).out
	if err := json.Unmarshal([]byte(text), &d); err != nil || len(d.Components) < 10 {
		t.Errorf("%v, %.200s", err, text)
	}
	if r := pimoe(t, "deploy", "sbom", t.TempDir()); r.code != exitNotFound {
		t.Errorf("an empty folder: code %d, %s", r.code, r.err)
	}
	foreign := filepath.Dir(write(t, "pimoe-x", []byte("no executable")))
	if r := pimoe(t, "deploy", "sbom", foreign); r.code != exitFailure || !strings.Contains(r.err, "pimoe-x") {
		t.Errorf("a foreign file: code %d, %s", r.code, r.err)
	}
}
