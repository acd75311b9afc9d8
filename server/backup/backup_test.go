package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pathsOf is the usual home.
func pathsOf(home string) Paths {
	return Paths{
		Home: home, State: filepath.Join(home, "state.db"), Keys: filepath.Join(home, "keys.json"), Audit: filepath.Join(home, "audit", "audit.jsonl"),
		Config: filepath.Join(home, "config.yaml"), Secret: filepath.Join(home, "seal.keys"),
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// source is a home with one of each.
func source(t *testing.T) Source {
	t.Helper()
	p := pathsOf(t.TempDir())
	put(t, p.Keys, `{"version":1}`)
	put(t, p.Config, "mode: staging\n")
	put(t, p.Secret, "id:key\n")
	put(t, filepath.Join(p.Home, "models", "m", "manifest.json"), "{}")
	put(t, filepath.Join(p.Home, "models", "m", ".half.partial", "x"), "no")
	l := audit.Open(p.Audit, audit.Options{})
	for n := range 3 {
		if err := l.Record(audit.Record{Action: "test", Object: fmt.Sprint(n), Outcome: audit.Done}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return Source{
		Paths: p, Version: "1.2.3", Now: time.Unix(1700000000, 0), Models: []Model{{"m", "sha256:00"}},
		Snapshot: func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, "the database"); return err },
	}
}

func create(t *testing.T, s Source) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Create(t.Context(), s, t.TempDir(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRoundTrip(t *testing.T) {
	s := source(t)
	s.WithModels, s.WithSecret = true, true
	b := create(t, s)
	m, err := Verify(t.Context(), bytes.NewReader(b))
	if err != nil || m.Version != "1.2.3" || len(m.Models) != 1 {
		t.Fatalf("%+v %v", m, err)
	}
	to := pathsOf(filepath.Join(t.TempDir(), "new"))
	to.Audit = filepath.Join(to.Home, "elsewhere", "audit.jsonl")
	checked := ""
	_, left, err := Restore(t.Context(), bytes.NewReader(b), to, func(path string) error { checked = readFile(t, path); return nil })
	if err != nil || len(left) > 0 || checked != "the database" {
		t.Fatalf("%v %v %q", left, err, checked)
	}
	for from, path := range map[string]string{s.Keys: to.Keys, s.Config: to.Config, s.Secret: to.Secret, s.Audit: to.Audit, s.Audit + ".key": to.Audit + ".key",
		filepath.Join(s.Home, "models/m/manifest.json"): filepath.Join(to.Home, "models/m/manifest.json")} {
		if readFile(t, from) != readFile(t, path) {
			t.Errorf("%s is another file", path)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, st.Mode(), err)
		}
	}
	if rep, err := audit.Verify(to.Audit, "", false); err != nil || rep.Records != 3 {
		t.Errorf("the restored log: %+v %v", rep, err)
	}
	if found, _ := filepath.Glob(filepath.Join(to.Home, "models/m/.half*")); len(found) > 0 {
		t.Error("half an import was restored")
	}
	if found, _ := filepath.Glob(filepath.Join(to.Home, ".restore-*")); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
	_, _, err = Restore(t.Context(), bytes.NewReader(b), to, nil)
	if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("over a home: %v", err)
	}
}

func TestWhatIsLeftOut(t *testing.T) {
	s := source(t)
	b := create(t, s)
	if bytes.Contains(b, []byte("id:key")) {
		t.Error("it has the encryption keys")
	}
	m, err := Verify(t.Context(), bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range m.Files {
		if f.Name == secretName || strings.HasPrefix(f.Name, modelsName) || strings.HasSuffix(f.Name, ".lock") {
			t.Errorf("it has %s", f.Name)
		}
	}
	notes := strings.Join(m.Notes, "\n")
	if !strings.Contains(notes, "can't be opened") || !strings.Contains(notes, "models: left out") {
		t.Errorf("notes: %s", notes)
	}
	to := pathsOf(t.TempDir())
	to.State = ""
	if _, left, err := Restore(t.Context(), bytes.NewReader(b), to, nil); err != nil || fmt.Sprint(left) != "[state.db]" {
		t.Errorf("without a place for the database: %v %v", left, err)
	}
	empty := Source{Paths: pathsOf(t.TempDir())}
	if m, err := Verify(t.Context(), bytes.NewReader(create(t, empty))); err != nil || len(m.Files) > 0 {
		t.Errorf("an empty home: %+v %v", m, err)
	}
}

// Every byte that is changed is found, and nothing is restored from such a file.
func TestDamagedBackups(t *testing.T) {
	b := create(t, source(t))
	for at := 0; at < len(b); at += 7 {
		bad := bytes.Clone(b)
		bad[at] ^= 0x40
		if bytes.Equal(plain(t, bad), plain(t, b)) {
			continue // a byte of the frame that says nothing, such as the time
		}
		to := pathsOf(t.TempDir())
		if _, _, err := Restore(t.Context(), bytes.NewReader(bad), to, nil); err == nil {
			t.Fatalf("byte %d was changed, and it was restored", at)
		}
		if left, _ := filepath.Glob(filepath.Join(to.Home, "*")); len(left) > 0 {
			t.Fatalf("byte %d was changed, and there is %v", at, left)
		}
	}
	for _, n := range []int{0, 1, len(b) / 2, len(b) - 1} {
		if _, err := Verify(t.Context(), bytes.NewReader(b[:n])); err == nil {
			t.Errorf("cut off after %d of %d bytes", n, len(b))
		}
	}
}

// plain is what is inside the compression, nil where it can't be read.
func plain(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	out, err := io.ReadAll(z)
	if err != nil {
		return nil
	}
	return out
}

// forge makes a backup with a manifest and entries of a test's own.
func forge(t *testing.T, manifest any, entries ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	text, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range append([]*tar.Header{{Name: manifestName, Size: int64(len(text)), Typeflag: tar.TypeReg}}, entries...) {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Name == manifestName {
			w.Write(text)
		} else if _, err := io.WriteString(w, strings.Repeat("x", int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestForgedBackups(t *testing.T) {
	const none = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	file := func(name string) Manifest {
		return Manifest{Schema: 1, Files: []File{{Name: name, SHA256: none}}}
	}
	for name, c := range map[string]struct {
		backup []byte
		class  error
	}{
		"newer":             {forge(t, Manifest{Schema: Schema + 1}), sdk.ErrUnsupported},
		"no schema":         {forge(t, map[string]int{}), sdk.ErrInvalid},
		"out of the folder": {forge(t, file("models/../../x"), &tar.Header{Name: "models/../../x", Typeflag: tar.TypeReg}), sdk.ErrInvalid},
		"out of audit":      {forge(t, file("audit/../x"), &tar.Header{Name: "audit/../x", Typeflag: tar.TypeReg}), sdk.ErrInvalid},
		"absolute":          {forge(t, file("/etc/passwd"), &tar.Header{Name: "/etc/passwd", Typeflag: tar.TypeReg}), sdk.ErrInvalid},
		"unknown":           {forge(t, file("run/x"), &tar.Header{Name: "run/x", Typeflag: tar.TypeReg}), sdk.ErrInvalid},
		"a link":            {forge(t, file(keysName), &tar.Header{Name: keysName, Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), sdk.ErrInvalid},
		"more than it says": {forge(t, Manifest{Schema: 1}, &tar.Header{Name: keysName, Size: 3, Typeflag: tar.TypeReg}), sdk.ErrInvalid},
		"less than it says": {forge(t, file(keysName)), sdk.ErrInvalid},
		"another size":      {forge(t, file(keysName), &tar.Header{Name: keysName, Size: 3, Typeflag: tar.TypeReg}), sdk.ErrInvalid},
		"text":              {[]byte("hello"), sdk.ErrInvalid},
	} {
		to := pathsOf(t.TempDir())
		if _, _, err := Restore(t.Context(), bytes.NewReader(c.backup), to, nil); !errors.Is(err, c.class) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(to.Home, "*")); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// A database that this version would not open is not restored, nor is anything beside it.
func TestUnfitDatabase(t *testing.T) {
	b := create(t, source(t))
	to := pathsOf(t.TempDir())
	_, _, err := Restore(t.Context(), bytes.NewReader(b), to, func(string) error { return sdk.ErrUnsupported })
	if left, _ := filepath.Glob(filepath.Join(to.Home, "*")); !errors.Is(err, sdk.ErrUnsupported) || len(left) > 0 {
		t.Errorf("%v, left %v", err, left)
	}
}

// While records are written, the copy of the log is whole all the same.
func TestBackupOfALogInUse(t *testing.T) {
	s := source(t)
	l := audit.Open(s.Audit, audit.Options{MaxBytes: 4 << 10}) // files are put aside, too
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(15 * time.Millisecond):
				_ = l.Record(audit.Record{Action: "test", Object: strings.Repeat("o", 300), Outcome: audit.Done})
			}
		}
	}()
	for range 5 {
		b := create(t, s)
		to := pathsOf(t.TempDir())
		m, _, err := Restore(t.Context(), bytes.NewReader(b), to, nil)
		if err != nil {
			t.Fatal(err)
		}
		if notes := strings.Join(m.Notes, "\n"); strings.Contains(notes, "not whole") {
			t.Error(notes)
		}
		if rep, err := audit.Verify(to.Audit, "", false); err != nil || rep.Records < 3 {
			t.Errorf("%+v %v", rep, err)
		}
	}
	close(stop)
	<-done
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	text := readFile(t, s.Audit)
	put(t, s.Audit, strings.Replace(text, `"action":"test"`, `"action":"tost"`, 1))
	m, err := Verify(t.Context(), bytes.NewReader(create(t, s)))
	if err != nil || !strings.Contains(strings.Join(m.Notes, "\n"), "not whole") {
		t.Errorf("a log that was edited: %+v %v", m, err)
	}
}

// A file that changes while it is copied is no part of a backup.
func TestChangedMeanwhile(t *testing.T) {
	s := source(t)
	c := &collection{ctx: t.Context(), dir: t.TempDir()}
	if err := c.collect(s); err != nil {
		t.Fatal(err)
	}
	put(t, s.Keys, `{"version":2}`)
	if err := c.write(io.Discard); !errors.Is(err, sdk.ErrUnavailable) || !strings.Contains(err.Error(), "has changed") {
		t.Errorf("%v", err)
	}
	put(t, s.Keys, "")
	if err := c.write(io.Discard); err == nil {
		t.Error("a file that has shrunk")
	}
}

// A file is placed on its own disk and on another one, never over a file, and wholly or not at all.
func TestPlace(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	put(t, from, "content")
	folders := []string{filepath.Join(dir, "own")}
	if other, err := os.MkdirTemp("/dev/shm", "pimoe-"); err == nil { // another disk than the tests' on most machines
		t.Cleanup(func() { os.RemoveAll(other) })
		folders = append(folders, other)
	}
	for _, folder := range folders {
		to := filepath.Join(folder, "made", "to")
		if err := Place(from, to); err != nil || readFile(t, to) != "content" {
			t.Errorf("%s: %v", to, err)
		}
		put(t, filepath.Join(folder, "taken"), "older")
		if err := Place(from, filepath.Join(folder, "taken")); !errors.Is(err, fs.ErrExist) || readFile(t, filepath.Join(folder, "taken")) != "older" {
			t.Errorf("over a file in %s: %v", folder, err)
		}
		none := filepath.Join(folder, "none")
		if err := Place(filepath.Join(dir, "no such file"), none); err == nil {
			t.Error("nothing was placed")
		}
		if _, err := os.Lstat(none); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("half a file is left in %s: %v", folder, err)
		}
	}
}
