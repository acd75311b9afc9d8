package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// Difference is a file that is not as it would be rendered.
type Difference struct {
	Path string `json:"path"` // below the folder, with slashes
	How  string `json:"how"`  // missing, changed, mode, or extra: nothing renders it
}

// Compare says what differs between files and a folder. Extra are regular files that no target has; what is in a folder
// named secrets is not looked at.
func Compare(dir string, files []File) ([]Difference, error) {
	var out []Difference
	known := map[string]bool{}
	for _, f := range files {
		known[f.Path] = true
		how, err := differs(dir, f)
		if err != nil {
			return nil, err
		}
		if how != "" {
			out = append(out, Difference{f.Path, how})
		}
	}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "secrets" {
				return filepath.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(dir, name)
		if rel = filepath.ToSlash(rel); err == nil && !known[rel] {
			out = append(out, Difference{rel, "extra"})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compare with %s: %w", dir, err)
	}
	slices.SortFunc(out, func(a, b Difference) int { return bytes.Compare([]byte(a.Path), []byte(b.Path)) })
	return out, nil
}

func differs(dir string, f File) (string, error) {
	name, err := within(dir, f.Path)
	if err != nil {
		return "", err
	}
	have, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "missing", nil
	}
	if err != nil {
		return "", fmt.Errorf("compare: %w", err)
	}
	if !bytes.Equal(have, f.Data) {
		return "changed", nil
	}
	st, err := os.Stat(name)
	if err != nil {
		return "", fmt.Errorf("compare: %w", err)
	}
	if st.Mode()&0o100 != f.Mode&0o100 { // the rest is the user's umask
		return "mode", nil
	}
	return "", nil
}

// Write puts files into a folder, those that differ alone, and returns which. It removes nothing.
func Write(dir string, files []File) ([]Difference, error) {
	all, err := Compare(dir, files)
	if err != nil {
		return nil, err
	}
	var written []Difference
	for _, d := range all {
		at := slices.IndexFunc(files, func(f File) bool { return f.Path == d.Path })
		if at < 0 {
			continue
		}
		if err := write(dir, files[at]); err != nil {
			return written, err
		}
		written = append(written, d)
	}
	return written, nil
}

// write replaces a file as a whole: who reads it meanwhile sees the old one or the new one.
func write(dir string, f File) error {
	name, err := within(dir, f.Path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	temp, err := os.CreateTemp(filepath.Dir(name), ".render-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	_, err = temp.Write(f.Data)
	err = errors.Join(err, temp.Chmod(f.Mode), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Path, errors.Join(err, os.Remove(temp.Name())))
	}
	return nil
}

// within refuses the path of a file that would be outside of the folder.
func within(dir, name string) (string, error) {
	if !fs.ValidPath(name) || name == "." || path.Base(name) == "secrets" {
		return "", fmt.Errorf("file %q: want a path below the folder", name)
	}
	return filepath.Join(dir, filepath.FromSlash(name)), nil
}
