// Package backup copies what a home has that can't be made again: the database of jobs and kept answers, API keys, the audit
// log, the configuration and, where that is asked for, encryption keys and models. A backup is one file, a gzipped tar whose
// first entry is a manifest with the digest of every other one.
//
// pimoe backup uses it. A server may run meanwhile: the database comes from it, as of one moment, and the audit log is taken
// between two records. The package refuses to put anything over a file that is there, to take a backup that is not whole or that
// a newer version has made, and to encrypt: a backup is as secret as the home, and whoever sends it elsewhere seals it.
package backup

import (
	"archive/tar"
	"bytes"
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
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Schema is the version of backups that this package writes and reads.
const Schema = 1

const (
	manifestName = "manifest.json"
	// maxManifest is far above a home with 16,000 files of a model.
	maxManifest = 16 << 20
)

// The names in a backup. Folders end in a slash.
const (
	stateName  = "state.db"
	keysName   = "keys.json"
	auditName  = "audit/"
	configName = "config.yaml"
	secretName = "encryption.keys"
	modelsName = "models/"
)

// Manifest says what is in a backup.
type Manifest struct {
	Schema  int       `json:"schema"`
	Version string    `json:"version"` // of the pimoe that made it
	Created time.Time `json:"created"`
	Home    string    `json:"home"`
	Files   []File    `json:"files"`
	Models  []Model   `json:"models"` // of the store, also those that are not in it
	Notes   []string  `json:"notes"`  // what is not in it, and why
}

// File is an entry.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Model names weights, so that whoever restores knows what to import.
type Model struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// Paths are where things are in a home. An empty one is left out.
type Paths struct {
	Home   string
	State  string
	Keys   string
	Audit  string // the log's own file
	Config string
	Secret string // the file of encryption keys
}

// place is where an entry belongs; ok is false for a name that no backup has.
func (p Paths) place(name string) (path string, ok bool) {
	switch name {
	case stateName:
		return p.State, true
	case keysName:
		return p.Keys, true
	case configName:
		return p.Config, true
	case secretName:
		return p.Secret, true
	}
	if rest, found := strings.CutPrefix(name, auditName); found && filepath.IsLocal(rest) && !strings.ContainsAny(rest, `/\`) {
		if p.Audit == "" {
			return "", true
		}
		return filepath.Join(filepath.Dir(p.Audit), rest), true
	}
	if rest, found := strings.CutPrefix(name, modelsName); found && filepath.IsLocal(rest) {
		return filepath.Join(p.Home, "models", filepath.FromSlash(rest)), true
	}
	return "", false
}

// Source is what a backup is made of.
type Source struct {
	Paths
	// Snapshot writes the database as of one moment; nil = there is none.
	Snapshot func(ctx context.Context, w io.Writer) error
	Models   []Model
	// WithModels also takes the weights, WithSecret the encryption keys.
	WithModels, WithSecret bool
	Version                string
	Now                    time.Time
}

// entry is a file on its way into a backup.
type entry struct {
	File
	path string
}

// Create writes a backup to w. It works in dir, a folder for the time being.
func Create(ctx context.Context, s Source, dir string, w io.Writer) (*Manifest, error) {
	c := &collection{ctx: ctx, dir: dir, manifest: Manifest{
		Schema: Schema, Version: s.Version, Created: s.Now.UTC().Truncate(time.Second), Home: s.Home, Files: []File{}, Models: s.Models, Notes: []string{},
	}}
	if err := c.collect(s); err != nil {
		return nil, fmt.Errorf("backup of %s: %w", s.Home, err)
	}
	if err := c.write(w); err != nil {
		return nil, fmt.Errorf("write backup of %s: %w", s.Home, err)
	}
	return &c.manifest, nil
}

// collection gathers entries.
type collection struct {
	ctx      context.Context
	dir      string
	entries  []entry
	manifest Manifest
}

func (c *collection) note(format string, args ...any) {
	c.manifest.Notes = append(c.manifest.Notes, fmt.Sprintf(format, args...))
}

// add takes a file as it is now.
func (c *collection) add(name, path string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	e := entry{File{name, n, hex.EncodeToString(sum.Sum(nil))}, path}
	c.entries = append(c.entries, e)
	c.manifest.Files = append(c.manifest.Files, e.File)
	return nil
}

// addIfThere is add for a file that a home need not have.
func (c *collection) addIfThere(name, path string) error {
	if path == "" {
		return nil
	}
	err := c.add(name, path)
	if errors.Is(err, fs.ErrNotExist) {
		c.note("%s: there is none", name)
		return nil
	}
	return err
}

func (c *collection) collect(s Source) error {
	if err := c.state(s); err != nil {
		return err
	}
	for name, path := range map[string]string{keysName: s.Keys, configName: s.Config} {
		if err := c.addIfThere(name, path); err != nil {
			return err
		}
	}
	if err := c.audit(s.Audit); err != nil {
		return err
	}
	if err := c.secret(s); err != nil {
		return err
	}
	return c.models(s)
}

// state copies the database through the folder: its size is only known afterwards.
func (c *collection) state(s Source) error {
	if s.Snapshot == nil {
		c.note("%s: state.file is off, or no server has run yet", stateName)
		return nil
	}
	path := filepath.Join(c.dir, stateName)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(s.Snapshot(c.ctx, f), f.Close()); err != nil {
		return err
	}
	return c.add(stateName, path)
}

func (c *collection) secret(s Source) error {
	if s.Secret == "" {
		return nil
	}
	if !s.WithSecret {
		c.note("%s: left out; without the file %s jobs and kept answers of this backup can't be opened", secretName, s.Secret)
		return nil
	}
	return c.add(secretName, s.Secret)
}

// models takes the store's folders, but what lies in them for the moment only.
func (c *collection) models(s Source) error {
	if !s.WithModels {
		if len(s.Models) > 0 {
			c.note("models: left out; import them again, or copy the folder models")
		}
		return nil
	}
	root := filepath.Join(s.Home, "models")
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == root {
			return nil
		}
		if err != nil {
			return err
		}
		if strings.HasSuffix(d.Name(), ".partial") && d.IsDir() {
			return filepath.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return c.add(modelsName+filepath.ToSlash(rel), path)
	})
}

// write writes manifest and entries. An entry that has changed since it was taken is an error.
func (c *collection) write(w io.Writer) error {
	zip := gzip.NewWriter(w)
	t := tar.NewWriter(zip)
	text, err := json.MarshalIndent(c.manifest, "", "  ")
	if err != nil {
		return err
	}
	if err := c.put(t, File{Name: manifestName, Size: int64(len(text))}, bytes.NewReader(text)); err != nil {
		return err
	}
	for _, e := range c.entries {
		if err := c.copy(t, e); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), zip.Close())
}

func (c *collection) put(t *tar.Writer, f File, r io.Reader) error {
	if err := t.WriteHeader(&tar.Header{Name: f.Name, Size: f.Size, Mode: 0o600, ModTime: c.manifest.Created, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := io.CopyN(t, r, f.Size)
	return err
}

func (c *collection) copy(t *tar.Writer, e entry) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	f, err := os.Open(e.path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if err := c.put(t, e.File, io.TeeReader(f, sum)); err != nil {
		return fmt.Errorf("%s: %w", e.Name, err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != e.SHA256 {
		return fmt.Errorf("%s has changed while it was copied; try again: %w", e.path, sdk.ErrUnavailable)
	}
	return nil
}
