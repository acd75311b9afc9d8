package access

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/atomicfile"
)

// Record is what the file keeps of one API key. The key itself is in no file.
//
// Salt and Hash are a fast hash on purpose: a slow one, such as argon2, protects passwords, which people choose and
// which can be tried one after the other. A key is 256 random bits; there is nothing to try, and a slow hash would only
// let strangers keep the processor busy with wrong keys.
type Record struct {
	ID      string    `json:"id"`
	Name    string    `json:"name,omitempty"`
	Role    string    `json:"role"`
	Tenant  string    `json:"tenant"`
	Scopes  []string  `json:"scopes,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"`
	Revoked time.Time `json:"revoked,omitzero"`
	Rotated string    `json:"rotated_to,omitempty"` // id of its successor
	Salt    []byte    `json:"salt"`
	Hash    []byte    `json:"hash"`
}

// State is the record's state at a time: active, expired or revoked.
func (r Record) State(now time.Time) string {
	switch {
	case !r.Revoked.IsZero():
		return "revoked"
	case !r.Expires.IsZero() && !now.Before(r.Expires):
		return "expired"
	}
	return "active"
}

func hashKey(salt []byte, key string) []byte {
	h := hmac.New(sha256.New, salt)
	io.WriteString(h, key)
	return h.Sum(nil)
}

// document is the file.
type document struct {
	Version int      `json:"version"`
	Keys    []Record `json:"keys"`
}

const (
	documentVersion = 1
	maxDocument     = 16 << 20 // some 40,000 keys
)

// KeyFile is the file of API keys. Several processes may change it at once. Nothing is ever taken out of it: that a key
// has existed is what keeps a server guarded whose last key has been revoked.
type KeyFile struct {
	path string
	now  func() time.Time
}

// NewKeyFile is the file at path, which need not exist.
func NewKeyFile(path string, now func() time.Time) *KeyFile { return &KeyFile{path, now} }

// Template is what a new key is made with.
type Template struct {
	Name, Tenant string
	Role         Role
	Scopes       []string
	Expires      time.Time // zero = never
}

func (t Template) check(now time.Time) error {
	if len(t.Name) > 128 || strings.ContainsFunc(t.Name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("name: want at most 128 bytes on one line: %w", sdk.ErrInvalid)
	}
	if t.Role <= NoRole || t.Role > Admin {
		return fmt.Errorf("role: want one of %s: %w", strings.Join(Roles(), ", "), sdk.ErrInvalid)
	}
	if !t.Expires.IsZero() && !t.Expires.After(now) {
		return fmt.Errorf("expires: want a time to come: %w", sdk.ErrInvalid)
	}
	return checkTenant(t.Tenant)
}

// Create makes a key, which is returned here and nowhere again.
func (f *KeyFile) Create(t Template) (Record, string, error) {
	var r Record
	var key string
	err := f.change(func(d *document) (err error) {
		if err := t.check(f.now()); err != nil {
			return err
		}
		r, key = f.record(d, t)
		d.Keys = append(d.Keys, r)
		return nil
	})
	if err != nil {
		return Record{}, "", fmt.Errorf("create key: %w", err)
	}
	return r, key, nil
}

func (f *KeyFile) record(d *document, t Template) (Record, string) {
	id, key := newKey()
	for d.find(id) != nil { // 40 bits: happens once in a million files of a thousand keys
		id, key = newKey()
	}
	salt := make([]byte, 16)
	rand.Read(salt) // never fails
	return Record{
		ID: id, Name: t.Name, Role: t.Role.String(), Tenant: t.Tenant, Scopes: t.Scopes, Created: f.now().UTC().Truncate(time.Second),
		Expires: t.Expires.UTC().Truncate(time.Second), Salt: salt, Hash: hashKey(salt, key),
	}, key
}

// Revoke ends a key at once. Revoking it again changes nothing.
func (f *KeyFile) Revoke(id string) (Record, error) {
	var out Record
	err := f.change(func(d *document) error {
		r := d.find(id)
		if r == nil {
			return fmt.Errorf("key %.20q: %w", id, sdk.ErrNotFound)
		}
		if r.Revoked.IsZero() {
			r.Revoked = f.now().UTC().Truncate(time.Second)
		}
		out = *r
		return nil
	})
	if err != nil {
		return Record{}, fmt.Errorf("revoke key: %w", err)
	}
	return out, nil
}

// Rotate makes a key with the rights and the end of another, which then works for overlap and no longer.
func (f *KeyFile) Rotate(id string, overlap time.Duration) (Record, string, error) {
	var r Record
	var key string
	err := f.change(func(d *document) error {
		old := d.find(id)
		if old == nil {
			return fmt.Errorf("key %.20q: %w", id, sdk.ErrNotFound)
		}
		now := f.now()
		if state := old.State(now); state != "active" {
			return fmt.Errorf("key %s is %s: %w", id, state, sdk.ErrInvalid)
		}
		if old.Rotated != "" {
			return fmt.Errorf("key %s has been rotated to %s: rotate that one: %w", id, old.Rotated, sdk.ErrInvalid)
		}
		role, err := ParseRole(old.Role)
		if err != nil {
			return err
		}
		r, key = f.record(d, Template{old.Name, old.Tenant, role, old.Scopes, old.Expires})
		end := now.Add(overlap).UTC().Truncate(time.Second)
		if old.Expires.IsZero() || end.Before(old.Expires) {
			old.Expires = end
		}
		old.Rotated = r.ID
		d.Keys = append(d.Keys, r)
		return nil
	})
	if err != nil {
		return Record{}, "", fmt.Errorf("rotate key: %w", err)
	}
	return r, key, nil
}

// List is all records in the order of their making; none where the file does not exist.
func (f *KeyFile) List() ([]Record, error) {
	d, _, err := f.read()
	return d.Keys, err
}

func (d *document) find(id string) *Record {
	if i := slices.IndexFunc(d.Keys, func(r Record) bool { return r.ID == id }); i >= 0 {
		return &d.Keys[i]
	}
	return nil
}

// change reads, changes and replaces the file under a lock.
func (f *KeyFile) change(edit func(*document) error) error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	unlock, err := lockFile(f.path + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	d, _, err := f.read()
	if err != nil {
		return err
	}
	if err := edit(&d); err != nil {
		return err
	}
	return writeJSON(f.path, d)
}

// read is the file as it is now; an empty document where there is none.
func (f *KeyFile) read() (document, fs.FileInfo, error) {
	d := document{Version: documentVersion}
	file, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil, nil
	}
	if err != nil {
		return d, nil, fmt.Errorf("read keys: %w", err)
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return d, nil, fmt.Errorf("read keys: %w", err)
	}
	if runtime.GOOS != "windows" && st.Mode().Perm()&0o022 != 0 {
		return d, nil, fmt.Errorf("read keys %s: others can write it (mode %04o), and so give themselves keys; chmod 600: %w", f.path, st.Mode().Perm(), sdk.ErrInvalid)
	}
	b, err := io.ReadAll(io.LimitReader(file, maxDocument+1))
	if err != nil {
		return d, nil, fmt.Errorf("read keys: %w", err)
	}
	if d, err = parseDocument(b); err != nil {
		return document{}, nil, fmt.Errorf("read keys %s: %w", f.path, err)
	}
	return d, st, nil
}

// parseDocument reads the file's bytes and refuses records that no command has written.
func parseDocument(b []byte) (document, error) {
	var d document
	if len(b) > maxDocument {
		return d, fmt.Errorf("larger than %d bytes: %w", maxDocument, sdk.ErrInvalid)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return document{}, fmt.Errorf("%w: %w", sdk.ErrInvalid, err)
	}
	if d.Version != documentVersion {
		return document{}, fmt.Errorf("version %d is not known here, only %d: %w", d.Version, documentVersion, sdk.ErrUnsupported)
	}
	seen := map[string]bool{}
	for i, r := range d.Keys {
		_, err := ParseRole(r.Role)
		if err == nil {
			err = checkTenant(r.Tenant)
		}
		if err == nil && (len(r.ID) != idLen || !canonical(r.ID) || seen[r.ID] || len(r.Salt) < 16 || len(r.Hash) != sha256.Size) {
			err = fmt.Errorf("want its own id, a salt and a hash: %w", sdk.ErrInvalid)
		}
		if err != nil {
			return document{}, fmt.Errorf("keys[%d]: %w", i, err)
		}
		seen[r.ID] = true
	}
	return d, nil
}

// writeJSON replaces a file. Only its owner can read it.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(b, '\n'), 0o600)
}
