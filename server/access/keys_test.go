package access

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// bench is a file of keys, a server's view of it, and a clock.
type bench struct {
	*testing.T
	now  time.Time
	path string
	file *KeyFile
	keys *Keys
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, now: noon, path: filepath.Join(t.TempDir(), "keys.json")}
	clock := func() time.Time { return b.now }
	b.file = NewKeyFile(b.path, clock)
	keys, err := OpenKeys(b.path, clock, func(string, ...any) {})
	if err != nil {
		t.Fatal(err)
	}
	b.keys = keys
	return b
}

func (b *bench) make(t Template) (Record, string) {
	b.Helper()
	if t.Tenant == "" {
		t.Tenant = "x"
	}
	r, key, err := b.file.Create(t)
	if err != nil {
		b.Fatal(err)
	}
	return r, key
}

// expect asks the server's view, a second later.
func (b *bench) expect(key string, class error) Principal {
	b.Helper()
	b.now = b.now.Add(time.Second)
	p, err := b.keys.Authenticate(key)
	if !errors.Is(err, class) || (class == nil) != (err == nil) {
		b.Errorf("%v, want %v", err, class)
	}
	if err != nil && strings.Contains(err.Error(), key[len(keyPrefix)+idLen+1:]) {
		b.Errorf("the error quotes the key: %v", err)
	}
	return p
}

func TestKeysLiveAndEnd(t *testing.T) {
	b := newBench(t)
	if b.keys.Any() {
		t.Error("there are keys without a file")
	}
	r, key := b.make(Template{Role: Operator, Scopes: []string{"experts"}, Expires: noon.Add(time.Hour)})
	if p := b.expect(key, nil); p.ID != "key:"+r.ID || p.Role != Operator || p.Tenant != "x" || len(p.Scopes) != 1 {
		t.Errorf("principal %+v", p)
	}
	if !b.keys.Any() {
		t.Error("a key that was just made makes no server guarded")
	}
	next, newer, err := b.file.Rotate(r.ID, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	b.expect(key, nil)
	b.expect(newer, nil)
	if _, _, err := b.file.Rotate(r.ID, time.Minute); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("rotated twice: %v", err)
	}
	b.now = b.now.Add(time.Minute)
	b.expect(key, ErrExpired)
	b.expect(newer, nil)
	if _, err := b.file.Revoke(next.ID); err != nil {
		t.Fatal(err)
	}
	b.expect(newer, ErrInvalid)
	if _, _, err := b.file.Rotate(next.ID, time.Minute); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("a revoked key has a successor: %v", err)
	}
	if _, err := b.file.Revoke("aaaaaaaa"); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("revoke of nothing: %v", err)
	}
	if !b.keys.Any() {
		t.Error("the end of the last key has opened the server")
	}
	if err := os.Remove(b.path); err != nil {
		t.Fatal(err)
	}
	b.expect(key, ErrInvalid)
	if !b.keys.Any() {
		t.Error("the end of the file has opened the server")
	}
}

func TestTheFileHoldsNoKey(t *testing.T) {
	b := newBench(t)
	r, key := b.make(Template{Role: User, Name: "ci"})
	b.expect(key, nil)
	b.keys.Close()
	for _, name := range []string{b.path, b.path + ".used"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), key[len(keyPrefix)+idLen+1:]) || !strings.Contains(string(text), r.ID) {
			t.Errorf("%s: %s", name, text)
		}
		if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, st.Mode(), err)
		}
	}
	if used := b.file.LastUsed()[r.ID]; !used.Equal(noon) {
		t.Errorf("last used %s: want the hour alone", used)
	}
}

func TestBrokenFiles(t *testing.T) {
	b := newBench(t)
	_, key := b.make(Template{Role: User})
	b.expect(key, nil)
	good, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"no JSON": "x", "other version": `{"version":2,"keys":[]}`, "unknown field": `{"version":1,"keys":[],"x":1}`, "role": strings.Replace(string(good), `"user"`, `"root"`, 1), "tenant": strings.Replace(string(good), `"x"`, `"a b"`, 1),
	} {
		if err := os.WriteFile(b.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b.expect(key, nil) // what was read before stays in force
		if _, err := OpenKeys(b.path, time.Now, nil); err == nil {
			t.Errorf("%s: a server starts with it", name)
		}
	}
	if err := os.WriteFile(b.path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(b.path, 0o622); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeys(b.path, time.Now, nil); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can write: %v", err)
	}
}

func TestHostileKeys(t *testing.T) {
	b := newBench(t)
	_, key := b.make(Template{Role: User})
	_, stranger := newKey()
	for _, bad := range []string{
		stranger, key[:keyLen-1], key + "a", strings.ToUpper(key), keyPrefix, key[:len(keyPrefix)+idLen+1] + stranger[len(keyPrefix)+idLen+1:],
		strings.Replace(key, "_", "-", 1), key + "\x00", key[:20] + "1" + key[21:], strings.Repeat(keyPrefix, 100), key[:keyLen-1] + "=",
	} {
		b.now = b.now.Add(time.Second)
		if _, err := b.keys.Authenticate(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.100q: %v", bad, err)
		}
	}
	b.expect(key, nil)
}

// Several processes make keys at once; none is lost.
func TestKeysMadeAtOnce(t *testing.T) {
	b := newBench(t)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if _, _, err := NewKeyFile(b.path, time.Now).Create(Template{Role: User, Tenant: "x"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if list, err := b.file.List(); err != nil || len(list) != 16 {
		t.Errorf("%d keys, %v", len(list), err)
	}
}

func FuzzKey(f *testing.F) {
	_, key := newKey()
	f.Add(key)
	f.Add(key[1:])
	f.Add(strings.ToUpper(key))
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := parseKey(s)
		if ok && (len(s) != keyLen || !strings.HasPrefix(s, keyPrefix+id+"_") || keySum(s[:keyLen-sumLen]) != s[keyLen-sumLen:]) {
			t.Errorf("%q is taken", s)
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"keys":[{"id":"aaaaaaaa","role":"user","tenant":"x","created":"2026-01-01T00:00:00Z","salt":"AAAAAAAAAAAAAAAAAAAAAA==","hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseDocument(b)
		for _, r := range d.Keys {
			if role, perr := ParseRole(r.Role); err == nil && (perr != nil || role == NoRole || checkTenant(r.Tenant) != nil) {
				t.Errorf("taken: %+v", r)
			}
		}
	})
}
