package pack

import (
	"encoding/binary"
	"math"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/pimoe/pimoe/sdk/tensor"
)

// The packing g32n16, [panel][in/64] blocks, inputs padded to a multiple of 64 by zero weights. A block has 16 lines of
// 64 bytes, line j = 16 outputs x inputs 4j to 4j+3 of the block as uint8 = q + 128, and then 2 x 16 bf16, the scales of
// the block's two groups of 32 inputs for the 16 outputs.
//
// A group's scale is its largest magnitude / 127 in float32, rounded up to bf16; q is value / scale in float32, rounded to
// nearest, ties to even, so |q| <= 127. Where the scale is 0, q is. A group with a NaN or an infinity has a NaN for its scale,
// and q 0: whatever it is multiplied with, the output is NaN, as it would be or nearly so without quantising.
const (
	Group      = 32
	BlockIn    = 64
	BlockBytes = blockScales + 2*Panel*2

	blockLine   = 4 * Panel               // bytes of four inputs
	blockScales = BlockIn / 4 * blockLine // where the scales begin
)

func blocksG32(in int) int { return (in + BlockIn - 1) / BlockIn }

func sizeG32(_ tensor.DType, out, in int) int { return panels(out) * blocksG32(in) * BlockBytes }

// onCores runs do for every panel, on all cores.
func onCores(out int, do func(p int)) {
	n := panels(out)
	var next atomic.Int64
	var threads sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		threads.Go(func() {
			for p := int(next.Add(1)) - 1; p < n; p = int(next.Add(1)) - 1 {
				do(p)
			}
		})
	}
	threads.Wait()
}

func packG32(dst []byte, w tensor.View) {
	blocks := blocksG32(w.Shape[1])
	onCores(w.Shape[0], func(p int) {
		panel := dst[p*blocks*BlockBytes:][:blocks*BlockBytes]
		for b := range blocks {
			packBlock((*[BlockBytes]byte)(panel[b*BlockBytes:]), w, p*Panel, b*BlockIn)
		}
	})
}

// packBlock fills a block whose first output is o and whose first input is i.
func packBlock(block *[BlockBytes]byte, w tensor.View, o, i int) {
	out, in, size := w.Shape[0], w.Shape[1], w.DType.Size()
	n := min(BlockIn, in-i)
	var values [BlockIn]float32 // beyond n it stays zero
	for lane := range Panel {
		if o+lane < out {
			Widen(values[:n], w.Data[((o+lane)*in+i)*size:], w.DType)
		} else {
			clear(values[:])
		}
		for g := range BlockIn / Group {
			scale := packGroup(block[g*Group/4*blockLine+4*lane:blockScales], (*[Group]float32)(values[g*Group:]))
			binary.LittleEndian.PutUint16(block[blockScales+(g*Panel+lane)*2:], scale)
		}
	}
}

// packGroup writes the integers of a group, four in every line of dst, and gives the scale as bf16.
func packGroup(dst []byte, values *[Group]float32) uint16 {
	var top uint32 // magnitudes compare like their bits; infinities and NaN are above all others
	for _, v := range values {
		top = max(top, math.Float32bits(v)&^(1<<31))
	}
	// The least bf16 that is not below the quotient.
	scale := uint16((math.Float32bits(math.Float32frombits(top)/127) + 0xffff) >> 16)
	if top >= 0x7f800000 {
		scale = 0x7fc0
	}
	if scale == 0 || scale == 0x7fc0 {
		for l := range Group / 4 {
			binary.LittleEndian.PutUint32(dst[l*blockLine:], 0x80808080)
		}
		return scale
	}
	s := math.Float32frombits(uint32(scale) << 16)
	for l := range Group / 4 {
		binary.LittleEndian.PutUint32(dst[l*blockLine:],
			near(values[4*l]/s)|near(values[4*l+1]/s)<<8|near(values[4*l+2]/s)<<16|near(values[4*l+3]/s)<<24)
	}
	return scale
}

// near is v, at most 127 in magnitude, to the nearest integer, ties to even, + 128. Adding 1.5 * 2^23 rounds it into the last
// bits of a float32.
func near(v float32) uint32 { return (math.Float32bits(v+0x1.8p23) + 128) & 0xff }

// Widen converts values as they are stored, little-endian, to float32, exactly. d is F32, BF16 or F16.
func Widen(dst []float32, src []byte, d tensor.DType) {
	src = src[:len(dst)*d.Size()]
	switch d {
	case tensor.F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case tensor.BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	case tensor.F16:
		for i := range dst {
			dst[i] = half(binary.LittleEndian.Uint16(src[2*i:]))
		}
	default:
		panic("pack: Widen of a type that is no float of 16 or 32 bits")
	}
}

// half is a binary16 as float32. Its exponent is moved by a multiplication, which also normalises the subnormal ones.
func half(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	if h&0x7c00 == 0x7c00 {
		return math.Float32frombits(sign | 0x7f800000 | uint32(h&0x3ff)<<13)
	}
	return math.Float32frombits(sign | math.Float32bits(math.Float32frombits(uint32(h&0x7fff)<<13)*0x1p112))
}

func unpackG32(dst []byte, v tensor.View) {
	out, in := v.Shape[0], v.Shape[1]
	blocks := blocksG32(in)
	onCores(out, func(p int) {
		for b := range blocks {
			block := v.Data[(p*blocks+b)*BlockBytes:][:BlockBytes]
			for lane := range min(Panel, out-p*Panel) {
				row := dst[((p*Panel+lane)*in+b*BlockIn)*4:]
				for i := range min(BlockIn, in-b*BlockIn) {
					scale := uint32(binary.LittleEndian.Uint16(block[blockScales+(i/Group*Panel+lane)*2:])) << 16
					q := int(block[i/4*blockLine+4*lane+i%4]) - 128
					binary.LittleEndian.PutUint32(row[4*i:], math.Float32bits(float32(q)*math.Float32frombits(scale)))
				}
			}
		}
	})
}
