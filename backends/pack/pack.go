// Package pack lays out weight matrices as the kernels of the backends want them, once, when a model is imported, so
// that mapping the file is loading. core/weights writes packed shards with it; backends check what they are given and
// pack row-major weights themselves; tests unpack.
//
// Every packing cuts a matrix [out, in] into panels of 16 outputs, one after another; outputs beyond the matrix are
// zero weights. It refuses to know files and processes.
package pack

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// The packings.
const (
	// N16 is [panel][in][16] of F32 or F16.
	N16 = "n16"
	// N16K2 is [panel][in/2][16][2] of BF16: 64 bytes hold two inputs of 16 outputs; an odd last input has a zero
	// beside it. A 32-bit word shifted up is the even input as float32, masked it is the odd one.
	N16K2 = "n16k2"
	// G32N16 is 8-bit integers in groups of 32 inputs with a scale each, see int8.go. The DType of its views is I8.
	G32N16 = "g32n16"
)

// Panel is the number of outputs of a panel in every packing.
const Panel = 16

// layout is one packing.
type layout struct {
	from   []tensor.DType // the row-major types it takes
	holds  func(from tensor.DType) tensor.DType
	size   func(d tensor.DType, out, in int) int
	pack   func(dst []byte, w tensor.View)
	unpack func(dst []byte, v tensor.View)
	values tensor.DType // of what unpack gives; Invalid = the view's own
}

var layouts = map[string]layout{
	N16:    {from: []tensor.DType{tensor.F32, tensor.F16}, holds: same, size: sizeN16, pack: packN16, unpack: unpackN16},
	N16K2:  {from: []tensor.DType{tensor.BF16}, holds: same, size: sizeN16K2, pack: packN16K2, unpack: unpackN16K2},
	G32N16: {from: []tensor.DType{tensor.F32, tensor.BF16, tensor.F16}, holds: always(tensor.I8), size: sizeG32, pack: packG32, unpack: unpackG32, values: tensor.F32},
}

func same(d tensor.DType) tensor.DType { return d }

func always(d tensor.DType) func(tensor.DType) tensor.DType {
	return func(tensor.DType) tensor.DType { return d }
}

func find(packing string) (layout, error) {
	l, ok := layouts[packing]
	if !ok {
		return layout{}, fmt.Errorf("packing %q is not known: %w", packing, sdk.ErrUnsupported)
	}
	return l, nil
}

// maxElems keeps sizes far below an overflow.
const maxElems = 1 << 40

// Size is the bytes of a packed matrix whose values are stored as d.
func Size(packing string, d tensor.DType, out, in int) (int, error) {
	l, err := find(packing)
	if err != nil {
		return 0, err
	}
	if out < 1 || in < 1 || out > maxElems/in {
		return 0, fmt.Errorf("packing %s: shape [%d, %d]: %w", packing, out, in, sdk.ErrInvalid)
	}
	if !slices.ContainsFunc(l.from, func(from tensor.DType) bool { return l.holds(from) == d }) {
		return 0, fmt.Errorf("packing %s does not hold %v: %w", packing, d, sdk.ErrUnsupported)
	}
	return l.size(d, out, in), nil
}

// Holds is the type of the values that a packing makes of row-major weights of type d: what the packed view's DType is.
func Holds(packing string, d tensor.DType) (tensor.DType, error) {
	l, err := find(packing)
	if err != nil {
		return tensor.Invalid, err
	}
	if !slices.Contains(l.from, d) {
		return tensor.Invalid, fmt.Errorf("packing %s takes %s, not %v: %w", packing, list(l.from), d, sdk.ErrUnsupported)
	}
	return l.holds(d), nil
}

// Check holds a packed view against its packing: known, a matrix, and with exactly as many bytes as it needs.
func Check(v tensor.View) error {
	if len(v.Shape) != 2 {
		return fmt.Errorf("packing %s: shape %v, want two dimensions: %w", v.Packing, v.Shape, sdk.ErrInvalid)
	}
	n, err := Size(v.Packing, v.DType, v.Shape[0], v.Shape[1])
	if err == nil && n != len(v.Data) {
		err = fmt.Errorf("packing %s: %d bytes for shape %v of %v, want %d: %w", v.Packing, len(v.Data), v.Shape, v.DType, n, sdk.ErrInvalid)
	}
	return err
}

// Pack is a row-major matrix in a packing, in memory of its own that begins at a multiple of 64 bytes.
func Pack(packing string, w tensor.View) (tensor.View, error) {
	l, err := find(packing)
	if err != nil {
		return tensor.View{}, err
	}
	if w.Packing != "" {
		return tensor.View{}, fmt.Errorf("packing %s: the weights are packed as %s already: %w", packing, w.Packing, sdk.ErrInvalid)
	}
	holds, err := Holds(packing, w.DType)
	if err != nil {
		return tensor.View{}, err
	}
	if len(w.Shape) != 2 {
		return tensor.View{}, fmt.Errorf("packing %s: shape %v, want two dimensions: %w", packing, w.Shape, sdk.ErrInvalid)
	}
	v := tensor.View{DType: holds, Shape: slices.Clone(w.Shape), Packing: packing}
	n, err := Size(packing, v.DType, v.Shape[0], v.Shape[1])
	if err != nil {
		return tensor.View{}, err
	}
	if want := w.Elems() * w.DType.Size(); len(w.Data) != want {
		return tensor.View{}, fmt.Errorf("packing %s: %d bytes for shape %v of %v, want %d: %w", packing, len(w.Data), w.Shape, w.DType, want, sdk.ErrInvalid)
	}
	v.Data = Aligned(n)
	l.pack(v.Data, w)
	return v, nil
}

// Unpack is the row-major matrix of a packed view: the same bytes that went in, or for integers their float32 values.
func Unpack(v tensor.View) (tensor.View, error) {
	if err := Check(v); err != nil {
		return tensor.View{}, err
	}
	l := layouts[v.Packing]
	w := tensor.View{DType: v.DType, Shape: slices.Clone(v.Shape)}
	if l.values != tensor.Invalid {
		w.DType = l.values
	}
	w.Data = make([]byte, w.Elems()*w.DType.Size())
	l.unpack(w.Data, v)
	return w, nil
}

func list(types []tensor.DType) string {
	var names []string
	for _, d := range types {
		names = append(names, d.String())
	}
	return strings.Join(names, ", ")
}

func panels(out int) int { return (out + Panel - 1) / Panel }
