package weights

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf8"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

const (
	singleFile = "model.safetensors"
	indexFile  = "model.safetensors.index.json"
	// maxIndex bounds the index: the largest public models have about 10 MB.
	maxIndex = 64 << 20
)

// Checkpoint is a model's weights as published: one safetensors file or shards with an index. Its methods may be called
// concurrently; views die with Close.
type Checkpoint struct {
	dir   string
	paths []string // of the files below dir, with slashes, sorted
	files []*File
	where map[string]*File
	names []string
}

// OpenCheckpoint opens the weights in a folder. A missing shard, a tensor that is missing from its shard, that lies in
// two or that the index does not know is refused. Symbolic links are followed, because Hugging Face's own cache is made
// of them; names in the index that leave the folder are refused.
func OpenCheckpoint(dir string) (*Checkpoint, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return nil, openError(dir, err)
	}
	if !st.IsDir() {
		return nil, invalid(dir, "", "is no folder")
	}
	return openCheckpoint(dir, os.DirFS(dir))
}

// Dir is the folder that holds the checkpoint's config.json: during an import a plan function reads it there.
func (c *Checkpoint) Dir() string { return c.dir }

// Tensor is a view into the checkpoint. It must not be written to or used after Close.
func (c *Checkpoint) Tensor(name string) (tensor.View, bool) {
	f, ok := c.where[name]
	if !ok {
		return tensor.View{}, false
	}
	return f.Tensor(name)
}

// Names are the tensors' names, sorted.
func (c *Checkpoint) Names() []string { return slices.Clone(c.names) }

// Close closes all files. It may be called again.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// extent says where a tensor lies and reads from there, without touching a mapping.
func (c *Checkpoint) extent(name string) (Extent, io.ReaderAt, bool) {
	f, ok := c.where[name]
	if !ok {
		return Extent{}, nil, false
	}
	return f.extents[name], f.src, true
}

func openCheckpoint(dir string, fsys fs.FS) (*Checkpoint, error) {
	c := &Checkpoint{dir: dir, where: map[string]*File{}}
	err := c.openSingle(fsys)
	if errors.Is(err, sdk.ErrNotFound) {
		err = c.openIndex(fsys)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	for name := range c.where {
		c.names = append(c.names, name)
	}
	slices.Sort(c.names)
	return c, nil
}

func (c *Checkpoint) openSingle(fsys fs.FS) error {
	f, err := c.open(fsys, singleFile)
	if err != nil {
		return err
	}
	for _, name := range f.names {
		c.where[name] = f
	}
	return nil
}

func (c *Checkpoint) openIndex(fsys fs.FS) error {
	index := filepath.Join(c.dir, indexFile)
	b, err := readLimited(fsys, indexFile, maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: has neither %s nor %s: %w", c.dir, singleFile, indexFile, sdk.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", index, err)
	}
	shards, err := parseIndex(index, b)
	if err != nil {
		return err
	}
	if err := c.openShards(fsys, index, shards); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(shards)) {
		path := shards[name]
		if c.where[name] == nil {
			return invalid(index, name, "is missing from its shard %s", quote(path))
		}
		if got := c.where[name].name; got != filepath.Join(c.dir, filepath.FromSlash(path)) {
			return invalid(index, name, "lies in %s, not in its shard %s", got, quote(path))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.where)) {
		if _, ok := shards[name]; !ok {
			return invalid(c.where[name].name, name, "is not in the index")
		}
	}
	return nil
}

// openShards opens each shard that the index names, once.
func (c *Checkpoint) openShards(fsys fs.FS, index string, shards map[string]string) error {
	var paths []string
	for _, name := range slices.Sorted(maps.Keys(shards)) {
		path := shards[name]
		if !filepath.IsLocal(path) || !fs.ValidPath(path) {
			return invalid(index, name, "shard %s is no path inside the folder", quote(path))
		}
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		f, err := c.open(fsys, path)
		if errors.Is(err, sdk.ErrNotFound) {
			return invalid(index, "", "shard %s is missing from the folder", quote(path))
		}
		if err != nil {
			return err
		}
		for _, name := range f.names {
			if other := c.where[name]; other != nil {
				return invalid(f.name, name, "lies in %s as well", other.name)
			}
			c.where[name] = f
		}
	}
	return nil
}

// open opens one of the checkpoint's files: by mapping where the file system is the machine's, else in memory.
func (c *Checkpoint) open(fsys fs.FS, path string) (*File, error) {
	full := filepath.Join(c.dir, filepath.FromSlash(path))
	st, err := fs.Stat(fsys, path)
	if err != nil {
		return nil, openError(full, err)
	}
	if !st.Mode().IsRegular() {
		return nil, invalid(full, "", "is no regular file")
	}
	f, err := openMapped(fsys, path, full)
	if err != nil {
		return nil, err
	}
	c.files, c.paths = append(c.files, f), append(c.paths, path)
	for _, name := range f.names {
		if e := f.extents[name]; e.Packing != "" {
			return nil, invalid(full, name, "is packed as %s: that is no published checkpoint, import the original", e.Packing)
		}
	}
	return f, nil
}

func openMapped(fsys fs.FS, path, full string) (*File, error) {
	opened, err := fsys.Open(path)
	if err != nil {
		return nil, openError(full, err)
	}
	osFile, ok := opened.(*os.File)
	if !ok {
		defer opened.Close()
		b, err := io.ReadAll(opened)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", full, err)
		}
		return Parse(full, b)
	}
	f, err := OpenFile(osFile, full)
	if err != nil {
		return nil, errors.Join(err, osFile.Close())
	}
	unmap := f.release
	f.release = func() error { return errors.Join(unmap(), osFile.Close()) }
	return f, nil
}

// parseIndex reads which shard holds each tensor. metadata.total_size is advisory and often wrong: it is not read.
func parseIndex(file string, b []byte) (map[string]string, error) {
	if !utf8.Valid(b) {
		return nil, invalid(file, "", "is not UTF-8")
	}
	const depth = 16 // of values that are skipped
	var shards map[string]string
	s := &scanner{b: b}
	err := s.object(func(key string) (err error) {
		if key != "weight_map" {
			return s.skip(depth)
		}
		shards, err = s.stringMap()
		return err
	})
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, invalid(file, "", "%v", err)
	}
	if len(shards) == 0 {
		return nil, invalid(file, "", "has no weight_map")
	}
	return shards, nil
}

// readLimited reads a regular file of at most limit bytes.
func readLimited(fsys fs.FS, name string, limit int64) ([]byte, error) {
	st, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("is no regular file: %w", sdk.ErrInvalid)
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("is over the limit of %d bytes: %w", limit, sdk.ErrInvalid)
	}
	return b, nil
}
