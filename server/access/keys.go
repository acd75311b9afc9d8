package access

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"sync"
	"time"
)

const (
	recheck   = 500 * time.Millisecond // between two looks at the file: a look is one system call, a second is soon enough
	usedGrain = time.Hour              // of the times of last use: they tell idle keys from used ones, not who did what when
	usedEvery = 10 * time.Second       // between two writes of them
)

// Keys is the file of API keys in a running server: it follows the file's changes and notes which keys are used.
type Keys struct {
	file *KeyFile
	now  func() time.Time
	warn func(msg string, args ...any)

	mu      sync.Mutex // guards the rest
	looked  time.Time
	seen    fs.FileInfo
	records map[string]Record
	any     bool // there has been a key since the start
	used    map[string]time.Time
	dirty   bool
	wrote   time.Time
}

// OpenKeys reads the file, which need not exist. warn is told, without secrets, of a file that can't be read later: the
// keys that were read before then stay in force.
func OpenKeys(path string, now func() time.Time, warn func(msg string, args ...any)) (*Keys, error) {
	k := &Keys{file: NewKeyFile(path, now), now: now, warn: warn, records: map[string]Record{}}
	if err := k.load(); err != nil {
		return nil, err
	}
	k.used = readUsed(path)
	return k, nil
}

func (k *Keys) load() error {
	k.looked = k.now()
	d, st, err := k.file.read()
	if err != nil {
		return err
	}
	if st == nil && k.any { // a file that is gone takes its keys with it, and the server stays guarded
		k.warn("the file of API keys is gone: no key is valid", "file", k.file.path)
	}
	k.seen = st
	k.records = make(map[string]Record, len(d.Keys))
	for _, r := range d.Keys {
		k.records[r.ID] = r
	}
	k.any = k.any || len(d.Keys) > 0
	return nil
}

// follow reads the file again if it has changed.
func (k *Keys) follow() {
	if since := k.now().Sub(k.looked); since >= 0 && since < recheck {
		return
	}
	k.looked = k.now()
	st, err := os.Stat(k.file.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.warn("the file of API keys can't be looked at", "error", err.Error())
		return
	}
	if err != nil && k.seen == nil || err == nil && k.seen != nil && os.SameFile(st, k.seen) && st.ModTime().Equal(k.seen.ModTime()) && st.Size() == k.seen.Size() {
		return
	}
	if err := k.load(); err != nil {
		k.warn("the file of API keys can't be read: the keys read before stay in force", "error", err.Error())
	}
}

// Any reports whether there is, or has been, a key: a server with one asks everybody for a credential.
func (k *Keys) Any() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.follow()
	return k.any
}

// decoy is compared with where there is no record, so that both take the same time.
var decoy = Record{Salt: make([]byte, 16), Hash: make([]byte, sha256.Size)}

// Authenticate is the principal of a key.
func (k *Keys) Authenticate(key string) (Principal, error) {
	id, ok := parseKey(key)
	if !ok {
		return Principal{}, refuse(ErrInvalid, "no well-formed API key")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.follow()
	r, known := k.records[id]
	if !known {
		r = decoy
	}
	if !hmac.Equal(hashKey(r.Salt, key), r.Hash) || !known {
		return Principal{}, refuse(ErrInvalid, "API key %s is unknown", id)
	}
	now := k.now()
	switch r.State(now) {
	case "revoked":
		return Principal{}, refuse(ErrInvalid, "API key %s is revoked", id)
	case "expired":
		return Principal{}, refuse(ErrExpired, "API key %s expired at %s", id, r.Expires.Format(time.RFC3339))
	}
	role, err := ParseRole(r.Role)
	if err != nil {
		return Principal{}, refuse(ErrInvalid, "API key %s: %v", id, err)
	}
	k.note(id, now)
	return Principal{ID: "key:" + id, Kind: APIKey, Tenant: r.Tenant, Role: role, Scopes: r.Scopes}, nil
}

// note keeps the hour of a key's last use and writes the hours now and then.
func (k *Keys) note(id string, now time.Time) {
	if hour := now.UTC().Truncate(usedGrain); !k.used[id].Equal(hour) {
		k.used[id] = hour
		k.dirty = true
	}
	if k.dirty && now.Sub(k.wrote) >= usedEvery {
		k.writeUsed(now)
	}
}

func (k *Keys) writeUsed(now time.Time) {
	k.wrote, k.dirty = now, false
	maps.DeleteFunc(k.used, func(id string, _ time.Time) bool { _, known := k.records[id]; return !known })
	if err := writeJSON(usedPath(k.file.path), k.used); err != nil {
		k.warn("the times of last use of API keys can't be written", "error", err.Error())
	}
}

// Close writes what is not written yet.
func (k *Keys) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dirty {
		k.writeUsed(k.now())
	}
}

func usedPath(path string) string { return path + ".used" }

// LastUsed is the hour of each key's last use, as servers have written it.
func (f *KeyFile) LastUsed() map[string]time.Time { return readUsed(f.path) }

// readUsed has no error: what is missing or broken is unknown, which is no reason to refuse anybody.
func readUsed(path string) map[string]time.Time {
	out := map[string]time.Time{}
	if b, err := os.ReadFile(usedPath(path)); err == nil {
		_ = json.Unmarshal(b, &out)
	}
	if out == nil {
		out = map[string]time.Time{}
	}
	return out
}
