package pack

import (
	"encoding/binary"
	"math"

	"github.com/pimoe/pimoe/sdk/tensor"
)

// The packing g32n16, [panel][in/64] blocks, inputs padded to a multiple of 64 by zero weights. A block has 16 lines of
// 64 bytes, line j = 16 outputs x inputs 4j to 4j+3 of the block as uint8 = q + 128, and then 2 x 16 bf16, the scales of
// the block's two groups of 32 inputs for the 16 outputs.
const (
	Group      = 32
	BlockIn    = 64
	BlockBytes = 16*64 + 2*Panel*2
)

func sizeG32(_ tensor.DType, out, in int) int {
	return panels(out) * ((in + BlockIn - 1) / BlockIn) * BlockBytes
}

func packG32(dst []byte, w tensor.View) {
	out, in := w.Shape[0], w.Shape[1]
	blocks := (in + BlockIn - 1) / BlockIn
	for p := range panels(out) {
		for b := range blocks {
			block := dst[(p*blocks+b)*BlockBytes:][:BlockBytes]
			for i := range 16 * 64 {
				block[i] = 128
			}
			for lane := range min(Panel, out-p*Panel) {
				for g := range BlockIn / Group {
					packGroup(block, lane, g, w, p*Panel+lane, b*BlockIn+g*Group)
				}
			}
		}
	}
}

func packGroup(block []byte, lane, g int, w tensor.View, o, from int) {
	in := w.Shape[1]
	n := min(Group, in-from)
	var v [Group]float32
	var top float32
	for i := range max(n, 0) {
		v[i] = element(w, o*in+from+i)
		top = max(top, float32(math.Abs(float64(v[i]))))
	}
	scale := scaleUp(top / 127)
	binary.LittleEndian.PutUint16(block[16*64+(g*Panel+lane)*2:], uint16(math.Float32bits(scale)>>16))
	if scale == 0 {
		return
	}
	for i := range max(n, 0) {
		at := g*Group + i
		block[at/4*64+lane*4+at%4] = byte(int(math.RoundToEven(float64(v[i]/scale))) + 128)
	}
}

// scaleUp is the least bf16 that is not below v >= 0.
func scaleUp(v float32) float32 {
	return math.Float32frombits((math.Float32bits(v) + 0xffff) &^ 0xffff)
}

func element(w tensor.View, at int) float32 {
	b := w.Data[at*w.DType.Size():]
	switch w.DType {
	case tensor.F32:
		return math.Float32frombits(binary.LittleEndian.Uint32(b))
	case tensor.BF16:
		return math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
	}
	h := binary.LittleEndian.Uint16(b)
	sign := uint32(h&0x8000) << 16
	if h&0x7c00 == 0x7c00 {
		return math.Float32frombits(sign | 0x7f800000 | uint32(h&0x3ff)<<13)
	}
	return math.Float32frombits(sign | math.Float32bits(math.Float32frombits(uint32(h&0x7fff)<<13)*0x1p112))
}

func unpackG32(dst []byte, v tensor.View) {
	out, in := v.Shape[0], v.Shape[1]
	blocks := (in + BlockIn - 1) / BlockIn
	for o := range out {
		for i := range in {
			block := v.Data[(o/Panel*blocks+i/BlockIn)*BlockBytes:][:BlockBytes]
			at, lane := i%BlockIn, o%Panel
			scale := math.Float32frombits(uint32(binary.LittleEndian.Uint16(block[16*64+(at/Group*Panel+lane)*2:])) << 16)
			q := int(block[at/4*64+lane*4+at%4]) - 128
			binary.LittleEndian.PutUint32(dst[(o*in+i)*4:], math.Float32bits(float32(q)*scale))
		}
	}
}
