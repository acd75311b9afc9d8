// Package weights reads and writes weight tensors: safetensors files (File, Checkpoint, Scan, Write) and the store, the
// folder in which an imported model lies split into a trunk and one shard an expert, each with its sha256 (Store, Model).
//
// The host reads the trunk through it and asks Scan where in a shard's descriptor each tensor lies; expert plugins map
// their shards through it; the command line imports through it. Files are hostile bytes: nothing in a header is believed
// before it is checked, and what can't be right is refused with the file, the tensor and the cause (sdk.ErrInvalid).
//
// The package refuses to know architectures: which tensor is whose comes as a Plan. It does no arithmetic on weights
// and guesses no dtype.
package weights

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// File is an open safetensors file. Its methods may be called concurrently; views die with Close.
type File struct {
	name    string
	meta    map[string]string
	extents map[string]Extent
	names   []string    // sorted
	data    []byte      // the whole file: a mapping or memory
	src     io.ReaderAt // the same bytes for copying; after Open it is closed
	release func() error
	fetch   sync.WaitGroup // of Prefetch
	closing atomic.Bool
	once    sync.Once
	err     error
}

// Extent says where in a file a tensor lies.
type Extent struct {
	Packing string // as in tensor.View; DType and Shape are those of the logical tensor
	DType   tensor.DType
	Shape   []int
	Offset  int64 // from the start of the file, in bytes
	Length  int64 // in bytes
}

// Open maps a file read-only and checks its header. A file that is truncated while it is mapped kills the process that
// touches the lost pages: use Read where that must not happen.
func Open(path string) (*File, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping stays
	return OpenFile(f, path)
}

// OpenFile is Open over an open descriptor, such as an inherited one; name is for errors only. It neither moves f's
// offset nor closes f, which the File does not need after OpenFile has returned.
func OpenFile(f *os.File, name string) (*File, error) {
	h, err := scan(f, name)
	if err != nil {
		return nil, err
	}
	data, release, err := mapFile(f, h.size)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", name, err)
	}
	return newFile(name, h, data, f, release), nil
}

// Read is Open with a private copy in memory, outside the garbage collector's heap, instead of a mapping: what happens
// to the file afterwards can't change or kill the reader.
func Read(path string) (*File, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readPrivate(f, path, nil)
}

// Parse reads a file that lies in memory; name is for errors only. The views point into b.
func Parse(name string, b []byte) (*File, error) {
	h, err := parse(name, b)
	if err != nil {
		return nil, err
	}
	return newFile(name, h, b, bytes.NewReader(b), func() error { return nil }), nil
}

// Scan checks the header of a file and says where its tensors lie, by reading the header alone: nothing is mapped.
// It does not move f's offset.
func Scan(f *os.File, name string) (map[string]Extent, error) {
	h, err := scan(f, name)
	if err != nil {
		return nil, err
	}
	return h.extents(), nil
}

// Tensor is a view into the file. It must not be written to or used after Close. The capacity of a packed one reaches to the
// end of the file, so that tensors that lie one behind the other can be used as one.
func (f *File) Tensor(name string) (tensor.View, bool) {
	e, ok := f.extents[name]
	if !ok {
		return tensor.View{}, false
	}
	end := e.Offset + e.Length
	v := tensor.View{Packing: e.Packing, DType: e.DType, Shape: slices.Clone(e.Shape), Data: f.data[e.Offset:end]}
	if v.Packing == "" {
		v.Data = slices.Clip(v.Data)
	}
	return v, true
}

// Names are the tensors' names, sorted.
func (f *File) Names() []string { return slices.Clone(f.names) }

// Metadata is the file's free text; nil if it has none. It is the caller's to keep, not to write to.
func (f *File) Metadata() map[string]string { return f.meta }

// Prefetch asks the system to have the whole file in memory and in the page tables, and returns at once: what is touched
// before it is there waits for its own pages, as without Prefetch. Close ends it.
func (f *File) Prefetch() {
	data := f.data
	f.fetch.Go(func() {
		for from := 0; from < len(data) && !f.closing.Load(); from += fetchStep {
			if !populate(data[from:min(from+fetchStep, len(data))]) {
				return
			}
		}
	})
}

// fetchStep is how much is asked for at a time, and so how long Close may wait: about ten milliseconds from memory. It is
// a multiple of the page size.
const fetchStep = 32 << 20

// Close gives the mapping or memory back. It may be called again.
func (f *File) Close() error {
	f.once.Do(func() {
		f.closing.Store(true)
		f.fetch.Wait()
		f.data, f.err = nil, f.release()
	})
	return f.err
}

func newFile(name string, h *header, data []byte, src io.ReaderAt, release func() error) *File {
	f := &File{name: name, meta: h.meta, extents: h.extents(), data: data, src: src, release: release}
	f.names = make([]string, 0, len(f.extents))
	for n := range f.extents {
		f.names = append(f.names, n)
	}
	slices.Sort(f.names)
	return f
}

// readPrivate copies f into memory of its own. check, if not nil, sees the copy before anything in it is believed.
func readPrivate(f *os.File, name string, check func([]byte) error) (*File, error) {
	before, err := scan(f, name) // so that a file that is no safetensors costs no memory
	if err != nil {
		return nil, err
	}
	data, seal, release, err := privateMemory(before.size)
	if err != nil {
		return nil, fmt.Errorf("read %s: memory for %d bytes: %w", name, before.size, err)
	}
	file, err := func() (*File, error) {
		if _, err := io.ReadFull(io.NewSectionReader(f, 0, before.size), data); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if check != nil {
			if err := check(data); err != nil {
				return nil, err
			}
		}
		h, err := parse(name, data) // once more: the file may have changed since
		if err != nil {
			return nil, err
		}
		if err := seal(); err != nil {
			return nil, fmt.Errorf("read %s: protect memory: %w", name, err)
		}
		return newFile(name, h, data, bytes.NewReader(data), release), nil
	}()
	if err != nil {
		return nil, errors.Join(err, release())
	}
	return file, nil
}

// scan reads and checks f's header.
func scan(f *os.File, name string) (*header, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	if !st.Mode().IsRegular() {
		return nil, invalid(name, "", "is no regular file")
	}
	return readHeader(name, f, st.Size())
}

// parse checks the header of a file in memory.
func parse(name string, b []byte) (*header, error) {
	return readHeader(name, bytes.NewReader(b), int64(len(b)))
}

// readHeader reads the length, judges it before it allocates, then reads and checks the header.
func readHeader(name string, r io.ReaderAt, size int64) (*header, error) {
	if size < lengthBytes {
		return nil, invalid(name, "", "is too short for a safetensors file: %d bytes", size)
	}
	if size > math.MaxInt {
		return nil, invalid(name, "", "is too large for this machine: %d bytes", size)
	}
	var length [lengthBytes]byte
	if err := readAt(r, length[:], 0); err != nil {
		return nil, fmt.Errorf("read %s: header length: %w", name, err)
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n > maxHeader {
		return nil, invalid(name, "", "header length %d is over the limit of %d bytes", n, maxHeader)
	}
	if int64(n) > size-lengthBytes {
		return nil, invalid(name, "", "header length %d is longer than the file of %d bytes", n, size)
	}
	raw := make([]byte, n)
	if err := readAt(r, raw, lengthBytes); err != nil {
		return nil, fmt.Errorf("read %s: header: %w", name, err)
	}
	return parseHeader(name, raw, size)
}

// readAt fills b or fails; the end of the file at b's very end is no error.
func readAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// openRegular opens a file for reading. It looks before it opens, because opening a pipe would wait for a writer.
func openRegular(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, openError(path, err)
	}
	if !st.Mode().IsRegular() {
		return nil, invalid(path, "", "is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, openError(path, err)
	}
	return f, nil
}

func openError(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open %s: %w", path, sdk.ErrNotFound)
	}
	return fmt.Errorf("open weights: %w", err)
}
