package weights

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"unicode/utf8"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

const (
	lengthBytes = 8 // little-endian length of the header, at the start of the file
	// maxHeader is the longest header we read. Real shards with tens of thousands of tensors need about 3 MiB; the
	// format's own limit of 100 MB would only let a hostile file cost that much memory.
	maxHeader   = 8 << 20
	metadataKey = "__metadata__"
)

// header is a checked header: the tensors cover the data exactly, in order of their offsets.
type header struct {
	size    int64 // of the file
	start   int64 // of the data, from the start of the file
	meta    map[string]string
	tensors []entry
}

// entry is one tensor of a header; from and to count from the start of the data.
type entry struct {
	name     string
	dtype    tensor.DType
	shape    []int
	from, to int64
	packing  string // "" = row-major
}

func (h *header) extents() map[string]Extent {
	m := make(map[string]Extent, len(h.tensors))
	for _, e := range h.tensors {
		m[e.name] = Extent{Packing: e.packing, DType: e.dtype, Shape: e.shape, Offset: h.start + e.from, Length: e.to - e.from}
	}
	return m
}

// parseHeader checks the JSON text raw, which follows the length in a file of size bytes.
func parseHeader(file string, raw []byte, size int64) (*header, error) {
	if !utf8.Valid(raw) {
		return nil, invalid(file, "", "header is not UTF-8")
	}
	if len(raw) == 0 || raw[0] != '{' {
		return nil, invalid(file, "", "header does not begin with {")
	}
	h := &header{size: size, start: lengthBytes + int64(len(raw))}
	s := &scanner{b: raw}
	current := ""
	err := s.object(func(key string) error {
		current = key
		if key == metadataKey {
			current = ""
			m, err := s.stringMap()
			h.meta = m
			return err
		}
		e, err := s.entry(key)
		h.tensors = append(h.tensors, e)
		return err
	})
	if err != nil {
		return nil, invalid(file, current, "header: %v", err)
	}
	if err := s.end(); err != nil {
		return nil, invalid(file, "", "header: %v", err)
	}
	if err := h.cover(file); err != nil {
		return nil, err
	}
	if err := h.unpackHeader(file); err != nil {
		return nil, err
	}
	return h, nil
}

// entry reads one tensor's object: exactly dtype, shape and data_offsets, in any order.
func (s *scanner) entry(name string) (entry, error) {
	e := entry{name: name}
	var offsets []int64
	var fields [3]bool
	err := s.object(func(key string) (err error) {
		switch key {
		case "dtype":
			fields[0] = true
			e.dtype, err = s.dtype()
		case "shape":
			fields[1] = true
			e.shape, err = s.shape()
		case "data_offsets":
			fields[2] = true
			offsets, err = s.integers(2)
			if err == nil && len(offsets) != 2 {
				err = fmt.Errorf("data_offsets has %d numbers, not 2", len(offsets))
			}
		default:
			err = fmt.Errorf("unknown field %s", quote(key))
		}
		return err
	})
	if err != nil {
		return e, err
	}
	for i, name := range []string{"dtype", "shape", "data_offsets"} {
		if !fields[i] {
			return e, fmt.Errorf("has no %s", name)
		}
	}
	e.from, e.to = offsets[0], offsets[1]
	return e, nil
}

func (s *scanner) dtype() (tensor.DType, error) {
	name, err := s.text()
	if err != nil {
		return tensor.Invalid, fmt.Errorf("dtype: %w", err)
	}
	d, err := tensor.ParseDType(name)
	if err != nil {
		return tensor.Invalid, fmt.Errorf("unknown dtype %s", quote(name))
	}
	return d, nil
}

func (s *scanner) shape() ([]int, error) {
	dims, err := s.integers(math.MaxInt)
	if err != nil {
		return nil, fmt.Errorf("shape: %w", err)
	}
	shape := make([]int, len(dims))
	for i, d := range dims {
		if d > math.MaxInt {
			return nil, fmt.Errorf("shape: dimension %d overflows", d)
		}
		shape[i] = int(d)
	}
	return shape, nil
}

// cover checks that each tensor's bytes are as many as its shape needs, and that the tensors cover the data exactly.
func (h *header) cover(file string) error {
	length := h.size - h.start
	for _, e := range h.tensors {
		if err := e.check(length); err != nil {
			return invalid(file, e.name, "%v", err)
		}
	}
	slices.SortFunc(h.tensors, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), cmp.Compare(a.name, b.name))
	})
	at, before := int64(0), ""
	for _, e := range h.tensors {
		if e.from < at {
			return invalid(file, e.name, "data_offsets [%d,%d] overlap tensor %s, which ends at %d", e.from, e.to, quote(before), at)
		}
		if e.from > at {
			return invalid(file, e.name, "data_offsets [%d,%d] leave a hole: bytes %d to %d belong to no tensor", e.from, e.to, at, e.from)
		}
		at, before = e.to, e.name
	}
	if at != length {
		return invalid(file, "", "has %d trailing bytes that belong to no tensor", length-at)
	}
	return nil
}

// check judges one tensor by itself, in a file with length bytes of data.
func (e entry) check(length int64) error {
	if e.from > e.to {
		return fmt.Errorf("data_offsets [%d,%d] run backwards", e.from, e.to)
	}
	if e.to > length {
		return fmt.Errorf("data_offsets [%d,%d] are out of range: the file has %d data bytes", e.from, e.to, length)
	}
	need, ok := byteSize(e.dtype, e.shape)
	if !ok {
		return fmt.Errorf("shape %s of %s overflows", shapeText(e.shape), e.dtype)
	}
	if need != e.to-e.from {
		return fmt.Errorf("shape %s of %s needs %d bytes, data_offsets [%d,%d] hold %d", shapeText(e.shape), e.dtype, need, e.from, e.to, e.to-e.from)
	}
	return nil
}

// byteSize is the size of a tensor. It is false for a negative dimension and where the product of the dimensions other
// than zero overflows: a shape such as [0, 2^62, 2^62] is nobody's honest tensor and a trap for whoever computes strides.
func byteSize(d tensor.DType, shape []int) (int64, bool) {
	n, empty := uint64(d.Size()), false
	for _, dim := range shape {
		if dim < 0 {
			return 0, false
		}
		if dim == 0 {
			empty = true
			continue
		}
		hi, lo := bits.Mul64(n, uint64(dim))
		if hi != 0 || lo > math.MaxInt64 || lo > math.MaxInt {
			return 0, false
		}
		n = lo
	}
	if empty {
		return 0, true
	}
	return int64(n), true
}

// invalid is an error about a file and, if not empty, a tensor in it.
func invalid(file, name, format string, args ...any) error {
	cause := fmt.Sprintf(format, args...)
	if name != "" {
		return fmt.Errorf("%s: tensor %s: %s: %w", file, quote(name), cause, sdk.ErrInvalid)
	}
	return fmt.Errorf("%s: %s: %w", file, cause, sdk.ErrInvalid)
}

// quote shows a name from a file; a hostile name may be megabytes long, an error should not be.
func quote(name string) string {
	const most = 200
	if len(name) > most {
		return fmt.Sprintf("%q...", name[:most])
	}
	return fmt.Sprintf("%q", name)
}

// shapeText shows a shape; the rank is only bounded by the header.
func shapeText(shape []int) string {
	const most = 16
	if len(shape) > most {
		return fmt.Sprintf("%v... (%d dimensions)", shape[:most], len(shape))
	}
	return fmt.Sprint(shape)
}
