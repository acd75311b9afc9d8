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
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pimoe/pimoe/sdk"
)

// packedFolder holds a model's variants, MODEL/packed/NAME each.
const packedFolder = "packed"

// variantSchema is the version of a variant's files. Another one is made anew.
const variantSchema = 1

// Packed is one tensor of a packed file: Source's values in a packing of package pack, or as they are ("").
type Packed struct {
	Name, Source string
	Packing      string
}

// Recipe says what a packed variant holds: for each of the model's files that are in it, its tensors in order.
type Recipe struct {
	Name  string // of the variant: letters, digits, '.', '_' and '-'
	Files map[string][]Packed
}

// digest tells recipes apart.
func (r Recipe) digest() string {
	b, err := json.Marshal(r)
	if err != nil {
		panic("weights: a recipe does not marshal")
	}
	sum := sha256.Sum256(b)
	return digestPrefix + hex.EncodeToString(sum[:])
}

// Packings are the packings that occur in it, sorted.
func (r Recipe) Packings() []string {
	var list []string
	for _, tensors := range r.Files {
		for _, p := range tensors {
			if p.Packing != "" && !slices.Contains(list, p.Packing) {
				list = append(list, p.Packing)
			}
		}
	}
	slices.Sort(list)
	return list
}

// Variant is a packed variant of a stored model: files like the model's own, whose tensors lie as a backend's kernels want
// them. A view into a mapping of one is ready for use.
type Variant struct {
	Name string
	Shards
	Packings []string // that occur in it, sorted
	Bytes    int64    // of all files
}

// OpenTrunk maps the variant's trunk after its digest was checked. The mapping is read-only and shared with every other
// process of the model. Whoever writes into the store's file in spite of its manifest changes what is computed, until a
// sweep finds it, and whoever cuts it short kills the process: pimoe itself only ever replaces whole files.
func (v *Variant) OpenTrunk(ctx context.Context) (*File, error) {
	f, err := v.Open(ctx, TrunkFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return OpenFile(f, v.Path(TrunkFile))
}

// variantManifest describes a variant on the disk.
type variantManifest struct {
	Schema  int                   `json:"schema"`
	Name    string                `json:"name"`
	Recipe  string                `json:"recipe"` // digest
	Created time.Time             `json:"created"`
	Sources map[string]string     `json:"sources"` // sha256 of the model's file that each file was made of
	Files   map[string]FileDigest `json:"files"`
}

// of reports whether the manifest is of that recipe applied to those files.
func (m variantManifest) of(model *Model, r Recipe) bool {
	return m.Schema == variantSchema && m.Name == r.Name && m.Recipe == r.digest() && maps.Equal(m.Sources, model.sources(r))
}

// sources are the digests of the files that a recipe reads.
func (m *Model) sources(r Recipe) map[string]string {
	out := map[string]string{}
	for file := range r.Files {
		out[file] = m.Manifest.Files[file].SHA256
	}
	return out
}

func readVariant(path string) (variantManifest, error) {
	var m variantManifest
	f, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return m, fmt.Errorf("read %s: %w", path, err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("%s: broken: %v: %w", path, err, sdk.ErrInvalid)
	}
	for name, f := range m.Files {
		if !filepath.IsLocal(name) || name != filepath.Base(name) || !hexDigest.MatchString(f.SHA256) || f.Size < 0 {
			return m, fmt.Errorf("%s: broken: file %s: %w", path, quote(name), sdk.ErrInvalid)
		}
	}
	return m, nil
}

// Variant is the model's variant of that recipe if the store has it whole and made of the model's present files; else
// sdk.ErrNotFound. It reads no weights: Open and Verify do.
func (m *Model) Variant(r Recipe) (*Variant, error) {
	missing := func(why string) (*Variant, error) {
		return nil, fmt.Errorf("model %s: no packed variant %s: %s: %w", m.Name, r.Name, why, sdk.ErrNotFound)
	}
	dir := filepath.Join(m.Dir, packedFolder, r.Name)
	man, err := readVariant(filepath.Join(dir, manifestFile))
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return missing("it was not made yet")
	case errors.Is(err, sdk.ErrInvalid):
		return missing(err.Error())
	case err != nil:
		return nil, fmt.Errorf("model %s: packed variant %s: %w", m.Name, r.Name, err)
	case !man.of(m, r):
		return missing("it was made of other weights or by another recipe")
	}
	v := &Variant{Name: r.Name, Packings: r.Packings(), Shards: Shards{
		Dir: dir, Files: man.Files, owner: "variant " + r.Name + " of model " + m.Name, book: verdicts{m.book()},
		advice: "it changed after it was packed; remove the folder " + dir + " and it is packed again",
	}}
	for file := range r.Files {
		want, ok := man.Files[file]
		st, err := os.Lstat(v.Path(file))
		if !ok || err != nil || !st.Mode().IsRegular() || st.Size() != want.Size {
			return missing(file + " is missing or cut short")
		}
		v.Bytes += want.Size
	}
	return v, nil
}

// Pack is the model's variant of a recipe, made if the store doesn't have it. It appears at once and whole, or not at all;
// packing that was cut short, by an error or a kill, goes on where it stopped, and while somebody else packs or imports
// the model, also in another process, it waits for him, until ctx is done. progress, if not nil, is called from the
// calling goroutine with bytes written and in all. Besides the weights of the model nothing is held in memory but a few
// megabytes a thread.
func (s *Store) Pack(ctx context.Context, m *Model, r Recipe, threads int, progress func(done, total int64)) (v *Variant, err error) {
	defer func() {
		if err != nil {
			v, err = nil, fmt.Errorf("pack %s as %s: %w", m.Name, r.Name, err)
		}
	}()
	if v, err := m.Variant(r); err == nil || !errors.Is(err, sdk.ErrNotFound) {
		return v, err
	}
	if !validName.MatchString(r.Name) || len(r.Files) == 0 {
		return nil, fmt.Errorf("recipe %s with %d files: %w", quote(r.Name), len(r.Files), sdk.ErrInvalid)
	}
	unlock, err := s.lock(ctx, m.Name, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if v, err := m.Variant(r); err == nil || !errors.Is(err, sdk.ErrNotFound) {
		return v, err // somebody else has made it
	}
	if now, err := s.Find(m.Name); err != nil {
		return nil, err
	} else if now.Digest() != m.Digest() || now.Dir != m.Dir {
		return nil, fmt.Errorf("the model was replaced meanwhile: try again: %w", sdk.ErrUnavailable)
	}
	j := &packing{
		store: s, model: m, recipe: r, threads: max(threads, 1), progress: progress,
		final: filepath.Join(m.Dir, packedFolder, r.Name), partial: filepath.Join(m.Dir, packedFolder, "."+r.Name+".partial"),
		man: variantManifest{Schema: variantSchema, Name: r.Name, Recipe: r.digest(), Sources: m.sources(r), Files: map[string]FileDigest{}},
	}
	if err := j.run(ctx); err != nil {
		return nil, err
	}
	return m.Variant(r)
}

// packing makes one variant. It holds the lock of the model.
type packing struct {
	store          *Store
	model          *Model
	recipe         Recipe
	threads        int
	progress       func(done, total int64)
	final, partial string
	man            variantManifest // as far as it is done
	done, total    int64
}

func (j *packing) run(ctx context.Context) error {
	files, err := j.layOut()
	if err != nil {
		return err
	}
	if err := j.store.change("mkdir", j.partial, func() error { return os.MkdirAll(j.partial, 0o700) }); err != nil {
		return err
	}
	if err := j.keep(ctx, files); err != nil {
		return err
	}
	if err := j.checkSpace(files); err != nil {
		return err
	}
	if err := j.verifySources(ctx, files); err != nil {
		return err
	}
	for _, f := range files {
		if _, kept := j.man.Files[f.name]; kept {
			continue
		}
		if err := j.write(ctx, f); err != nil {
			return err
		}
	}
	return j.commit()
}

// layOut reads the headers of the sources and lays the files out.
func (j *packing) layOut() ([]packedFile, error) {
	var files []packedFile
	for _, name := range slices.Sorted(maps.Keys(j.recipe.Files)) {
		if _, ok := j.model.Manifest.Files[name]; !ok {
			return nil, fmt.Errorf("the model has no file %s: %w", quote(name), sdk.ErrInvalid)
		}
		path := filepath.Join(j.model.Dir, name)
		src, err := openRegular(path)
		if err != nil {
			return nil, err
		}
		h, err := scan(src, path)
		src.Close()
		if err != nil {
			return nil, err
		}
		f, err := newPackedFile(name, h.extents(), j.recipe.Files[name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		files = append(files, f)
		j.total += f.total
	}
	return files, nil
}

// keep takes over what an earlier run of the same packing finished, if it still has its digest, and removes the rest.
func (j *packing) keep(ctx context.Context, files []packedFile) error {
	was, err := readVariant(filepath.Join(j.partial, manifestFile))
	if err == nil && was.of(j.model, j.recipe) {
		for _, f := range files {
			d, ok := was.Files[f.name]
			if !ok || d.Size != f.total {
				continue
			}
			if sum, err := hashFile(ctx, filepath.Join(j.partial, f.name)); err != nil || sum != d.SHA256 {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				continue
			}
			j.man.Files[f.name] = d
			j.advance(d.Size)
		}
	}
	entries, err := os.ReadDir(j.partial)
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	for _, e := range entries {
		if _, ok := j.man.Files[e.Name()]; ok {
			continue
		}
		path := filepath.Join(j.partial, e.Name())
		if err := j.store.change("remove", path, func() error { return os.RemoveAll(path) }); err != nil {
			return err
		}
	}
	return nil
}

func hashFile(ctx context.Context, path string) (string, error) {
	f, err := openRegular(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return hashOf(ctx, f)
}

// checkSpace refuses to begin what the disk can't hold.
func (j *packing) checkSpace(files []packedFile) error {
	need := int64(spareSpace)
	for _, f := range files {
		if _, kept := j.man.Files[f.name]; !kept {
			need += f.total
		}
	}
	free, err := j.store.free(j.partial)
	if err != nil {
		return fmt.Errorf("free space of %s: %w", j.partial, err)
	}
	if uint64(need) > free {
		return fmt.Errorf("%s: the packed weights need %.1f MB, the disk has %.1f MB free: %w: %w",
			j.partial, float64(need)/1e6, float64(free)/1e6, syscall.ENOSPC, sdk.ErrUnavailable)
	}
	return nil
}

// verifySources makes sure that nothing is packed but what was imported, several files at a time.
func (j *packing) verifySources(ctx context.Context, files []packedFile) error {
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(j.threads)
	for _, f := range files {
		if _, kept := j.man.Files[f.name]; kept {
			continue
		}
		all.Go(func() error {
			src, err := j.model.Shards().Open(ctx, f.name)
			if err != nil {
				return err
			}
			return src.Close()
		})
	}
	return all.Wait()
}

// write makes one file and records it.
func (j *packing) write(ctx context.Context, f packedFile) error {
	src, err := openRegular(filepath.Join(j.model.Dir, f.name))
	if err != nil {
		return err
	}
	defer src.Close()
	d, err := j.store.create(filepath.Join(j.partial, f.name), true, func(w io.Writer) error {
		return f.stream(ctx, counted{w, j.advance}, src, j.threads)
	})
	if err != nil {
		return err
	}
	j.man.Files[f.name] = d
	return j.save(false)
}

// counted reports what passes through it.
type counted struct {
	w       io.Writer
	advance func(n int64)
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.advance(int64(n))
	return n, err
}

func (j *packing) advance(n int64) {
	j.done += n
	if j.progress != nil && j.total > 0 {
		j.progress(j.done, j.total)
	}
}

// save writes the manifest in one step.
func (j *packing) save(durable bool) error {
	return j.store.writeJSON(filepath.Join(j.partial, manifestFile), j.man, durable)
}

// commit completes the manifest and puts the folder in its place. An older variant of that name goes first: it was
// stale, or it would have been taken.
func (j *packing) commit() error {
	s := j.store
	j.man.Created = s.now().UTC().Truncate(time.Second)
	if err := j.save(true); err != nil {
		return err
	}
	if err := s.change("sync", j.partial, func() error { return syncDir(j.partial) }); err != nil {
		return err
	}
	if err := s.change("remove", j.final, func() error { return os.RemoveAll(j.final) }); err != nil {
		return err
	}
	if err := s.change("rename", j.final, func() error { return os.Rename(j.partial, j.final) }); err != nil {
		return err
	}
	return s.change("sync", j.final, func() error { return syncDir(filepath.Dir(j.final)) })
}
