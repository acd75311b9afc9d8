// Package coretest finds the reference data that tests of several packages share: golden checkpoints, tokenizers, chat
// templates and expert cases, computed by transformers (testdata/golden/README.md), and the embedded model's folder.
//
// Only tests import it. It refuses to be linked into a program.
package coretest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Golden is the path of a file or folder below testdata/golden, such as "models/qwen3_moe".
func Golden(t testing.TB, elem ...string) string {
	t.Helper()
	return existing(t, filepath.Join(append([]string{here(t), "testdata", "golden"}, elem...)...))
}

// PimoeTiny is the folder of the embedded model.
func PimoeTiny(t testing.TB) string {
	t.Helper()
	return existing(t, filepath.Join(here(t), "..", "weights", "embedded", "pimoe-tiny"))
}

// Repo is the root of the project's tree.
func Repo(t testing.TB) string {
	t.Helper()
	return existing(t, filepath.Join(here(t), "..", ".."))
}

// ReadJSON decodes a file into v.
func ReadJSON(t testing.TB, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// begin is the folder of the package under test: a test may leave it later. Where this source lies is not in programs that are built
// with -trimpath.
var begin, beginErr = os.Getwd()

func here(t testing.TB) string {
	t.Helper()
	if beginErr != nil {
		t.Fatal(beginErr)
	}
	for dir := begin; ; dir = filepath.Dir(dir) {
		at := filepath.Join(dir, "core", "coretest")
		if _, err := os.Stat(at); err == nil {
			return at
		}
		if dir == filepath.Dir(dir) {
			t.Fatalf("coretest: no folder above %s is the project's", begin)
		}
	}
}

func existing(t testing.TB, path string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}
