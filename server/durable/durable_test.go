package durable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/seal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// notes is a part with two versions: the second has written an "x" behind every record.
func notes(versions int) Part {
	all := []func(*Tx) error{
		func(tx *Tx) error { return tx.Make("notes") },
		func(tx *Tx) error {
			changed := map[string]string{}
			err := tx.Each("notes", nil, func(k, v []byte) (bool, error) { changed[string(k)] = string(v) + "x"; return true, nil })
			for k, v := range changed {
				err = errors.Join(err, tx.Put("notes", []byte(k), []byte(v)))
			}
			return err
		},
	}
	return Part{Name: "notes", Buckets: []string{"notes"}, Migrations: all[:versions]}
}

type fixture struct {
	testing.TB
	path string
	keys string
}

func newFixture(t testing.TB) *fixture {
	dir := t.TempDir()
	return &fixture{t, filepath.Join(dir, "sub", "state.db"), filepath.Join(dir, "keys")}
}

func (f *fixture) options(sealed bool, parts ...Part) Options {
	f.Helper()
	o := Options{Path: f.path, Parts: parts, Log: slog.New(slog.DiscardHandler), Patience: 50 * time.Millisecond}
	if sealed {
		box, err := seal.Load(config.Encryption{KeyFile: f.keys})
		if err != nil {
			f.Fatal(err)
		}
		o.Box = box
	}
	return o
}

func (f *fixture) open(o Options) *DB {
	f.Helper()
	d, err := Open(o)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := d.Close(); err != nil {
			f.Error(err)
		}
	})
	return d
}

func (f *fixture) put(d *DB, key, record string) {
	f.Helper()
	if err := d.Update(context.Background(), func(tx *Tx) error { return tx.Put("notes", []byte(key), []byte(record)) }); err != nil {
		f.Fatal(err)
	}
}

func get(d *DB, key string) (record string, err error) {
	err = d.View(context.Background(), func(tx *Tx) error {
		b, err := tx.Get("notes", []byte(key))
		record = string(b)
		return err
	})
	return record, err
}

// raw changes the file behind the package's back.
func (f *fixture) raw(change func(tx *bbolt.Tx) error) {
	f.Helper()
	b, err := bbolt.Open(f.path, 0o600, nil)
	if err != nil {
		f.Fatal(err)
	}
	if err := errors.Join(b.Update(change), b.Close()); err != nil {
		f.Fatal(err)
	}
}

func TestMigrations(t *testing.T) {
	f := newFixture(t)
	d := f.open(f.options(false, notes(1)))
	f.put(d, "a", "one")
	d.Close()

	broken := notes(2)
	broken.Migrations = append([]func(*Tx) error{}, broken.Migrations...)
	broken.Migrations[1] = func(tx *Tx) error {
		return errors.Join(tx.Put("notes", []byte("a"), []byte("half")), errors.New("the disk is on fire"))
	}
	if _, err := Open(f.options(false, broken)); err == nil || !strings.Contains(err.Error(), "migrate notes from version 1: the disk is on fire") {
		t.Fatalf("a migration that fails: %v", err)
	}
	for range 2 { // once, and not again
		d = f.open(f.options(false, notes(2)))
		if got, err := get(d, "a"); got != "onex" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		d.Close()
	}
	for name, parts := range map[string][]Part{"an older version": {notes(1)}, "one without the part": {}} {
		_, err := Open(f.options(false, parts...))
		if !errors.Is(err, sdk.ErrUnsupported) || !strings.Contains(err.Error(), "newer PiMoE") || !strings.Contains(err.Error(), "notes is version 2") || !strings.Contains(err.Error(), "state.file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	d = f.open(f.options(false, notes(2)))
	if got, err := get(d, "a"); got != "onex" || err != nil {
		t.Errorf("after refusals: %q, %v", got, err)
	}
	d.Close()
	f.raw(func(tx *bbolt.Tx) error { return tx.Bucket(schemaBucket).Put([]byte("version of notes"), []byte("-1")) })
	if _, err := Open(f.options(false, notes(2))); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("a version that is no number: %v", err)
	}
}

// TestOneOwner: a second host waits for the file and has it as soon as the first lets go.
func TestOneOwner(t *testing.T) {
	f := newFixture(t)
	first := f.open(f.options(false, notes(1)))
	f.put(first, "a", "one")
	second := f.open(f.options(false, notes(1)))
	if _, err := get(second, "a"); !errors.Is(err, ErrElsewhere) || !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("while another host has it: %v", err)
	}
	third := f.open(f.options(false, notes(1)))
	if err := third.Close(); err != nil { // while it waits
		t.Error(err)
	}
	patient, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := make(chan error, 1)
	go func() { got <- second.Ready(patient) }()
	first.Close()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if got, err := get(second, "a"); got != "one" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := get(first, "a"); !errors.Is(err, ErrElsewhere) {
		t.Errorf("the first one, after it: %v", err)
	}
	if err := first.Update(t.Context(), func(*Tx) error { return nil }); !errors.Is(err, ErrElsewhere) {
		t.Errorf("the first one writes: %v", err)
	}
}

// TestNewerFileWhileWaiting: a file that turns out to be unusable is said to be so, and does not end the host.
func TestNewerFileWhileWaiting(t *testing.T) {
	f := newFixture(t)
	newer := f.open(f.options(false, notes(2)))
	older := f.open(f.options(false, notes(1)))
	newer.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := older.Ready(ctx); !errors.Is(err, sdk.ErrUnsupported) || !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if _, err := get(older, "a"); !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

// TestReadOnly: a home that can't be written is no reason not to serve.
func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // to whom every folder of a disk is writable
		dir = "/sys"
	}
	f := &fixture{TB: t, path: filepath.Join(dir, "sub", "state.db")}
	d := f.open(f.options(false, notes(1)))
	if _, err := get(d, "a"); !errors.Is(err, sdk.ErrUnavailable) || errors.Is(err, ErrElsewhere) {
		t.Errorf("%v", err)
	}
}

func TestSealing(t *testing.T) {
	f := newFixture(t)
	d := f.open(f.options(false, notes(1)))
	for i := range 20 {
		f.put(d, fmt.Sprint("key", i), "secret "+strings.Repeat("y", 1<<20))
	}
	d.Close()
	first, err := seal.Create(f.keys)
	if err != nil {
		t.Fatal(err)
	}
	sealedBy := func(id string) {
		t.Helper()
		d := f.open(f.options(true, notes(1)))
		if got, err := get(d, "key7"); !strings.HasPrefix(got, "secret") || err != nil {
			t.Fatalf("%.20q, %v", got, err)
		}
		d.Close()
		n := 0
		f.raw(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("notes")).ForEach(func(k, v []byte) error {
				if n++; !strings.Contains(string(v[:64]), id) || strings.Contains(string(v), "secret") {
					t.Errorf("%s is not sealed with %s: %.32q", k, id, v)
				}
				return nil
			})
		})
		if n != 20 {
			t.Errorf("%d records", n)
		}
		file, err := os.ReadFile(f.path)
		if err != nil || strings.Contains(string(file), "secret yyy") {
			t.Errorf("the file still has what was not sealed: %v", err)
		}
	}
	if err := os.WriteFile(f.path+".new", []byte("half a file"), 0o600); err != nil { // of a host that was killed
		t.Fatal(err)
	}
	sealedBy(first) // turned on
	second, err := seal.Rotate(f.keys)
	if err != nil {
		t.Fatal(err)
	}
	sealedBy(second) // rotated: the first key is not needed any more
	if err := seal.Forget(f.keys, first); err != nil {
		t.Fatal(err)
	}
	sealedBy(second)

	if _, err := Open(f.options(false, notes(1))); !errors.Is(err, seal.ErrKey) || !strings.Contains(err.Error(), second) {
		t.Errorf("without the key: %v", err)
	}
	f.raw(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("notes"))
		return errors.Join(b.Put([]byte("moved"), b.Get([]byte("key1"))), b.Put([]byte("plain"), []byte("\x00planted")))
	})
	d = f.open(f.options(true, notes(1)))
	if got, err := get(d, "moved"); !errors.Is(err, seal.ErrBroken) || got != "" {
		t.Errorf("a record in another's place: %.20q, %v", got, err)
	}
	if got, err := get(d, "plain"); !errors.Is(err, seal.ErrPlain) || got != "" {
		t.Errorf("a record that was never sealed: %q, %v", got, err)
	}
	d.Close()
	if _, err := seal.Rotate(f.keys); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(f.options(true, notes(1))); !errors.Is(err, seal.ErrPlain) && !errors.Is(err, seal.ErrBroken) {
		t.Errorf("a rotation does not seal what was planted: %v", err)
	}
}

func TestOrder(t *testing.T) {
	f := newFixture(t)
	d := f.open(f.options(false, notes(1)))
	for _, k := range []string{"a\x001", "b\x001", "b\x002", "b\x003", "bb\x001", "c\x001"} {
		f.put(d, k, k)
	}
	walk := func(each func(tx *Tx, f func(k, _ []byte) (bool, error)) error, most int) string {
		var out []string
		if err := d.View(t.Context(), func(tx *Tx) error {
			return each(tx, func(k, _ []byte) (bool, error) {
				out = append(out, strings.ReplaceAll(string(k), "\x00", "/"))
				return len(out) < most, nil
			})
		}); err != nil {
			t.Fatal(err)
		}
		return strings.Join(out, " ")
	}
	before := func(prefix, key string) func(*Tx, func(k, _ []byte) (bool, error)) error {
		return func(tx *Tx, f func(k, _ []byte) (bool, error)) error {
			return tx.EachBefore("notes", []byte(prefix), []byte(key), f)
		}
	}
	forward := func(tx *Tx, f func(k, _ []byte) (bool, error)) error { return tx.Each("notes", []byte("b\x00"), f) }
	for _, c := range []struct{ name, got, want string }{
		{"forward", walk(forward, 9), "b/1 b/2 b/3"},
		{"two", walk(forward, 2), "b/1 b/2"},
		{"backward", walk(before("b\x00", "b\x01"), 9), "b/3 b/2 b/1"},
		{"before one", walk(before("b\x00", "b\x003"), 9), "b/2 b/1"},
		{"before one that is gone", walk(before("b\x00", "b\x0025"), 9), "b/2 b/1"},
		{"the last tenant", walk(before("c\x00", "c\x01"), 9), "c/1"},
		{"before the first", walk(before("a\x00", "a\x000"), 9), ""},
		{"nobody", walk(before("zz\x00", "zz\x01"), 9), ""},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.name, c.got, c.want)
		}
	}
	if err := d.Update(t.Context(), func(tx *Tx) error {
		return errors.Join(tx.Put("notes", []byte("a"), []byte("lost")), errors.New("no"))
	}); err == nil {
		t.Error("an error is lost")
	}
	if got, _ := get(d, "a"); got != "" {
		t.Errorf("a transaction that failed has written %q", got)
	}
}
