package kernel

import (
	"math"
	"unsafe"

	"github.com/pimoe/pimoe/backends/internal/fma"
	"github.com/pimoe/pimoe/backends/pack"
)

// quantizeGeneric is the definition of activations in the class: per group of 32, the scale is absmax / 127 and q is
// x * (127 / absmax), rounded to nearest, ties to even, all in float32.
func quantizeGeneric(q *int8, g *Group, x *float32, blocks int) {
	xs := unsafe.Slice(x, blocks*pack.BlockIn)
	qs := unsafe.Slice(q, len(xs))
	for i := range unsafe.Slice(g, blocks*groups) {
		from := i * pack.Group
		unsafe.Slice(g, blocks*groups)[i] = quantizeGroup(qs[from:from+pack.Group], xs[from:from+pack.Group])
	}
}

func quantizeGroup(q []int8, x []float32) Group {
	var top uint32 // magnitudes compare like their bits; infinities and NaN are above all others
	for _, v := range x {
		top = max(top, math.Float32bits(v)&^(1<<31))
	}
	absmax := math.Float32frombits(top)
	switch {
	case top >= math.Float32bits(float32(math.Inf(1))):
		clear(q)
		return Group{Scale: float32(math.NaN())}
	case absmax <= tiny:
		clear(q)
		return Group{}
	}
	inverse, sum := 127/absmax, int32(0)
	for i, v := range x {
		n := int32(math.RoundToEven(float64(v * inverse)))
		q[i] = int8(n)
		sum += n
	}
	return Group{Scale: absmax / 127, Correct: -128 * sum}
}

// runGeneric is the definition of sums in the class: groups ascend, the integers of a group are summed exactly, and an
// output's one float32 accumulator takes each group's sum by a fused multiply-add with the product of the two scales.
func runGeneric(t *Tile, rows, panels int) {
	for r := range rows {
		x := unsafe.Slice((*int8)(unsafe.Add(t.X, uintptr(r)*t.XStride)), t.Blocks*pack.BlockIn)
		g := unsafe.Slice((*Group)(unsafe.Add(t.G, uintptr(r)*t.GStride)), t.Blocks*groups)
		for p := range panels {
			w := unsafe.Slice((*byte)(unsafe.Add(t.W, uintptr(p)*t.WStride)), t.Blocks*pack.BlockBytes)
			y := unsafe.Slice((*float32)(unsafe.Add(t.Y, uintptr(r)*t.YStride+uintptr(p)*4*pack.Panel)), pack.Panel)
			if t.Resume == 0 {
				clear(y)
			}
			for i := range g {
				block := w[i/groups*pack.BlockBytes:][:pack.BlockBytes]
				scales := block[groups*lines*lineBytes+i%groups*scaleBytes:][:scaleBytes]
				addGroup((*[pack.Panel]float32)(y), block[i%groups*lines*lineBytes:][:lines*lineBytes], scales, x[i*pack.Group:][:pack.Group], g[i])
			}
		}
	}
}

func addGroup(y *[pack.Panel]float32, w, scales []byte, x []int8, g Group) {
	for o := range y {
		sum := g.Correct
		for l := range lines {
			four := w[l*lineBytes+4*o:][:4]
			for i, v := range x[4*l:][:4] {
				sum += int32(four[i]) * int32(v)
			}
		}
		scale := math.Float32frombits(uint32(scales[2*o])<<16 | uint32(scales[2*o+1])<<24)
		y[o] = fma.F32(float32(sum), float32(scale*g.Scale), y[o])
	}
}
