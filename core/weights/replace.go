package weights

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pimoe/pimoe/sdk"
)

// replace puts the partial folder in the model's place. Where the system can exchange two names at once, the model is
// never missing; elsewhere it is for an instant, and recover mends what a crash in that instant leaves.
func (s *Store) replace(name string) error {
	final, partial, old := filepath.Join(s.models, name), s.hidden(name, ".partial"), s.hidden(name, ".old")
	if _, err := os.Lstat(final); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(partial, final)
	}
	if err := s.swap(partial, final); err == nil {
		os.RemoveAll(partial) // the old model; if it stays, the next import removes it
		return nil
	}
	if err := os.Rename(final, old); err != nil {
		return err
	}
	if err := os.Rename(partial, final); err != nil {
		return errors.Join(err, os.Rename(old, final))
	}
	os.RemoveAll(old)
	return nil
}

// recover ends a replacement that was cut short between its two renames.
func (s *Store) recover(name string) error {
	final, old := filepath.Join(s.models, name), s.hidden(name, ".old")
	if _, err := os.Lstat(old); err != nil {
		return nil
	}
	if _, err := os.Lstat(final); err == nil {
		return s.change("remove", old, func() error { return os.RemoveAll(old) })
	}
	return s.change("rename", final, func() error { return os.Rename(old, final) })
}

// cleanOthers removes the partial folders of other names whose source is gone or has changed, so that nobody can go on
// with them. It is best effort, and leaves alone what is being imported just now.
func (s *Store) cleanOthers(name string) {
	entries, err := os.ReadDir(s.models)
	if err != nil {
		return
	}
	for _, e := range entries {
		other, ok := strings.CutSuffix(strings.TrimPrefix(e.Name(), "."), ".partial")
		path := s.hidden(other, ".partial")
		if !ok || other == name || filepath.Base(path) != e.Name() || !validName.MatchString(other) {
			continue
		}
		unlock, err := s.lock(context.Background(), other, false)
		if err != nil {
			continue
		}
		if s.abandoned(path) {
			os.RemoveAll(path)
		}
		_ = unlock() // the descriptor is closed whatever it says
	}
}

// abandoned reports whether nobody can go on with a partial folder.
func (s *Store) abandoned(path string) bool {
	m, err := readManifest(filepath.Join(path, stateFile))
	if errors.Is(err, sdk.ErrUnsupported) || err == nil && m.Source.Dir == embeddedDir {
		return false // of a newer pimoe, or of the executable's own model
	}
	if err != nil {
		return true
	}
	src, err := folder(m.Source.Dir)
	if err != nil {
		return true
	}
	changed, err := src.changed(m.Source)
	return err != nil || changed
}
