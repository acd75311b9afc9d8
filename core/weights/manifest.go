package weights

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

const (
	// Schema is the version of the store's layout that this package reads and writes.
	Schema       = 1
	manifestFile = "manifest.json"
	digestPrefix = "sha256:"
	// maxManifest is far above a model of maxExperts files at 150 bytes each.
	maxManifest = 16 << 20
)

// Manifest describes a stored model.
type Manifest struct {
	Schema    int                   `json:"schema"`
	Name      string                `json:"name"`
	ModelType string                `json:"model_type"`
	Created   time.Time             `json:"created"`
	Experts   int                   `json:"experts"`
	Files     map[string]FileDigest `json:"files"`
	Source    Source                `json:"source"`
	Plan      string                `json:"plan"` // digest of the plan that split it
}

// FileDigest identifies a file's content.
type FileDigest struct {
	SHA256 string `json:"sha256"` // 64 hexadecimal digits
	Size   int64  `json:"size"`
}

// Source is what a model was imported from.
type Source struct {
	Dir   string                `json:"dir"` // absolute path, or "embedded"
	Files map[string]SourceFile `json:"files"`
}

// SourceFile is the fingerprint of one source file: its time, or its content for the embedded model, which has no times.
type SourceFile struct {
	Size   int64  `json:"size"`
	MTime  int64  `json:"mtime_ns,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
}

// Size is the bytes of all files together.
func (m Manifest) Size() int64 {
	n := int64(0)
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

func (s Source) equal(o Source) bool { return s.Dir == o.Dir && maps.Equal(s.Files, o.Files) }

// Model is a stored model. It is a value read once: an import that replaces the model afterwards shows when a file's
// digest no longer matches.
type Model struct {
	Name, Dir string
	Manifest  Manifest
}

// TrunkPath is the file with all weights that belong to no routed expert, under the checkpoint's own names.
func (m *Model) TrunkPath() string { return filepath.Join(m.Dir, TrunkFile) }

// ExpertPath is the file with the weights of expert e: tensors "layers.L.gate", ".up" and ".down".
func (m *Model) ExpertPath(e int) string { return filepath.Join(m.Dir, ExpertFile(e)) }

// Digest identifies the model's content, whatever its name and wherever and whenever it was imported:
// "sha256:" and the digest of the sorted lines "FILE SHA256".
func (m *Model) Digest() string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(m.Manifest.Files)) {
		fmt.Fprintf(h, "%s %s\n", name, m.Manifest.Files[name].SHA256)
	}
	return digestPrefix + hex.EncodeToString(h.Sum(nil))
}

// ReadTrunk reads the trunk into private memory and checks the digest of what it has read before it believes any of it.
func (m *Model) ReadTrunk(ctx context.Context) (*File, error) {
	want, ok := m.Manifest.Files[TrunkFile]
	if !ok {
		return nil, fmt.Errorf("model %s: no %s: %w", m.Name, TrunkFile, sdk.ErrNotFound)
	}
	f, err := openRegular(m.TrunkPath())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readPrivate(f, m.TrunkPath(), func(b []byte) error {
		sum, err := hashOf(ctx, bytes.NewReader(b))
		if err != nil {
			return fmt.Errorf("verify %s: %w", m.TrunkPath(), err)
		}
		return m.compare(TrunkFile, want, FileDigest{SHA256: sum, Size: int64(len(b))})
	})
}

// Verify checks that the open file f is the model's file of that name, as it was imported. The file is hashed once per
// identity (device, inode, size, modification and change time) in this process; concurrent callers share one run. It
// does not move f's offset. A file that differs is sdk.ErrInvalid.
func (m *Model) Verify(ctx context.Context, file string, f *os.File) error {
	return m.verify(ctx, file, f, false)
}

// Recheck is Verify that hashes the file again, whatever is known of it: for sweeps that look for rot.
func (m *Model) Recheck(ctx context.Context, file string, f *os.File) error {
	return m.verify(ctx, file, f, true)
}

func (m *Model) verify(ctx context.Context, file string, f *os.File, fresh bool) error {
	name := filepath.Base(file) // TrunkPath() and ExpertPath() are welcome, too
	want, ok := m.Manifest.Files[name]
	if !ok {
		return fmt.Errorf("model %s: no file %s in the manifest: %w", m.Name, quote(name), sdk.ErrNotFound)
	}
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("verify %s of model %s: %w", name, m.Name, err)
	}
	if !st.Mode().IsRegular() || st.Size() != want.Size {
		return m.compare(name, want, FileDigest{Size: st.Size()})
	}
	sum, err := known.digest(ctx, f, st.Size(), fresh)
	if err != nil {
		return fmt.Errorf("verify %s of model %s: %w", name, m.Name, err)
	}
	return m.compare(name, want, FileDigest{SHA256: sum, Size: st.Size()})
}

func (m *Model) compare(name string, want, got FileDigest) error {
	const advice = "it changed after the import; remove the folder %s and import the model again"
	path := filepath.Join(m.Dir, name)
	if want.Size != got.Size {
		return fmt.Errorf("%s: has %d bytes, the manifest says %d: "+advice+": %w", path, got.Size, want.Size, m.Dir, sdk.ErrInvalid)
	}
	if want.SHA256 != got.SHA256 {
		return fmt.Errorf("%s: sha256 is %s, the manifest says %s: "+advice+": %w", path, got.SHA256, want.SHA256, m.Dir, sdk.ErrInvalid)
	}
	return nil
}

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// readManifest reads a manifest file and checks what can be checked without the other files.
func readManifest(path string) (Manifest, error) {
	var m Manifest
	f, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return m, fmt.Errorf("read %s: %w", path, err)
	}
	var version struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return m, fmt.Errorf("%s: broken: %v: %w", path, err, sdk.ErrInvalid)
	}
	if version.Schema > Schema {
		return m, fmt.Errorf("%s: schema %d is newer than this pimoe's %d: use the pimoe that wrote it, or another PIMOE_HOME: %w",
			path, version.Schema, Schema, sdk.ErrUnsupported)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("%s: broken: %v: %w", path, err, sdk.ErrInvalid)
	}
	if err := m.check(); err != nil {
		return m, fmt.Errorf("%s: broken: %w: %w", path, err, sdk.ErrInvalid)
	}
	return m, nil
}

func (m Manifest) check() error {
	if m.Schema != Schema {
		return fmt.Errorf("schema %d", m.Schema)
	}
	if !validName.MatchString(m.Name) {
		return fmt.Errorf("name %s", quote(m.Name))
	}
	if m.Experts < 0 || m.Experts > maxExperts {
		return fmt.Errorf("%d experts", m.Experts)
	}
	for name, f := range m.Files {
		if !filepath.IsLocal(name) || name != filepath.Base(name) || name == manifestFile {
			return fmt.Errorf("file name %s", quote(name))
		}
		if !hexDigest.MatchString(f.SHA256) || f.Size < 0 {
			return fmt.Errorf("digest or size of %s", name)
		}
	}
	return nil
}

// complete checks that all the files are there, with their sizes: what can be known without reading them.
func (m *Model) complete() error {
	names := []string{TrunkFile}
	for e := range m.Manifest.Experts {
		names = append(names, ExpertFile(e))
	}
	for _, name := range names {
		if _, ok := m.Manifest.Files[name]; !ok {
			return fmt.Errorf("%s: lists no %s: %w", filepath.Join(m.Dir, manifestFile), name, sdk.ErrInvalid)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Manifest.Files)) {
		st, err := os.Lstat(filepath.Join(m.Dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: is missing: remove the folder and import the model again: %w", filepath.Join(m.Dir, name), sdk.ErrInvalid)
		}
		if err != nil {
			return err
		}
		if !st.Mode().IsRegular() {
			return fmt.Errorf("%s: is no regular file: %w", filepath.Join(m.Dir, name), sdk.ErrInvalid)
		}
		if want := m.Manifest.Files[name]; st.Size() != want.Size {
			return m.compare(name, want, FileDigest{Size: st.Size()})
		}
	}
	return nil
}
