package cpu

import (
	"encoding/binary"
	"math"

	"github.com/pimoe/pimoe/backends/cpu/internal/kernel"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// floats converts a checked view of one of the three types; a view without data is nil.
func floats(v tensor.View) []float32 {
	if len(v.Data) == 0 {
		return nil
	}
	f := make([]float32, v.Elems())
	for i := range f {
		switch v.DType {
		case tensor.F32:
			f[i] = math.Float32frombits(binary.LittleEndian.Uint32(v.Data[4*i:]))
		case tensor.BF16:
			f[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(v.Data[2*i:])) << 16)
		case tensor.F16:
			f[i] = kernel.Half(binary.LittleEndian.Uint16(v.Data[2*i:]))
		}
	}
	return f
}
