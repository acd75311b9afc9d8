//go:build unix

package confine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Tree is the digest of a folder, "sha256:..." of the names, kinds and contents of all that is in it, in the order of names.
// It refuses what others than root and the host's user can write, unless it trusts: such a folder is read where it lies, so
// that only they can change it afterwards.
func Tree(root string, trusting bool) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if err := addEntry(sum, path, rel, d, trusting); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// addEntry hashes one thing of a folder. Lengths come before contents, so that no two folders give the same bytes.
func addEntry(sum io.Writer, path, rel string, d fs.DirEntry, trusting bool) error {
	switch d.Type() {
	case fs.ModeDir:
		fmt.Fprintf(sum, "folder %q\n", rel)
		if trusting {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		return ownedSafely(&st, "the folder")
	case fs.ModeSymlink:
		to, err := os.Readlink(path)
		fmt.Fprintf(sum, "link %q %q\n", rel, to)
		return err
	case 0:
		return addFile(sum, path, rel, trusting)
	}
	return fmt.Errorf("%w: neither a file nor a folder nor a link", ErrUnsafe)
}

func addFile(sum io.Writer, path, rel string, trusting bool) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%w: it is no regular file", ErrUnsafe)
	}
	if !trusting {
		if err := ownedSafely(&st, "the file"); err != nil {
			return err
		}
	}
	fmt.Fprintf(sum, "file %q %d\n", rel, st.Size)
	n, err := io.Copy(sum, f)
	if err == nil && n != st.Size {
		err = fmt.Errorf("%w: it changes while it is read", ErrUnsafe)
	}
	return err
}
