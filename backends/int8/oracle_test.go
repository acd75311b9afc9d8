package int8_test

import (
	"math"

	"github.com/pimoe/pimoe/backends/internal/fma"
	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// group is 32 numbers, or fewer, as integers.
type group struct {
	q     [32]int
	scale float32
}

// quantized cuts v into groups up to a multiple of 64 numbers. It says of each number what the class's definition does,
// one by one, and shares no code with the backend or with package pack.
func quantized(v []float32, weights bool) []group {
	groups := make([]group, (len(v)+63)/64*2)
	for n := range groups {
		g := &groups[n]
		v := v[min(32*n, len(v)):min(32*n+32, len(v))]
		var top float32
		finite := true
		for _, f := range v {
			finite = finite && f-f == 0
			top = max(top, float32(math.Abs(float64(f))))
		}
		if !finite {
			g.scale = float32(math.NaN())
			continue
		}
		if g.scale = top / 127; weights {
			for bits := math.Float32bits(g.scale); bits&0xffff != 0; bits++ {
				g.scale = math.Float32frombits(bits + 1)
			}
		} else if top <= 127*0x1p-128 {
			g.scale = 0
		}
		if g.scale == 0 {
			continue
		}
		for i, f := range v {
			if weights {
				g.q[i] = int(math.RoundToEven(float64(f / g.scale)))
			} else {
				g.q[i] = int(math.RoundToEven(float64(f * (127 / top))))
			}
		}
	}
	return groups
}

// product is x W^T + bias by the definition; bias may be nil.
func product(w, bias []float32, out int, x tensor.Matrix) tensor.Matrix {
	y := tensor.NewMatrix(x.Rows, out)
	for o := range out {
		wg := quantized(w[o*x.Cols:(o+1)*x.Cols], true)
		for r := range x.Rows {
			var acc float32
			for n, xg := range quantized(x.Row(r), false) {
				sum := 0
				for i, q := range xg.q {
					sum += q * wg[n].q[i]
				}
				acc = fma.F32(float32(sum), float32(wg[n].scale*xg.scale), acc)
			}
			if bias != nil {
				acc += bias[o]
			}
			y.Row(r)[o] = acc
		}
	}
	return y
}

// block is down(activation(gate x) * up x).
func block(activation string, gate, up, down []float32, inner int, x tensor.Matrix) tensor.Matrix {
	g, u := product(gate, nil, inner, x), product(up, nil, inner, x)
	mul := map[string]func(dst, gate, up []float32){"silu": vec.SiLUMul, "gelu_tanh": vec.GELUTanhMul}[activation]
	mul(g.Data, g.Data, u.Data)
	return product(down, nil, x.Cols, g)
}
