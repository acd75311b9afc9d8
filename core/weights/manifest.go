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

// Extents says where the tensors of one of the model's files lie, by its header alone.
func (m *Model) Extents(file string) (map[string]Extent, error) {
	f, err := openRegular(filepath.Join(m.Dir, file))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Scan(f, f.Name())
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
		return m.Shards().compare(TrunkFile, want, FileDigest{SHA256: sum, Size: int64(len(b))})
	})
}

// Shards are the model's files as they were imported.
func (m *Model) Shards() Shards {
	return Shards{
		Dir: m.Dir, Files: m.Manifest.Files, owner: "model " + m.Name, book: verdicts{m.book()},
		advice: "it changed after the import; remove the folder " + m.Dir + " and import the model again",
	}
}

// book is the file that keeps what was found out about the model's files.
func (m *Model) book() string { return filepath.Join(filepath.Dir(m.Dir), "."+m.Name+".verified") }

// Profile is where the measured contributions of the model's experts are kept, beside the model.
func (m *Model) Profile() string { return filepath.Join(filepath.Dir(m.Dir), "."+m.Name+".profile") }

// Verify is Verify of the model's Shards.
func (m *Model) Verify(ctx context.Context, file string, f *os.File) error {
	return m.Shards().Verify(ctx, file, f)
}

// Recheck is Recheck of the model's Shards.
func (m *Model) Recheck(ctx context.Context, file string, f *os.File) error {
	return m.Shards().Recheck(ctx, file, f)
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
			return m.Shards().compare(name, want, FileDigest{Size: st.Size()})
		}
	}
	return nil
}
