package weights

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// A packed file is a safetensors file whose tensors are plain bytes to other readers: dtype U8, one dimension, a multiple
// of 64 bytes. What they hold stands in the metadata, under packedKey and the tensor's name: "PACKING DTYPE DIM...", such
// as "n16k2 BF16 1024 2048". The packing rowMajor is none; it keeps vectors and lookup tables in the same file, aligned
// like the rest. The data begins at a multiple of a page, every tensor at a multiple of pack.Align; the bytes between the
// end of a tensor and the next are zero.
const (
	packedKey = "packed:"
	rowMajor  = "rows"
	// pageAlign is the alignment of the data in packed files: a page, so that the kernel maps what it has read.
	pageAlign = 4096
)

// packedSpec is the metadata of one tensor.
type packedSpec struct {
	packing string // "" = row-major
	dtype   tensor.DType
	shape   []int
}

func (p packedSpec) text() string {
	name := p.packing
	if name == "" {
		name = rowMajor
	}
	var b strings.Builder
	b.WriteString(name + " " + p.dtype.String())
	for _, d := range p.shape {
		b.WriteString(" " + strconv.Itoa(d))
	}
	return b.String()
}

// size is the bytes that the tensor needs.
func (p packedSpec) size() (int64, error) {
	if p.packing == "" {
		n, ok := byteSize(p.dtype, p.shape)
		if !ok {
			return 0, fmt.Errorf("shape %s of %s overflows", shapeText(p.shape), p.dtype)
		}
		return n, nil
	}
	if len(p.shape) != 2 {
		return 0, fmt.Errorf("packing %s of %d dimensions, want 2", quote(p.packing), len(p.shape))
	}
	n, err := pack.Size(p.packing, p.dtype, p.shape[0], p.shape[1])
	return int64(n), err
}

// stored is the bytes that a tensor of n takes in a packed file.
func stored(n int64) int64 { return (n + pack.Align - 1) / pack.Align * pack.Align }

// maxPackedText is far above any honest text: a packing, a dtype and a handful of dimensions.
const maxPackedText = 256

func parsePacked(text string) (packedSpec, error) {
	if len(text) > maxPackedText {
		return packedSpec{}, fmt.Errorf("%d bytes of metadata", len(text))
	}
	words := strings.Split(text, " ")
	if len(words) < 3 {
		return packedSpec{}, fmt.Errorf("metadata %q, want PACKING DTYPE DIM...", text)
	}
	p := packedSpec{packing: words[0]}
	if p.packing == rowMajor {
		p.packing = ""
	}
	var err error
	if p.dtype, err = tensor.ParseDType(words[1]); err != nil {
		return packedSpec{}, err
	}
	for _, w := range words[2:] {
		d, err := strconv.ParseUint(w, 10, 64)
		if err != nil || d > math.MaxInt || strconv.FormatUint(d, 10) != w { // one spelling a number
			return packedSpec{}, fmt.Errorf("dimension %q", w)
		}
		p.shape = append(p.shape, int(d))
	}
	return p, nil
}

// unpackHeader turns the entries that the metadata speaks of into what they hold.
func (h *header) unpackHeader(file string) error {
	var place map[string]int
	for _, key := range slices.Sorted(maps.Keys(h.meta)) {
		name, ok := strings.CutPrefix(key, packedKey)
		if !ok {
			continue
		}
		if place == nil {
			place = make(map[string]int, len(h.tensors))
			for i, e := range h.tensors {
				place[e.name] = i
			}
		}
		at, ok := place[name]
		if !ok {
			return invalid(file, name, "is packed by the metadata, but not there")
		}
		if err := h.tensors[at].unpack(h.start, h.meta[key]); err != nil {
			return invalid(file, name, "packed: %v", err)
		}
	}
	return nil
}

func (e *entry) unpack(start int64, text string) error {
	p, err := parsePacked(text)
	if err != nil {
		return err
	}
	n, err := p.size()
	if err != nil {
		return err
	}
	switch {
	case e.dtype != tensor.U8 || len(e.shape) != 1:
		return fmt.Errorf("stored as %s of shape %s, want bytes (U8)", e.dtype, shapeText(e.shape))
	case n > e.to-e.from || stored(n) != e.to-e.from:
		return fmt.Errorf("%s needs %d bytes, %d are stored", quote(text), n, e.to-e.from)
	case p.packing != "" && (start+e.from)%pack.Align != 0:
		return fmt.Errorf("begins at byte %d of the file, no multiple of %d", start+e.from, pack.Align)
	}
	e.packing, e.dtype, e.shape, e.to = p.packing, p.dtype, p.shape, e.from+n
	return nil
}
