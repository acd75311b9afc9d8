package profiling_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/profiling"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open makes a recorder, and gives the count of an outcome.
func open(t *testing.T, home string, cfg config.Profiling) (*profiling.Recorder, func(outcome string) uint64) {
	t.Helper()
	m := metrics.New()
	r, err := profiling.Open(home, cfg, m, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r, func(outcome string) uint64 { return m.Counter("pimoe_profiles_total", "outcome", outcome).Get() }
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal(what)
		}
	}
}

// Only so many are kept, the newest first, readable by their owner alone, and nothing else in the folder is touched or shown.
func TestKeeps(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, profiling.Folder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	old, other := "cpu-20200101T000000.000Z.pprof", "notes.pprof"
	for _, name := range []string{old, other} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, count := open(t, home, config.Profiling{Every: 20 * time.Millisecond, For: 5 * time.Millisecond, Keep: 3})
	eventually(t, "five profiles were not taken", func() bool { return count("taken") >= 5 })
	r.Close()
	list, err := r.List()
	if err != nil || len(list) != 3 {
		t.Fatalf("%v %v", list, err)
	}
	for i, p := range list {
		if p.Name == old || p.Name == other || i > 0 && !p.Time.Before(list[i-1].Time) {
			t.Errorf("profile %d is %+v", i, p)
		}
		b, err := r.Read(p.Name)
		if err != nil || int64(len(b)) != p.Bytes || !bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
			t.Errorf("%s: %d bytes, %v", p.Name, len(b), err)
		}
		if st, err := os.Stat(filepath.Join(dir, p.Name)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", p.Name, st.Mode(), err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, other)); err != nil {
		t.Error("a file of somebody else is gone")
	}
	for _, name := range []string{"", ".", "..", "../" + profiling.Folder + "/" + list[0].Name, "/etc/passwd", other, old} {
		if _, err := r.Read(name); !errors.Is(err, sdk.ErrNotFound) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// Somebody else's profile goes on, and the turn is counted as left out.
func TestBusy(t *testing.T) {
	var mine bytes.Buffer
	if err := pprof.StartCPUProfile(&mine); err != nil {
		t.Fatal(err)
	}
	r, count := open(t, t.TempDir(), config.Profiling{Every: 10 * time.Millisecond, For: 5 * time.Millisecond, Keep: 3})
	eventually(t, "no turn was left out", func() bool { return count("busy") > 0 })
	pprof.StopCPUProfile()
	if mine.Len() == 0 {
		t.Error("the profile that was being made was ended")
	}
	eventually(t, "nothing is taken afterwards", func() bool { return count("taken") > 0 })
	r.Close()
}

// Without a period nothing is made, not even a folder; a folder that can't be made or written is said.
func TestOffAndBroken(t *testing.T) {
	home := t.TempDir()
	r, _ := open(t, home, config.Profiling{})
	if list, err := r.List(); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	if _, err := os.Stat(filepath.Join(home, profiling.Folder)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder: %v", err)
	}
	file := filepath.Join(home, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := profiling.Open(file, config.Profiling{Every: time.Second}, metrics.New(), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a folder below a file")
	}
	gone := t.TempDir()
	_, count := open(t, gone, config.Profiling{Every: 10 * time.Millisecond, For: time.Millisecond, Keep: 1})
	if err := os.RemoveAll(filepath.Join(gone, profiling.Folder)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a folder that is gone is not noticed", func() bool { return count("failed") > 0 })
}
