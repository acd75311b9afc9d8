// Package tensor holds the two value types that cross PiMoE's seams: Matrix, rows of float32 activations, and View,
// the untouched bytes of a weight tensor with its dtype and shape.
//
// Everybody uses it: contracts, backends, the engine. It refuses to do arithmetic; that is what backends are for.
package tensor

import "fmt"

// DType is the storage type of a weight tensor.
type DType uint8

// The storage types, named as in the safetensors format.
const (
	Invalid DType = iota
	F32
	F16
	BF16
	F64
	I8
	U8
	I16
	U16
	I32
	U32
	I64
	U64
	Bool
	F8E4M3
	F8E5M2
)

var dtypes = map[DType]struct {
	name string
	size int
}{
	F32: {"F32", 4}, F16: {"F16", 2}, BF16: {"BF16", 2}, F64: {"F64", 8}, I8: {"I8", 1}, U8: {"U8", 1},
	I16: {"I16", 2}, U16: {"U16", 2}, I32: {"I32", 4}, U32: {"U32", 4}, I64: {"I64", 8}, U64: {"U64", 8},
	Bool: {"BOOL", 1}, F8E4M3: {"F8_E4M3", 1}, F8E5M2: {"F8_E5M2", 1},
}

// ParseDType reads a safetensors dtype name, such as "BF16". Unknown names are refused.
func ParseDType(name string) (DType, error) {
	for d, v := range dtypes {
		if v.name == name {
			return d, nil
		}
	}
	return Invalid, fmt.Errorf("unknown dtype %q", name)
}

// String is the safetensors name.
func (d DType) String() string {
	if v, ok := dtypes[d]; ok {
		return v.name
	}
	return fmt.Sprintf("DType(%d)", uint8(d))
}

// Size is the bytes of one element; 0 for an invalid type.
func (d DType) Size() int { return dtypes[d].size }

// Matrix is rows of float32 with a stride, in elements, between the starts of two rows. The zero value has no rows.
// Copies share Data. Row r is Data[r*Stride : r*Stride+Cols].
type Matrix struct {
	Rows, Cols, Stride int
	Data               []float32
}

// NewMatrix makes a zeroed, contiguous matrix.
func NewMatrix(rows, cols int) Matrix {
	return Matrix{Rows: rows, Cols: cols, Stride: cols, Data: make([]float32, rows*cols)}
}

// MatrixOf views data as contiguous rows. It panics if the length does not fit.
func MatrixOf(rows, cols int, data []float32) Matrix {
	if len(data) != rows*cols {
		panic("tensor: data length does not fit rows x cols")
	}
	return Matrix{Rows: rows, Cols: cols, Stride: cols, Data: data}
}

// Row is a view of row r; it is capped, so an append can't run into the next row.
func (m Matrix) Row(r int) []float32 {
	return m.Data[r*m.Stride : r*m.Stride+m.Cols : r*m.Stride+m.Cols]
}

// Slice is a view of rows [from, to).
func (m Matrix) Slice(from, to int) Matrix {
	if from == to {
		return Matrix{Cols: m.Cols, Stride: m.Stride}
	}
	return Matrix{Rows: to - from, Cols: m.Cols, Stride: m.Stride, Data: m.Data[from*m.Stride : (to-1)*m.Stride+m.Cols]}
}

// Contiguous reports whether the rows follow each other without gaps.
func (m Matrix) Contiguous() bool { return m.Rows <= 1 || m.Stride == m.Cols }

// View is a weight tensor as stored: little-endian bytes, row-major, or in the layout that Packing names. It does not
// own Data, which may be a read-only mapping; writing to it is an error that the kernel punishes.
type View struct {
	DType   DType
	Shape   []int // of the tensor itself, however it is packed
	Data    []byte
	Packing string // "" = row-major; else a layout that both sides know, such as "n16k2"
}

// Elems is the number of elements.
func (v View) Elems() int {
	n := 1
	for _, d := range v.Shape {
		n *= d
	}
	return n
}
