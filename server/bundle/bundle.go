// Package bundle is the file that a bug report needs: a tar.gz of named texts. What is in it comes from the server
// (GET /admin/debug/bundle) and from the command `pimoe debug bundle`, which adds what it sees itself.
//
// server and server/cmd/pimoe use it. Every text goes through the mask of secrets once more, whoever wrote it. The package
// refuses names that lead out of the folder, and to read more than a bound.
package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// File is one text.
type File struct {
	Name string // with slashes, below the bundle's folder
	Data []byte
}

// maxFile and maxFiles bound what is read: a server with a thousand processes is far below.
const (
	maxFile  = 64 << 20
	maxFiles = 64
)

// Write makes the tar.gz. folder is the one that all files are in; clean takes secrets out of a text.
func Write(w io.Writer, folder string, files []File, clean func(string) string, now time.Time) error {
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	for _, f := range files {
		if !fs.ValidPath(f.Name) {
			return fmt.Errorf("bundle: file %q: %w", f.Name, sdk.ErrInvalid)
		}
		data := clean(string(f.Data))
		if err := t.WriteHeader(&tar.Header{Name: path.Join(folder, f.Name), Mode: 0o600, Size: int64(len(data)), ModTime: now}); err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
		if _, err := io.WriteString(t, data); err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	return nil
}

// Read is the files of a bundle, without their folder.
func Read(b []byte) ([]File, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	var out []File
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
		if len(out) == maxFiles || h.Size > maxFile || !fs.ValidPath(h.Name) {
			return nil, fmt.Errorf("bundle: file %q of %d bytes: %w", h.Name, h.Size, sdk.ErrInvalid)
		}
		data, err := io.ReadAll(io.LimitReader(t, maxFile))
		if err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
		out = append(out, File{Name: path.Base(h.Name), Data: data})
	}
}
