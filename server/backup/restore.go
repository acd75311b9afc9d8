package backup

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/atomicfile"
)

// Verify reads a backup to its end and holds every entry against the manifest.
func Verify(ctx context.Context, r io.Reader) (*Manifest, error) {
	return read(ctx, r, func(File, io.Reader) error { return nil })
}

// read checks a backup and shows each entry, which is known to be right only when read returns nil.
func read(ctx context.Context, r io.Reader, show func(File, io.Reader) error) (*Manifest, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("backup: "+format+": %w", append(args, sdk.ErrInvalid)...)
	}
	zip, err := gzip.NewReader(r)
	if err != nil {
		return nil, bad("it is no backup (%v)", err)
	}
	t := tar.NewReader(zip)
	m, err := readManifest(t)
	if err != nil {
		return nil, err
	}
	for _, want := range m.Files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := t.Next()
		if err != nil {
			return nil, bad("%s is missing (%v)", want.Name, err)
		}
		if h.Name != want.Name || h.Size != want.Size || h.Typeflag != tar.TypeReg {
			return nil, bad("%s of %d bytes is where the manifest has %s of %d", h.Name, h.Size, want.Name, want.Size)
		}
		sum := sha256.New()
		body := io.TeeReader(t, sum)
		if err := show(want, body); err != nil {
			return nil, err
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			return nil, bad("%s can't be read to its end (%v)", want.Name, err)
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != want.SHA256 {
			return nil, bad("%s is damaged: its digest is %s, the manifest has %s", want.Name, got, want.SHA256)
		}
	}
	if h, err := t.Next(); !errors.Is(err, io.EOF) {
		if err == nil {
			return nil, bad("%s is not in the manifest", h.Name)
		}
		return nil, bad("it does not end (%v)", err)
	}
	if _, err := io.Copy(io.Discard, zip); err != nil { // the checksum is at the end
		return nil, bad("it is cut off (%v)", err)
	}
	return m, nil
}

func readManifest(t *tar.Reader) (*Manifest, error) {
	h, err := t.Next()
	if err != nil || h.Name != manifestName || h.Size > maxManifest {
		return nil, fmt.Errorf("backup: it does not begin with a manifest: %w", sdk.ErrInvalid)
	}
	b, err := io.ReadAll(t)
	if err != nil {
		return nil, fmt.Errorf("backup: its manifest can't be read (%v): %w", err, sdk.ErrInvalid)
	}
	var version struct{ Schema int }
	if err := json.Unmarshal(b, &version); err != nil || version.Schema < 1 {
		return nil, fmt.Errorf("backup: its manifest is no manifest: %w", sdk.ErrInvalid)
	}
	if version.Schema > Schema {
		return nil, fmt.Errorf("backup: a newer PiMoE has made it (schema %d, this one reads %d): use that version: %w", version.Schema, Schema, sdk.ErrUnsupported)
	}
	m := &Manifest{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("backup: its manifest can't be read (%v): %w", err, sdk.ErrInvalid)
	}
	for _, f := range m.Files {
		if _, known := (Paths{Audit: "x"}).place(f.Name); !known {
			return nil, fmt.Errorf("backup: %.100q is no file of a home: %w", f.Name, sdk.ErrInvalid)
		}
	}
	return m, nil
}

// Check judges a restored database before it is put in its place.
type Check func(path string) error

// Restore puts the files of a backup where the paths say. Everything is read and checked before the first file is in its
// place, and a file that is there already is never replaced: the error names it. What has no path is left out, and returned.
func Restore(ctx context.Context, r io.Reader, to Paths, database Check) (m *Manifest, left []string, err error) {
	if err := os.MkdirAll(to.Home, 0o700); err != nil {
		return nil, nil, fmt.Errorf("restore: %w", err)
	}
	dir, err := os.MkdirTemp(to.Home, ".restore-")
	if err != nil {
		return nil, nil, fmt.Errorf("restore: %w", err)
	}
	defer os.RemoveAll(dir)
	m, err = read(ctx, r, func(f File, body io.Reader) error {
		return unpack(filepath.Join(dir, filepath.FromSlash(f.Name)), body)
	})
	if err != nil {
		return nil, nil, err
	}
	var moves [][2]string
	for _, f := range m.Files {
		path, _ := to.place(f.Name)
		if path == "" {
			left = append(left, f.Name)
			continue
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("restore: %s is there already, and nothing is put over it: choose an empty home: %w", path, sdk.ErrInvalid)
		}
		moves = append(moves, [2]string{filepath.Join(dir, filepath.FromSlash(f.Name)), path})
		if f.Name == stateName && database != nil {
			if err := database(moves[len(moves)-1][0]); err != nil {
				return nil, nil, err
			}
		}
	}
	for i, mv := range moves {
		if err := Place(mv[0], mv[1]); err != nil {
			for _, done := range moves[:i] {
				err = errors.Join(err, os.Remove(done[1]))
			}
			return nil, nil, fmt.Errorf("restore %s: %w", strings.TrimPrefix(mv[0], dir), err)
		}
	}
	return m, left, nil
}

func unpack(path string, body io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	_, err = io.Copy(f, body)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// Place gives a file another name, in a folder that is made where there is none, and never in the place of another file. The old
// name may stay. What has been placed is there after a power failure, too; after an error nothing is.
func Place(from, to string) error {
	dir := filepath.Dir(to)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	err := os.Link(from, to) // fails where something has come meanwhile, as does the copy
	if err != nil && !errors.Is(err, fs.ErrExist) {
		err = copyFile(from, to) // to another disk, or on one that has no links
	}
	if errors.Is(err, fs.ErrExist) {
		return err
	}
	if err == nil {
		err = errors.Join(syncFile(to), atomicfile.SyncFolder(dir))
	}
	if err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
