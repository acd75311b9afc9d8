package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestGPU: what the probe prints is shown; a probe that fails, dies or prints something else is a driver that can't be used.
func TestGPU(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		script string
		status Status
		want   string
	}{
		{`echo '{"driver": 12040, "devices": [{"name": "GPU A", "sm": 80, "memory_bytes": 42949672960}, {"name": "GPU B", "sm": 75, "memory_bytes": 1048576}]}'`,
			OK, "CUDA 12.4; 0: GPU A, compute capability 8.0, 40960 MiB; 1: GPU B, compute capability 7.5, 1 MiB"},
		{"echo 'start: the driver answers error 100' >&2; exit 78", Missing, "can't be used: start: the driver answers error 100; experts run on the CPU"},
		{"kill -SEGV $$", Missing, "can't be used: signal: segmentation fault"},
		{"echo hello", Missing, "can't be used: invalid character"},
	} {
		path := filepath.Join(dir, "probe")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		var got Check
		for range 50 { // another test's fork may hold the file open for a moment
			if got = asked(path, "/lib/libcuda.so.1"); !strings.Contains(got.Detail, "text file busy") {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got.Status != c.status || !strings.Contains(got.Detail, c.want) {
			t.Errorf("%s: %+v, want %s %q", c.script, got, c.status, c.want)
		}
	}
	if got := asked(filepath.Join(dir, "none"), "/lib/libcuda.so.1"); got.Status != OK || !strings.Contains(got.Detail, "no pimoe-probe-cuda") {
		t.Errorf("without a probe: %+v", got)
	}
}
