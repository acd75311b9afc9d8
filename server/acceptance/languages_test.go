package acceptance

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/server/instance"
)

// TestC: the expert in C takes the place of the host's own with the same bits of every unit, in its numeric class.
func TestC(t *testing.T) {
	if _, err := os.Stat("/usr/include/nghttp2/nghttp2.h"); err != nil {
		t.Skip("needs nghttp2's headers (Debian: libnghttp2-dev)")
	}
	dir := t.TempDir()
	out, err := exec.Command(filepath.Join(coretest.Repo(t), "sdk", "examples", "expert-c", "build.sh"), dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	i := open(t, func(c *config.Config) { c.Plugins.Dev = true })
	request := greedy(story(i, "a fox and a lamp"), 40)
	want := run(t.Context(), i, request)
	done, err := i.Swap(t.Context(), "e3", instance.Change{Plugin: filepath.Join(dir, "pimoe-expert-c")})
	if err != nil || !done.Difference.Same {
		t.Fatalf("%+v, %v", done, err)
	}
	if got := run(t.Context(), i, request); got.err != nil || got.text != want.text {
		t.Errorf("error %v, text %q, want %q", got.err, got.text, want.text)
	}
	if s := i.Host.Status()[3]; s.Calls == 0 || s.Lanes == 0 || s.Errors != 0 {
		t.Errorf("it has not served over shared memory: %+v", s)
	}
}
