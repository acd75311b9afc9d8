package cpu

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/pimoe/pimoe/backends/cpu/internal/kernel"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// littleEndian is whether this machine stores numbers as safetensors does.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// words views little-endian bytes as numbers, in place where the machine allows it: the tensors of a safetensors file
// may begin at any byte.
func words[T float32 | uint16](b []byte) []T {
	var zero T
	size := int(unsafe.Sizeof(zero))
	if uintptr(unsafe.Pointer(&b[0]))%uintptr(size) == 0 && littleEndian {
		return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), len(b)/size)
	}
	w := make([]T, len(b)/size)
	if _, err := binary.Decode(b, binary.LittleEndian, w); err != nil {
		panic("cpu: checked bytes do not decode")
	}
	return w
}

// floats copies a checked view of one of the three types; a view without data is nil.
func floats(v tensor.View) []float32 {
	if len(v.Data) == 0 {
		return nil
	}
	f := make([]float32, v.Shape[0])
	if v.DType == tensor.F32 {
		for i := range f {
			f[i] = math.Float32frombits(binary.LittleEndian.Uint32(v.Data[4*i:]))
		}
		return f
	}
	kernel.Widen(f, words[uint16](v.Data), tableOf(v.DType))
	return f
}

// tableOf is the table of a 16-bit type.
func tableOf(dtype tensor.DType) *kernel.Table {
	if dtype == tensor.F16 {
		return kernel.F16()
	}
	return kernel.BF16()
}
