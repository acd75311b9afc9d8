package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// maxDim bounds every width and count that arrives, far above any model, so that products of two fit an int64.
const maxDim = 1 << 28

// matrix packs rows without gaps.
func matrix(m tensor.Matrix) *pb.Matrix {
	data := make([]byte, 0, m.Rows*m.Cols*4)
	for r := range m.Rows {
		for _, v := range m.Row(r) {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
		}
	}
	return &pb.Matrix{Rows: uint32(m.Rows), Cols: uint32(m.Cols), Data: data}
}

// unpack makes a matrix of its own memory.
func unpack(p *pb.Matrix) (tensor.Matrix, error) {
	rows, cols := p.GetRows(), p.GetCols()
	if rows > maxDim || cols > maxDim || uint64(rows)*uint64(cols)*4 != uint64(len(p.GetData())) {
		return tensor.Matrix{}, fmt.Errorf("matrix of %d x %d in %d bytes: %w", rows, cols, len(p.GetData()), sdk.ErrInvalid)
	}
	m := tensor.NewMatrix(int(rows), int(cols))
	decode(m.Data, p.GetData())
	return m, nil
}

func decode(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

// fill copies a packed matrix into one of the same shape and judges what it copied.
func fill(dst tensor.Matrix, p *pb.Matrix) error {
	if int64(p.GetRows()) != int64(dst.Rows) || int64(p.GetCols()) != int64(dst.Cols) || len(p.GetData()) != dst.Rows*dst.Cols*4 {
		return fmt.Errorf("answer of %d x %d in %d bytes, want %d x %d: %w",
			p.GetRows(), p.GetCols(), len(p.GetData()), dst.Rows, dst.Cols, sdk.ErrInvalidOutput)
	}
	for r := range dst.Rows {
		row := dst.Row(r)
		decode(row, p.Data[r*dst.Cols*4:])
		if c := notFinite(row); c >= 0 {
			return invalidValue(r, c, row[c])
		}
	}
	return nil
}

// copyFinite copies len(dst) values, loading each once, and reports whether all that it stored are finite.
func copyFinite(dst, src []float32) bool {
	if len(dst) == 0 {
		return true
	}
	n := copyFiniteLines(dst, src[:len(dst)])
	if n < 0 {
		return false
	}
	copy(dst[n:], src[n:len(dst)])
	return notFinite(dst[n:]) < 0
}

func invalidValue(row, col int, v float32) error { return &ValueError{row, col, v} }

// ValueError is about a value that is not finite. It wraps sdk.ErrInvalidOutput.
type ValueError struct {
	row, col int
	value    float32
}

func (e *ValueError) Error() string {
	return fmt.Sprintf("row %d, column %d is %v: %v", e.row, e.col, e.value, sdk.ErrInvalidOutput)
}

// Unwrap is its class.
func (e *ValueError) Unwrap() error { return sdk.ErrInvalidOutput }

// Judge looks at a result in the host's own memory: every value finite.
func Judge(m tensor.Matrix) error {
	for r := range m.Rows {
		row := m.Row(r)
		if c := notFinite(row); c >= 0 {
			return invalidValue(r, c, row[c])
		}
	}
	return nil
}

// notFinite is the index of the first NaN or infinity, or -1. Both have all exponent bits set, so it is enough to find
// the largest exponent; four at a time, because each maximum waits for the one before.
func notFinite(x []float32) int {
	const exponent = 0x7f800000
	var a, b, c, d uint32
	i := 0
	for ; i+4 <= len(x); i += 4 {
		y := x[i : i+4 : i+4]
		a = max(a, math.Float32bits(y[0])&exponent)
		b = max(b, math.Float32bits(y[1])&exponent)
		c = max(c, math.Float32bits(y[2])&exponent)
		d = max(d, math.Float32bits(y[3])&exponent)
	}
	for ; i < len(x); i++ {
		a = max(a, math.Float32bits(x[i])&exponent)
	}
	if max(a, b, c, d) != exponent {
		return -1
	}
	for i, v := range x {
		if math.Float32bits(v)&exponent == exponent {
			return i
		}
	}
	return -1
}

// poison fills memory with NaN before an author's code writes its answer, so that a row it forgot is caught as invalid
// instead of showing what an earlier call left there.
func poison(x []float32) {
	for len(x) > 0 {
		x = x[copy(x, nans[:]):]
	}
}

// prick is poison for shared memory, where writing all of a large answer twice would show: a NaN in every fourth line of
// the cache, and at both ends of a row. What an author's code forgets is a row or a panel of them.
func prick(m tensor.Matrix) {
	const every = 64
	for r := range m.Rows {
		row := m.Row(r)
		for i := 0; i < len(row); i += every {
			row[i] = nans[0]
		}
		row[len(row)-1] = nans[0]
	}
}

var nans = func() (x [1024]float32) {
	for i := range x {
		x[i] = float32(math.NaN())
	}
	return x
}()

// The plane exists only on little-endian machines, where a payload is an array of values as it is.

func asFloats(b []byte, n int) []float32 {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&b[:4*n][0])), n)
}

func asInts(b []byte, n int) []int32 {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*int32)(unsafe.Pointer(&b[:4*n][0])), n)
}

// putRows copies rows into a payload without gaps and returns the rest of the payload.
func putRows(b []byte, m tensor.Matrix) []byte {
	dst := asFloats(b, m.Rows*m.Cols)
	for r := range m.Rows {
		copy(dst[r*m.Cols:], m.Row(r))
	}
	return b[4*m.Rows*m.Cols:]
}
