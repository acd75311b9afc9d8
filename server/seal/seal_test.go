package seal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
)

// made is a Box of a new file with n keys.
func made(t testing.TB, n int) (*Box, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sub", "keys")
	if _, err := Create(path); err != nil {
		t.Fatal(err)
	}
	for range n - 1 {
		if _, err := Rotate(path); err != nil {
			t.Fatal(err)
		}
	}
	return load(t, path), path
}

func load(t testing.TB, path string) *Box {
	t.Helper()
	b, err := Load(config.Encryption{KeyFile: path})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSealedOpensOnlyInItsPlace(t *testing.T) {
	b, _ := made(t, 2)
	other, _ := made(t, 1)
	for _, plain := range [][]byte{nil, {0}, []byte("a secret of acme"), bytes.Repeat([]byte("x"), 1<<20)} {
		sealed := b.Seal("jobs.result", []byte("acme/1"), plain)
		if len(plain) > 8 && bytes.Contains(sealed, plain[:8]) {
			t.Error("the record can be read")
		}
		if got, err := b.Open("jobs.result", []byte("acme/1"), sealed); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes: %v", len(plain), err)
		}
		if again := b.Seal("jobs.result", []byte("acme/1"), plain); bytes.Equal(again, sealed) {
			t.Error("equal records look equal")
		}
		for name, open := range map[string]func() ([]byte, error){
			"purpose":  func() ([]byte, error) { return b.Open("jobs.request", []byte("acme/1"), sealed) },
			"context":  func() ([]byte, error) { return b.Open("jobs.result", []byte("acme/2"), sealed) },
			"boundary": func() ([]byte, error) { return b.Open("jobs.resultacme", []byte("/1"), sealed) },
		} {
			if got, err := open(); !errors.Is(err, ErrBroken) || got != nil {
				t.Errorf("another %s: %q, %v", name, got, err)
			}
		}
		if _, err := other.Open("jobs.result", []byte("acme/1"), sealed); !errors.Is(err, ErrKey) {
			t.Errorf("another file: %v", err)
		}
	}
}

// TestEveryChangedByteIsNoticed changes each byte of a record, and cuts it at each length.
func TestEveryChangedByteIsNoticed(t *testing.T) {
	b, _ := made(t, 1)
	sealed := b.Seal("p", []byte("c"), []byte("plain text"))
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 0x40
		if got, err := b.Open("p", []byte("c"), bad); err == nil {
			t.Errorf("byte %d: %q", i, got)
		}
		if got, err := b.Open("p", []byte("c"), sealed[:i]); err == nil {
			t.Errorf("cut at %d: %q", i, got)
		}
	}
}

func TestRotation(t *testing.T) {
	old, path := made(t, 1)
	first := old.Seal("p", []byte("c"), []byte("text"))
	id, err := Rotate(path)
	if err != nil {
		t.Fatal(err)
	}
	now := load(t, path)
	if got, err := now.Open("p", []byte("c"), first); err != nil || string(got) != "text" {
		t.Fatalf("an old record: %q, %v", got, err)
	}
	second, changed, err := now.Reseal("p", []byte("c"), first)
	if err != nil || !changed || !strings.Contains(string(second), id) {
		t.Fatalf("reseal: %q, %v, %v", second, changed, err)
	}
	if again, changed, err := now.Reseal("p", []byte("c"), second); err != nil || changed || !bytes.Equal(again, second) {
		t.Errorf("reseal again: %v, %v", changed, err)
	}
	if _, err := old.Open("p", []byte("c"), second); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), id) {
		t.Errorf("a host with the old file: %v", err)
	}
	ids, err := IDs(path)
	if err != nil || len(ids) != 2 || ids[0] != id {
		t.Fatalf("%v, %v", ids, err)
	}
	if err := Forget(path, id); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("forget the one that seals: %v", err)
	}
	if err := Forget(path, "unknown"); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("forget one that is not there: %v", err)
	}
	if err := Forget(path, ids[1]); err != nil {
		t.Fatal(err)
	}
	now = load(t, path)
	if _, err := now.Open("p", []byte("c"), first); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), ids[1]) {
		t.Errorf("after its key is gone: %v", err)
	}
	if got, err := now.Open("p", []byte("c"), second); err != nil || string(got) != "text" {
		t.Errorf("the resealed one: %q, %v", got, err)
	}
}

func TestOff(t *testing.T) {
	var off *Box
	b, err := Load(config.Encryption{})
	if b != nil || err != nil || b.On() {
		t.Fatalf("%v, %v", b, err)
	}
	plain := off.Seal("p", []byte("c"), []byte("text"))
	if got, err := off.Open("p", []byte("c"), plain); err != nil || string(got) != "text" {
		t.Errorf("%q, %v", got, err)
	}
	on, _ := made(t, 1)
	if got, err := on.Open("p", []byte("c"), plain); !errors.Is(err, ErrPlain) || got != nil {
		t.Errorf("a plain record where encryption is on: %q, %v", got, err)
	}
	sealed, changed, err := on.Reseal("p", []byte("c"), plain)
	if err != nil || !changed || bytes.Contains(sealed, []byte("text")) {
		t.Errorf("turning it on: %q, %v, %v", sealed, changed, err)
	}
	if _, err := off.Open("p", []byte("c"), sealed); !errors.Is(err, ErrKey) {
		t.Errorf("a sealed record where it is off: %v", err)
	}
	if _, _, err := off.Reseal("p", []byte("c"), sealed); !errors.Is(err, ErrKey) {
		t.Errorf("turning it off: %v", err)
	}
}

func TestMAC(t *testing.T) {
	b, path := made(t, 1)
	one := b.MAC("p", []byte("a"), []byte("bc"))
	if one != load(t, path).MAC("p", []byte("a"), []byte("bc")) {
		t.Error("another process computes another MAC")
	}
	var off *Box
	other, _ := made(t, 1)
	for name, mac := range map[string][32]byte{
		"purpose": b.MAC("q", []byte("a"), []byte("bc")), "boundary": b.MAC("p", []byte("ab"), []byte("c")),
		"fewer": b.MAC("p", []byte("abc")), "key": other.MAC("p", []byte("a"), []byte("bc")), "off": off.MAC("p", []byte("a"), []byte("bc")),
	} {
		if mac == one {
			t.Errorf("another %s gives the same MAC", name)
		}
	}
	if off.MAC("p", []byte("a")) != off.MAC("p", []byte("a")) || off.MAC("p", []byte("ab"), nil) == off.MAC("p", []byte("a"), []byte("b")) {
		t.Error("off does not name what it is given")
	}
}

func TestKeyFiles(t *testing.T) {
	good := NewLine()
	id, secret, _ := strings.Cut(good, ":")
	for name, c := range map[string]struct {
		text string
		keys int // -1 = refused
	}{
		"one":           {good, 1},
		"comments":      {"# keys\n\n" + good + "\r\n" + NewLine() + "\n", 2},
		"empty":         {"# none\n", 0},
		"no colon":      {secret, -1},
		"id":            {"A b:" + secret, -1},
		"no id":         {":" + secret, -1},
		"short":         {id + ":c2hvcnQ=", -1},
		"not base64":    {id + ":" + strings.Repeat("*", 44), -1},
		"loose base64":  {id + ":" + strings.TrimRight(secret, "="), -1},
		"twice":         {good + "\n" + good, -1},
		"guessable":     {id + ":" + strings.Repeat("A", 43) + "=", -1},
		"space":         {id + ": " + secret, -1},
		"too large":     {strings.Repeat("#", maxFile) + "\n" + good, -1},
		"id of 33":      {strings.Repeat("a", 33) + ":" + secret, -1},
		"another colon": {id + ":" + secret + ":" + secret, -1},
	} {
		keys, err := parseKeys([]byte(c.text))
		if c.keys < 0 && (!errors.Is(err, sdk.ErrInvalid) || strings.Contains(err.Error(), secret)) || c.keys >= 0 && (err != nil || len(keys) != c.keys) {
			t.Errorf("%s: %d keys, %v", name, len(keys), err)
		}
	}
	_, path := made(t, 1)
	if _, err := Create(path); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("a second Create: %v", err)
	}
	if err := os.WriteFile(path+".new", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Rotate(path); !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("two edits at a time: %v", err)
	}
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o440: true, 0o400: true, 0o604: false, 0o620: false, 0o601: false, 0o602: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(config.Encryption{KeyFile: path}); (err == nil) != ok {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("# none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{empty, filepath.Join(t.TempDir(), "absent")} {
		if b, err := Load(config.Encryption{KeyFile: p}); b != nil || err == nil || !strings.Contains(err.Error(), "pimoe encryption new-key") {
			t.Errorf("%s: %v", filepath.Base(p), err)
		}
	}
}

// FuzzOpen: no bytes open that were not sealed, and none end the process.
func FuzzOpen(f *testing.F) {
	b, _ := made(f, 1)
	var off *Box
	f.Add([]byte{})
	f.Add([]byte{formatSealed})
	f.Add([]byte{formatSealed, 255, 'a'})
	f.Add(b.Seal("another", []byte("c"), []byte("text")))
	f.Add(off.Seal("p", []byte("c"), []byte("text")))
	f.Fuzz(func(t *testing.T, record []byte) {
		if got, err := b.Open("p", []byte("c"), record); err == nil {
			t.Errorf("%x opened to %q", record, got)
		}
		if got, err := off.Open("p", []byte("c"), record); err == nil && !bytes.Equal(off.Seal("p", []byte("c"), got), record) {
			t.Errorf("%x became %q", record, got)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(NewLine()))
	f.Add([]byte("# a\nb:c\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parseKeys(text)
		if err != nil {
			return
		}
		for _, k := range keys {
			if again, why := parseKey(k.line()); why != "" || again.id != k.id || !bytes.Equal(again.secret, k.secret) {
				t.Errorf("%q: %s", k.id, why)
			}
		}
	})
}
