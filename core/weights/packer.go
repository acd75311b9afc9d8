package weights

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// packedFile is one file of a variant, laid out.
type packedFile struct {
	name  string
	head  []byte
	parts []packedPart
	total int64
}

// packedPart is one tensor: where its values come from, and what is written.
type packedPart struct {
	name string
	from Extent
	packedSpec
	size, stored int64
}

// newPackedFile lays a file out after a list of tensors of a source.
func newPackedFile(name string, source map[string]Extent, list []Packed) (packedFile, error) {
	f := packedFile{name: name}
	meta := map[string]string{"format": "pt"}
	specs := make([]spec, len(list))
	for i, p := range list {
		part, err := newPackedPart(source, p)
		if err != nil {
			return f, fmt.Errorf("tensor %s: %w", quote(p.Name), err)
		}
		f.parts = append(f.parts, part)
		meta[packedKey+p.Name] = part.text()
		specs[i] = spec{name: p.Name, dtype: tensor.U8, shape: []int{int(part.stored)}}
	}
	l, err := layOut(specs, meta, pageAlign)
	if err != nil {
		return f, err
	}
	f.head, f.total = l.head, l.total // all are bytes, so they keep their order
	return f, nil
}

func newPackedPart(source map[string]Extent, p Packed) (packedPart, error) {
	e, ok := source[p.Source]
	if !ok || e.Packing != "" {
		return packedPart{}, fmt.Errorf("source %s is not in the file, or packed already: %w", quote(p.Source), sdk.ErrInvalid)
	}
	part := packedPart{name: p.Name, from: e, packedSpec: packedSpec{packing: p.Packing, dtype: e.DType, shape: e.Shape}}
	if p.Packing != "" {
		var err error
		if part.dtype, err = pack.Holds(p.Packing, e.DType); err != nil {
			return part, err
		}
	}
	var err error
	if part.size, err = part.packedSpec.size(); err != nil {
		return part, fmt.Errorf("%w: %w", err, sdk.ErrInvalid)
	}
	part.stored = stored(part.size)
	return part, nil
}

// slab is how many bytes of a source are packed at a time: large enough that starting the work costs nothing, small
// enough that all threads' slabs, packed and not, stay below a hundred megabytes on any machine.
const slab = 2 << 20

// stream writes the file. It reads with pread: a source that is cut short meanwhile is an error here, where a mapping
// would be a deadly signal.
func (f packedFile) stream(ctx context.Context, w io.Writer, src io.ReaderAt, threads int) error {
	if _, err := w.Write(f.head); err != nil {
		return err
	}
	for _, p := range f.parts {
		if err := p.stream(ctx, w, src, threads); err != nil {
			return fmt.Errorf("tensor %s: %w", quote(p.name), err)
		}
		if _, err := w.Write(make([]byte, p.stored-p.size)); err != nil {
			return err
		}
	}
	return nil
}

func (p packedPart) stream(ctx context.Context, w io.Writer, src io.ReaderAt, threads int) error {
	if p.packing == "" {
		n, err := copyAll(ctx, w, io.NewSectionReader(src, p.from.Offset, p.from.Length), make([]byte, chunk))
		if err == nil && n != p.size {
			err = fmt.Errorf("the source was cut short: %w", sdk.ErrInvalid)
		}
		return err
	}
	out, in := p.from.Shape[0], p.from.Shape[1]
	row := int64(in * p.from.DType.Size())
	// Panels of a packing follow each other, so rows can be packed by whole panels and written one after the other.
	rows := max(pack.Panel, int(slab/row)/pack.Panel*pack.Panel)
	packed := make([]tensor.View, threads)
	for from := 0; from < out; from += rows * threads {
		all, ctx := errgroup.WithContext(ctx)
		for t := range threads {
			first := from + t*rows
			if first >= out {
				packed[t] = tensor.View{}
				continue
			}
			all.Go(func() (err error) {
				if err := ctx.Err(); err != nil {
					return err
				}
				n := min(rows, out-first)
				v := tensor.View{DType: p.from.DType, Shape: []int{n, in}, Data: make([]byte, int64(n)*row)}
				if err := readAt(src, v.Data, p.from.Offset+int64(first)*row); err != nil {
					return fmt.Errorf("read the source: %w", err)
				}
				packed[t], err = pack.Pack(p.packing, v)
				return err
			})
		}
		if err := all.Wait(); err != nil {
			return err
		}
		for _, v := range packed {
			if _, err := w.Write(v.Data); err != nil {
				return err
			}
		}
	}
	return nil
}
