// Package atomicfile replaces a file in one step: whoever reads it meanwhile sees all of the old one or all of the new one, and
// when Write has returned a power failure does not bring the old one back: a key that was revoked stays revoked.
//
// The packages of server that keep small files use it; those whose files grow, or are copied, ask for SyncFolder alone. It
// refuses to lock: two writers at a time leave the file of one of them.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Write puts content in the place of the file at path, with that mode whatever the umask is. After an error the old file is there.
func Write(path string, content []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return SyncFolder(dir)
}

// SyncFolder makes the names in a folder last.
func SyncFolder(dir string) error {
	if runtime.GOOS == "windows" { // which has no such call
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
