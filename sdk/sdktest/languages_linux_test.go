package sdktest_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/sdktest"
)

// buildExample runs an example's own script into a folder that is kept between runs.
func buildExample(t *testing.T, example string, needs ...string) string {
	t.Helper()
	for _, tool := range needs {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	dir, err := filepath.Abs(filepath.Join("..", "..", ".cache", "examples", example))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join("..", "examples", example, "build.sh"), dir).CombinedOutput()
	if err != nil {
		t.Fatalf("build %s: %v\n%s", example, err, out)
	}
	return dir
}

// TestPython: the expert in Python keeps the contract, confined by its profile.
func TestPython(t *testing.T) {
	dir := buildExample(t, "expert-python", "/usr/bin/python3", "protoc")
	lib := filepath.Join(dir, "lib")
	digest, err := client.TreeDigest(lib, false)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = sdktest.Interpreted(t.Context(), filepath.Join(dir, "pimoe-expert-numpy"), &client.Profile{
		Name: client.ProfilePython, Reads: []client.Pinned{{Path: lib, Digest: digest}},
	}, &out)
	t.Logf("\n%s", &out)
	if err != nil {
		t.Error(err)
	}
	if report := out.String(); strings.Contains(report, "shm ") || !strings.Contains(report, "ok    grpc  known answers") {
		t.Error("it was not tested as a plugin without shared memory")
	}
}

// TestC: the expert in C keeps the contract over shared memory and over gRPC, confined like any program.
func TestC(t *testing.T) {
	if _, err := os.Stat("/usr/include/nghttp2/nghttp2.h"); err != nil {
		t.Skip("needs nghttp2's headers (Debian: libnghttp2-dev)")
	}
	var out bytes.Buffer
	if err := sdktest.Binary(t.Context(), filepath.Join(buildExample(t, "expert-c", "cc"), "pimoe-expert-c"), &out); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	if got := strings.Count(out.String(), "ok "); got != 27 {
		t.Errorf("%d lines, want 27:\n%s", got, &out)
	}
}
