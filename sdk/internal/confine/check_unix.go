//go:build unix

package confine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrUnsafe is a file that somebody else may have written.
var ErrUnsafe = errors.New("not safe to execute")

// OpenFile opens an executable without following a link in its last step, so that what is checked is what is read.
// With trusting the checks of owner and mode are left out, and links are followed.
func OpenFile(path string, trusting bool) (*os.File, error) {
	flags := unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK
	if !trusting {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Open(path, flags, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%w: it is a symbolic link", ErrUnsafe)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if err := checkFile(f, path, trusting); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func checkFile(f *os.File, path string, trusting bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%w: it is no regular file", ErrUnsafe)
	}
	if trusting {
		return nil
	}
	if err := ownedSafely(&st, "the file"); err != nil {
		return err
	}
	if err := unix.Stat(filepath.Dir(path), &st); err != nil {
		return fmt.Errorf("stat its folder: %w", err)
	}
	return ownedSafely(&st, "its folder")
}

// ownedSafely refuses what another user than root and the host's own can change.
func ownedSafely(st *unix.Stat_t, what string) error {
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: %s belongs to user %d, neither to root nor to the host's user", ErrUnsafe, what, st.Uid)
	}
	if mode := uint32(st.Mode) & 0o7777; mode&0o022 != 0 {
		return fmt.Errorf("%w: %s can be written by others (mode %04o); chmod go-w", ErrUnsafe, what, mode)
	}
	return nil
}

// Digest is that of a file's bytes, "sha256:...".
func Digest(f *os.File) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, 1<<40)); err != nil {
		return "", fmt.Errorf("hash: %w", err)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}
