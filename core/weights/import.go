package weights

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

const (
	// stateFile is the manifest of an unfinished import: the files written so far. It becomes manifest.json at the end.
	stateFile = "state.json"
	// maxSide bounds a copied file; the largest tokenizers have 35 MB.
	maxSide = 512 << 20
	// spareSpace is left free beside the model, for manifests and for what else the disk is there for.
	spareSpace = 16 << 20
)

// job is one import. It holds the lock of its name.
type job struct {
	store       *Store
	src         source
	plan        PlanFunc
	progress    func(done, total int64)
	partial     string
	man         Manifest // as far as it is done
	buf         []byte
	done, total int64
}

func (s *Store) importFrom(ctx context.Context, name string, src source, plan PlanFunc, progress func(done, total int64)) (m *Model, err error) {
	defer func() {
		if err != nil {
			m, err = nil, fmt.Errorf("import %s: %w", name, err)
		}
	}()
	if err := checkName(name); err != nil {
		return nil, err
	}
	unlock, err := s.lock(ctx, name, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := s.recover(name); err != nil {
		return nil, err
	}
	s.cleanOthers(name)
	j := &job{store: s, src: src, plan: plan, progress: progress, partial: s.hidden(name, ".partial"), buf: make([]byte, chunk)}
	j.man = Manifest{Schema: Schema, Name: name, Files: map[string]FileDigest{}}
	m, err = j.run(ctx)
	if errors.Is(err, sdk.ErrInvalid) {
		os.RemoveAll(j.partial) // a wrong source never gets right, so there is nothing to go on with
	}
	return m, err
}

// run does the import from start to end, keeping what an earlier one has finished.
func (j *job) run(ctx context.Context) (*Model, error) {
	ck, err := openCheckpoint(j.src.dir, j.src.fsys)
	if err != nil {
		return nil, err
	}
	defer ck.Close()
	if j.man.Source, err = j.src.fingerprint(ck.paths); err != nil {
		return nil, err
	}
	earlier := j.earlier()
	if err := j.copySides(ctx); err != nil {
		return nil, err
	}
	if j.src.byContent {
		ck.dir = j.partial // where config.json lies as a file
	}
	shards, err := j.split(ck)
	if err != nil {
		return nil, err
	}
	if m, err := j.present(ctx); m != nil || err != nil {
		return m, err
	}
	if err := j.keep(ctx, earlier, shards); err != nil {
		return nil, err
	}
	if err := j.checkSpace(shards); err != nil {
		return nil, err
	}
	if err := j.writeShards(ctx, shards); err != nil {
		return nil, err
	}
	if err := j.unchanged(ck); err != nil {
		return nil, err
	}
	return j.commit()
}

// earlier is the state of an unfinished import; the zero Manifest if there is none that can be read.
func (j *job) earlier() Manifest {
	for _, name := range []string{stateFile, manifestFile} {
		if m, err := readManifest(filepath.Join(j.partial, name)); err == nil {
			return m
		}
	}
	return Manifest{}
}

// copySides makes the partial folder and copies the small files, always anew.
func (j *job) copySides(ctx context.Context) error {
	if err := j.store.change("mkdir", j.partial, func() error { return os.MkdirAll(j.partial, 0o700) }); err != nil {
		return err
	}
	names, err := j.src.sides()
	if err != nil {
		return err
	}
	for _, name := range names {
		b, err := readLimited(j.src.fsys, name, maxSide)
		if err != nil {
			return fmt.Errorf("read %s: %w", filepath.Join(j.src.dir, name), err)
		}
		if err := j.write(name, func(w io.Writer) error { _, err := w.Write(b); return err }); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// split asks for the plan and lays the shards out.
func (j *job) split(ck *Checkpoint) ([]shard, error) {
	p, err := j.plan(ck)
	if err != nil {
		return nil, err
	}
	shards, err := split(ck, p)
	if err != nil {
		return nil, err
	}
	j.man.ModelType, j.man.Experts, j.man.Plan = p.ModelType, len(p.Experts), p.digest()
	j.done = j.man.Size()
	j.total = j.done
	for _, s := range shards {
		j.total += s.total
	}
	return shards, nil
}

// present is the stored model if it is already what this import would make, to the last bit. Then nothing is written.
func (j *job) present(ctx context.Context) (*Model, error) {
	m, err := j.store.Find(j.man.Name)
	if err != nil || !j.sameImport(m.Manifest) {
		return nil, nil // missing, broken or another: it is going to be replaced
	}
	for name := range m.Manifest.Files {
		f, err := openRegular(filepath.Join(m.Dir, name))
		if err != nil {
			return nil, nil
		}
		err = errors.Join(m.Verify(ctx, name, f), f.Close())
		if errors.Is(err, sdk.ErrInvalid) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	os.RemoveAll(j.partial) // holds copied side files at most; the next import would remove it too
	j.advance(j.total - j.done)
	return m, nil
}

func (j *job) sameImport(m Manifest) bool {
	return m.Schema == j.man.Schema && m.Name == j.man.Name && m.ModelType == j.man.ModelType && m.Plan == j.man.Plan &&
		m.Source.equal(j.man.Source)
}

// keep takes over the shards that an earlier run of the same import finished, if they still have their digests, and
// removes everything else from the partial folder.
func (j *job) keep(ctx context.Context, earlier Manifest, shards []shard) error {
	for _, s := range shards {
		was, ok := earlier.Files[s.file]
		if !ok || !j.sameImport(earlier) || was.Size != s.total {
			continue
		}
		sum, err := j.hashPartial(ctx, s.file)
		if err != nil {
			return err
		}
		if sum == was.SHA256 {
			j.man.Files[s.file] = was
			j.advance(was.Size)
		}
	}
	entries, err := os.ReadDir(j.partial)
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	for _, e := range entries {
		if _, ok := j.man.Files[e.Name()]; ok || e.Name() == stateFile {
			continue
		}
		path := filepath.Join(j.partial, e.Name())
		if err := j.store.change("remove", path, func() error { return os.RemoveAll(path) }); err != nil {
			return err
		}
	}
	return j.save(false)
}

// hashPartial is a partial file's digest; "" if it can't be read, which only means that it is written anew.
func (j *job) hashPartial(ctx context.Context, name string) (string, error) {
	f, err := openRegular(filepath.Join(j.partial, name))
	if err != nil {
		return "", nil
	}
	defer f.Close()
	sum, err := hashOf(ctx, f)
	if err != nil && ctx.Err() == nil {
		return "", nil
	}
	return sum, err
}

// checkSpace refuses to begin what the disk can't hold.
func (j *job) checkSpace(shards []shard) error {
	need := int64(spareSpace)
	for _, s := range shards {
		if _, ok := j.man.Files[s.file]; !ok {
			need += s.total
		}
	}
	free, err := j.store.free(j.partial)
	if err != nil {
		return fmt.Errorf("free space of %s: %w", j.store.models, err)
	}
	if uint64(need) > free {
		return fmt.Errorf("%s: the model needs %.1f MB, the disk has %.1f MB free: free some space, or set PIMOE_HOME to a folder on another disk: %w: %w",
			j.store.models, float64(need)/1e6, float64(free)/1e6, syscall.ENOSPC, sdk.ErrUnavailable)
	}
	return nil
}

// writeShards writes the shards that are not kept, and records each as soon as it is on the disk.
func (j *job) writeShards(ctx context.Context, shards []shard) error {
	for _, s := range shards {
		if _, ok := j.man.Files[s.file]; ok {
			continue
		}
		if err := j.write(s.file, func(w io.Writer) error { return j.stream(ctx, w, s) }); err != nil {
			return err
		}
		if err := j.save(false); err != nil {
			return err
		}
	}
	return nil
}

// stream copies a shard's parts from the source through one buffer. It reads with pread: a source that is cut short
// meanwhile is an error here, where a mapping would be a deadly signal.
func (j *job) stream(ctx context.Context, w io.Writer, s shard) error {
	if _, err := w.Write(s.head); err != nil {
		return err
	}
	j.advance(int64(len(s.head)))
	for _, p := range s.parts {
		n, err := copyAll(ctx, advancing{w, j}, io.NewSectionReader(p.src, p.off, p.n), j.buf)
		if err != nil {
			return fmt.Errorf("copy tensor %s: %w", quote(p.name), err)
		}
		if n != p.n {
			return fmt.Errorf("copy tensor %s: the source file in %s was cut short: %w", quote(p.name), j.src.dir, sdk.ErrInvalid)
		}
	}
	return nil
}

// unchanged refuses a source that was written to while it was read, which may be half old and half new.
func (j *job) unchanged(ck *Checkpoint) error {
	if j.src.byContent {
		return nil
	}
	now, err := j.src.fingerprint(ck.paths)
	if err != nil {
		return err
	}
	if !now.equal(j.man.Source) {
		return fmt.Errorf("%s changed during the import: try again: %w", j.src.dir, sdk.ErrUnavailable)
	}
	return nil
}

// commit completes the manifest and puts the folder in its place.
func (j *job) commit() (*Model, error) {
	s, final := j.store, filepath.Join(j.store.models, j.man.Name)
	j.man.Created = s.now().UTC().Truncate(time.Second)
	if err := j.save(true); err != nil {
		return nil, err
	}
	state, manifest := filepath.Join(j.partial, stateFile), filepath.Join(j.partial, manifestFile)
	if err := s.change("rename", manifest, func() error { return os.Rename(state, manifest) }); err != nil {
		return nil, err
	}
	if err := s.change("sync", j.partial, func() error { return syncDir(j.partial) }); err != nil {
		return nil, err
	}
	if err := s.change("rename", final, func() error { return s.replace(j.man.Name) }); err != nil {
		return nil, err
	}
	if err := s.change("sync", s.models, func() error { return syncDir(s.models) }); err != nil {
		return nil, err
	}
	return s.Find(j.man.Name)
}

// save writes the state in one step. Only the last one must survive a power cut: a resumed import hashes what it keeps.
func (j *job) save(durable bool) error {
	return j.store.writeJSON(filepath.Join(j.partial, stateFile), j.man, durable)
}

// write writes one of the model's files and enters it in the manifest.
func (j *job) write(name string, content func(io.Writer) error) error {
	d, err := j.store.create(filepath.Join(j.partial, name), true, content)
	if err != nil {
		return err
	}
	j.man.Files[name] = d
	return nil
}

func (j *job) advance(n int64) {
	j.done += n
	if j.progress != nil && j.total > 0 {
		j.progress(j.done, j.total)
	}
}

// advancing reports what passes through it.
type advancing struct {
	w io.Writer
	j *job
}

func (a advancing) Write(b []byte) (int, error) {
	n, err := a.w.Write(b)
	a.j.advance(int64(n))
	return n, err
}
