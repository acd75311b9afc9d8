package weights

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pimoe/pimoe/sdk"
)

// Shards are weight files with known digests in one folder: a stored model's own, or those of one of its packed variants.
type Shards struct {
	Dir   string
	Files map[string]FileDigest

	owner, advice string // for errors
	book          verdicts
}

// Path is where a file of that name lies.
func (s Shards) Path(file string) string { return filepath.Join(s.Dir, file) }

// Open opens a file after its digest was checked, as by Verify.
func (s Shards) Open(ctx context.Context, file string) (*os.File, error) {
	f, err := openRegular(s.Path(file))
	if err != nil {
		return nil, err
	}
	if err := s.Verify(ctx, file, f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Verify checks that the open file f is the file of that name, as it was imported or packed. It is hashed once per identity
// (device, inode, size, modification and change time): concurrent callers share one run, and the verdict is kept beside
// the model for processes to come, so that a start reads no weights that did not change since they were last read. What
// changes a disk's bits behind the file system's back is therefore found by Recheck alone. Verify does not move f's
// offset. A file that differs is sdk.ErrInvalid.
func (s Shards) Verify(ctx context.Context, file string, f *os.File) error {
	return s.verify(ctx, file, f, false)
}

// Recheck is Verify that hashes the file again, whatever is known of it, and takes its time: for sweeps that look for rot
// while others compute.
func (s Shards) Recheck(ctx context.Context, file string, f *os.File) error {
	return s.verify(ctx, file, f, true)
}

func (s Shards) verify(ctx context.Context, file string, f *os.File, fresh bool) error {
	name := filepath.Base(file) // whole paths are welcome, too
	want, ok := s.Files[name]
	if !ok {
		return fmt.Errorf("%s: no file %s in the manifest: %w", s.owner, quote(name), sdk.ErrNotFound)
	}
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("verify %s of %s: %w", name, s.owner, err)
	}
	if !st.Mode().IsRegular() || st.Size() != want.Size {
		return s.compare(name, want, FileDigest{Size: st.Size()})
	}
	sum, err := known.digest(ctx, f, st.Size(), fresh, s.book)
	if err != nil {
		return fmt.Errorf("verify %s of %s: %w", name, s.owner, err)
	}
	return s.compare(name, want, FileDigest{SHA256: sum, Size: st.Size()})
}

func (s Shards) compare(name string, want, got FileDigest) error {
	path := s.Path(name)
	if want.Size != got.Size {
		return fmt.Errorf("%s: has %d bytes, the manifest says %d: %s: %w", path, got.Size, want.Size, s.advice, sdk.ErrInvalid)
	}
	if want.SHA256 != got.SHA256 {
		return fmt.Errorf("%s: sha256 is %s, the manifest says %s: %s: %w", path, got.SHA256, want.SHA256, s.advice, sdk.ErrInvalid)
	}
	return nil
}
