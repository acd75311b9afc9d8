package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

// A reader who holds the old file goes on with it, and whoever opens it anew has the new one, with the mode that was asked for.
func TestWriteReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	for n, text := range []string{"first", "second, which is longer", ""} {
		mode := []fs.FileMode{0o600, 0o644, 0o400}[n]
		before, err := os.Open(path)
		if (n == 0) != errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := Write(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%q %v, want %q", got, err, text)
		}
		st, err := os.Stat(path)
		if err != nil || runtime.GOOS != "windows" && st.Mode() != mode {
			t.Errorf("%v %v, want mode %v", st.Mode(), err, mode)
		}
		if before != nil {
			if old, err := before.Stat(); err != nil || os.SameFile(old, st) {
				t.Errorf("it was written into the old file: %v", err)
			}
			before.Close()
		}
	}
	if left := names(t, filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// What can't be replaced stays, and nothing is left beside it.
func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("x"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if left := names(t, dir); len(left) != 1 || len(names(t, path)) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if err := Write(filepath.Join(dir, "none", "x"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in no folder: %v", err)
	}
}
