package weights

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// lockPoll is how often a waiting import looks whether the other has ended: flock itself can't be cancelled.
const lockPoll = 25 * time.Millisecond

var errLocked = errors.New("another import is running")

// writeJSON puts a value into a file in one step.
func (s *Store) writeJSON(path string, v any, durable bool) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	next := path + ".next"
	if _, err := s.create(next, durable, func(w io.Writer) error { _, err := w.Write(append(b, '\n')); return err }); err != nil {
		return err
	}
	return s.change("rename", path, func() error { return os.Rename(next, path) })
}

// change makes one change to the disk, or what the injected fault says instead.
func (s *Store) change(op, path string, do func() error) error {
	if s.fault != nil {
		if err := s.fault(op, path); err != nil {
			return writeError(path, err)
		}
	}
	if err := do(); err != nil {
		return writeError(path, err)
	}
	return nil
}

// create writes a new file, hashing it on the way; an older file of that name goes first, so that a link is never
// followed. With durable the content is on the disk when it returns.
func (s *Store) create(path string, durable bool, content func(io.Writer) error) (FileDigest, error) {
	var f *os.File
	err := s.change("create", path, func() (err error) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	})
	if err != nil {
		return FileDigest{}, err
	}
	k := &sink{store: s, f: f, h: sha256.New()}
	err = content(k)
	if err == nil && durable {
		err = s.change("sync", path, f.Sync)
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = writeError(path, cerr)
	}
	return FileDigest{SHA256: hex.EncodeToString(k.h.Sum(nil)), Size: k.n}, err
}

// sink is a file that is hashed while it is written.
type sink struct {
	store *Store
	f     *os.File
	h     hash.Hash
	n     int64
}

func (k *sink) Write(b []byte) (n int, err error) {
	err = k.store.change("write", k.f.Name(), func() error {
		n, err = k.f.Write(b)
		return err
	})
	k.h.Write(b[:n])
	k.n += int64(n)
	return n, err
}

func (s *Store) lock(ctx context.Context, name string, wait bool) (func() error, error) {
	path := s.hidden(name, ".lock")
	unlock, err := lockFile(ctx, path, wait)
	if err == nil || errors.Is(err, errLocked) || errors.Is(err, sdk.ErrUnsupported) || ctx.Err() != nil {
		return unlock, err
	}
	return nil, writeError(path, err)
}
