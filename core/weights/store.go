package weights

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pimoe/pimoe/core/weights/embedded"
	"github.com/pimoe/pimoe/sdk"
)

// Store is a folder of imported models, DIR/models/NAME each. Any number of processes may use one folder at a time.
// Beside the models lie dot files, which no model's name can be: .NAME.lock, .NAME.partial (an import under way or to
// be resumed), .NAME.profile (what its experts contribute) and, for a moment, .NAME.old.
type Store struct {
	models string
	now    func() time.Time
	free   func(path string) (uint64, error)
	swap   func(a, b string) error // exchanges two folders in one step, where the file system can
	// fault, if not nil, is asked before each change to the disk; its error is the change's.
	fault func(op, path string) error
}

// PlanFunc splits a checkpoint. It finds the checkpoint's config.json in ck.Dir().
type PlanFunc = func(ck *Checkpoint) (Plan, error)

// OpenStore opens the store in a folder, which is made if it is missing. A store that can only be read serves the
// models it has.
func OpenStore(dir string) (*Store, error) {
	if dir == "" {
		return nil, fmt.Errorf("open store: no folder: set PIMOE_HOME: %w", sdk.ErrInvalid)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{models: filepath.Join(dir, "models"), now: time.Now, free: freeSpace, swap: exchange}
	if err := os.MkdirAll(s.models, 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", writeError(s.models, err))
	}
	return s, nil
}

// Find reads a model's manifest and checks that its files are all there. It does not read them: Verify does.
func (s *Store) Find(name string) (*Model, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	m, err := s.read(name)
	if errors.Is(err, sdk.ErrInvalid) {
		return s.read(name) // the manifest may have been one model's and the files the next one's, put there meanwhile
	}
	return m, err
}

func (s *Store) read(name string) (*Model, error) {
	dir := filepath.Join(s.models, name)
	man, err := readManifest(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("model %s: not in the store %s; `pimoe import` puts it there: %w", name, s.models, sdk.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", name, err)
	}
	if man.Name != name {
		return nil, fmt.Errorf("model %s: the manifest in %s is of model %s: %w", name, dir, man.Name, sdk.ErrInvalid)
	}
	m := &Model{Name: name, Dir: dir, Manifest: man}
	if err := m.complete(); err != nil {
		return nil, fmt.Errorf("model %s: %w", name, err)
	}
	return m, nil
}

// List is the manifests of all models, by name. Broken models are left out and named in the error, beside which the
// list of the others is valid.
func (s *Store) List() ([]Manifest, error) {
	entries, err := os.ReadDir(s.models)
	if err != nil {
		return nil, fmt.Errorf("list store: %w", err)
	}
	var list []Manifest
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		m, err := s.Find(e.Name())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, m.Manifest)
	}
	return list, errors.Join(errs...)
}

// Import splits the checkpoint in srcDir into the store. It is idempotent: if the store has the model from the same
// unchanged source and every file's digest is right, nothing is written. The model appears at once and whole, or not at
// all, and replaces an older one of that name. An import that was cut short, by an error or a kill, goes on where it
// stopped; while another import of that name runs, also in another process, it waits for it, until ctx is done.
//
// progress, if not nil, is called from the calling goroutine with bytes done and in all. The embedded model's name is
// refused, because its own import would replace the model again.
func (s *Store) Import(ctx context.Context, name, srcDir string, plan PlanFunc, progress func(done, total int64)) (*Model, error) {
	if name == embedded.Name {
		return nil, fmt.Errorf("import %s: the name belongs to the embedded model, choose another: %w", name, sdk.ErrInvalid)
	}
	src, err := folder(srcDir)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", name, err)
	}
	return s.importFrom(ctx, name, src, plan, progress)
}

// ImportEmbedded is Import for the embedded model.
func (s *Store) ImportEmbedded(ctx context.Context, plan PlanFunc, progress func(done, total int64)) (*Model, error) {
	return s.importFrom(ctx, embedded.Name, builtin(), plan, progress)
}

// Ensure is the stored model of a folder, imported under NameFor(srcDir) if it is missing, broken or stale.
func (s *Store) Ensure(ctx context.Context, srcDir string, plan PlanFunc, progress func(done, total int64)) (*Model, error) {
	src, err := folder(srcDir)
	if err != nil {
		return nil, err
	}
	return s.ensure(ctx, NameFor(srcDir), src, plan, progress)
}

// EnsureEmbedded is the stored copy of the embedded model. It goes by content: an executable with other weights imports
// them anew.
func (s *Store) EnsureEmbedded(ctx context.Context, plan PlanFunc) (*Model, error) {
	return s.ensure(ctx, embedded.Name, builtin(), plan, nil)
}

func (s *Store) ensure(ctx context.Context, name string, src source, plan PlanFunc, progress func(done, total int64)) (*Model, error) {
	m, err := s.Find(name)
	switch {
	case err == nil:
		stale, err := src.changed(m.Manifest.Source)
		if err != nil || !stale {
			return m, err
		}
	case !errors.Is(err, sdk.ErrNotFound) && !errors.Is(err, sdk.ErrInvalid):
		return nil, err
	}
	return s.importFrom(ctx, name, src, plan, progress)
}

// Stale reports whether the folder's files are no longer those that the model was imported from, by their names, sizes
// and modification times.
func Stale(m *Model, srcDir string) (bool, error) {
	src, err := folder(srcDir)
	if err != nil {
		return false, err
	}
	return src.changed(m.Manifest.Source)
}

// NameFor is the store name of a folder that nobody named: the base of its path, and 8 digits that tell two folders
// with the same base apart.
func NameFor(srcDir string) string {
	abs, err := filepath.Abs(srcDir)
	if err != nil {
		abs = filepath.Clean(srcDir) // the working directory is gone; Import will say so
	}
	base := strings.Map(func(r rune) rune {
		if r < 128 && strings.ContainsRune("._-", r) || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, filepath.Base(abs))
	base = strings.TrimLeft(base, "._-")
	if base == "" {
		base = "model"
	}
	sum := sha256.Sum256([]byte(abs))
	return base[:min(len(base), 100)] + "-" + hex.EncodeToString(sum[:4])
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$`)

func checkName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("model name %s: letters, digits, '.', '_' and '-', at most 128, the first a letter or digit: %w", quote(name), sdk.ErrInvalid)
	}
	return nil
}

// hidden is a dot file beside a model.
func (s *Store) hidden(name, suffix string) string {
	return filepath.Join(s.models, "."+name+suffix)
}

// writeError explains why the store could not be written.
func writeError(path string, err error) error {
	var named *fs.PathError
	if !errors.As(err, &named) {
		err = fmt.Errorf("%s: %w", path, err)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: the disk is full: free some space, or set PIMOE_HOME to a folder on another: %w", err, sdk.ErrUnavailable)
	}
	return fmt.Errorf("%w: PIMOE_HOME chooses another folder for the store: %w", err, sdk.ErrUnavailable)
}

// source is where an import reads.
type source struct {
	dir       string // absolute path, or embeddedDir
	fsys      fs.FS
	byContent bool // files are told apart by content, not by time
}

const embeddedDir = "embedded"

func builtin() source { return source{dir: embeddedDir, fsys: embedded.Files(), byContent: true} }

func folder(dir string) (source, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return source{}, fmt.Errorf("source folder %s: %w", dir, err)
	}
	st, err := os.Stat(abs)
	if err != nil {
		return source{}, openError(abs, err)
	}
	if !st.IsDir() {
		return source{}, invalid(abs, "", "is no folder")
	}
	return source{dir: abs, fsys: os.DirFS(abs)}, nil
}

// sidePatterns are the files that a stored model takes over as they are.
var sidePatterns = []string{"config.json", "generation_config.json", "tokenizer*.json", "chat_template.*", "special_tokens_map.json"}

// sides are the source's files that are copied, sorted.
func (s source) sides() ([]string, error) {
	entries, err := fs.ReadDir(s.fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("read source folder %s: %w", s.dir, err)
	}
	var names []string
	for _, e := range entries {
		for _, pattern := range sidePatterns {
			if ok, _ := filepath.Match(pattern, e.Name()); ok && !e.IsDir() {
				names = append(names, e.Name())
				break
			}
		}
	}
	return names, nil
}

// fingerprint tells the source's present state from any other. weights are the files of the checkpoint.
func (s source) fingerprint(weights []string) (Source, error) {
	names, err := s.sides()
	if err != nil {
		return Source{}, err
	}
	names = append(append(names, singleFile, indexFile), weights...)
	slices.Sort(names)
	out := Source{Dir: s.dir, Files: map[string]SourceFile{}}
	for _, name := range slices.Compact(names) {
		st, err := fs.Stat(s.fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Source{}, fmt.Errorf("read source folder %s: %w", s.dir, err)
		}
		f := SourceFile{Size: st.Size()}
		if s.byContent {
			f.SHA256, err = s.hash(name)
		} else {
			f.MTime = st.ModTime().UnixNano()
		}
		if err != nil {
			return Source{}, err
		}
		out.Files[name] = f
	}
	return out, nil
}

// hash reads a file of the executable: 20 MB take some ten milliseconds.
func (s source) hash(name string) (string, error) {
	f, err := s.fsys.Open(name)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	return hashOf(context.Background(), f)
}

// changed compares the source's files, not its path, with a recorded fingerprint.
func (s source) changed(was Source) (bool, error) {
	is, err := s.fingerprint(slices.Collect(maps.Keys(was.Files)))
	if err != nil {
		return false, err
	}
	return !maps.Equal(is.Files, was.Files), nil
}
