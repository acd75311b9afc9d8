package weights

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// dataAlign is the usual alignment of the data in files that we write. The format's writers use 8; a cache line costs at most
// 63 spaces more and lets kernels load aligned vectors from a mapping.
const dataAlign = 64

// NamedView is a tensor with its name, to be written.
type NamedView struct {
	Name string
	tensor.View
}

// Write writes a safetensors file. The tensors lie in the given order, those with larger elements first, so that each is
// aligned to its element size; equal input gives equal bytes. A name that is empty, taken or reserved and a view whose
// shape does not fit its data are sdk.ErrInvalid, and then nothing is written.
func Write(w io.Writer, tensors []NamedView, meta map[string]string) error {
	specs := make([]spec, len(tensors))
	for i, t := range tensors {
		specs[i] = spec{name: t.Name, dtype: t.DType, shape: t.Shape}
	}
	l, err := layOut(specs, meta, dataAlign)
	if err != nil {
		return fmt.Errorf("write safetensors: %w", err)
	}
	for i, n := range l.sizes {
		if int64(len(tensors[i].Data)) != n {
			return fmt.Errorf("write safetensors: tensor %s: shape %s of %s needs %d bytes, it has %d: %w", quote(tensors[i].Name),
				shapeText(tensors[i].Shape), tensors[i].DType, n, len(tensors[i].Data), sdk.ErrInvalid)
		}
	}
	if _, err := w.Write(l.head); err != nil {
		return fmt.Errorf("write safetensors: header: %w", err)
	}
	for _, i := range l.order {
		if _, err := w.Write(tensors[i].Data); err != nil {
			return fmt.Errorf("write safetensors: tensor %s: %w", quote(tensors[i].Name), err)
		}
	}
	return nil
}

// spec is a tensor without its data.
type spec struct {
	name  string
	dtype tensor.DType
	shape []int
}

// layout is how a file is written: head, then the tensors in order, each sizes[i] bytes.
type layout struct {
	head  []byte // length, header, padding
	order []int  // indices of the specs
	sizes []int64
	total int64 // of the file
}

// layOut places tensors in a file whose data begins at a multiple of align.
func layOut(specs []spec, meta map[string]string, align int) (layout, error) {
	l := layout{sizes: make([]int64, len(specs))}
	seen := map[string]bool{metadataKey: true, "": true}
	for i, s := range specs {
		if seen[s.name] || !utf8.ValidString(s.name) {
			return l, fmt.Errorf("tensor %s: the name is empty, taken, reserved or not UTF-8: %w", quote(s.name), sdk.ErrInvalid)
		}
		seen[s.name] = true
		n, ok := byteSize(s.dtype, s.shape)
		if !ok || s.dtype.Size() == 0 {
			return l, fmt.Errorf("tensor %s: shape %s of %s has no size: %w", quote(s.name), shapeText(s.shape), s.dtype, sdk.ErrInvalid)
		}
		l.sizes[i], l.order = n, append(l.order, i)
	}
	slices.SortStableFunc(l.order, func(a, b int) int { return cmp.Compare(specs[b].dtype.Size(), specs[a].dtype.Size()) })
	text, end, err := headerText(specs, l, meta, align)
	if err != nil {
		return l, err
	}
	if len(text) > maxHeader {
		return l, fmt.Errorf("header of %d bytes is over the limit of %d: %w", len(text), maxHeader, sdk.ErrInvalid)
	}
	l.head = append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...)
	l.total = int64(len(l.head)) + end
	if l.total < end {
		return l, fmt.Errorf("the tensors are larger than any file: %w", sdk.ErrInvalid)
	}
	return l, nil
}

// headerText is the JSON, padded, and the length of the data.
func headerText(specs []spec, l layout, meta map[string]string, align int) ([]byte, int64, error) {
	b := []byte{'{'}
	if len(meta) > 0 {
		b = append(b, `"`+metadataKey+`":{`...)
		for i, k := range slices.Sorted(maps.Keys(meta)) {
			if !utf8.ValidString(k) || !utf8.ValidString(meta[k]) {
				return nil, 0, fmt.Errorf("metadata %s is not UTF-8: %w", quote(k), sdk.ErrInvalid)
			}
			if i > 0 {
				b = append(b, ',')
			}
			b = append(append(appendString(b, k), ':'), appendString(nil, meta[k])...)
		}
		b = append(b, '}')
	}
	at := int64(0)
	for _, i := range l.order {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(appendString(b, specs[i].name), `:{"dtype":"`+specs[i].dtype.String()+`","shape":[`...)
		for j, d := range specs[i].shape {
			if j > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, int64(d), 10)
		}
		end := at + l.sizes[i]
		if end < at {
			return nil, 0, fmt.Errorf("the tensors are larger than any file: %w", sdk.ErrInvalid)
		}
		b = fmt.Appendf(b, `],"data_offsets":[%d,%d]}`, at, end)
		at = end
	}
	b = append(b, '}')
	for (lengthBytes+len(b))%align != 0 {
		b = append(b, ' ')
	}
	return b, at, nil
}

func appendString(b []byte, s string) []byte {
	text, err := json.Marshal(s)
	if err != nil {
		panic("weights: a string does not marshal")
	}
	return append(b, text...)
}
