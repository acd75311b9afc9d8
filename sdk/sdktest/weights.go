package sdktest

import (
	"encoding/binary"
	"math"
	"math/rand/v2"

	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// The shapes: small enough for the plainest plugin, and no two alike, so that a mixed-up one shows.
const (
	hidden       = 64
	intermediate = 96
	maxRows      = 8
)

var units = []expert.Unit{{Layer: 0, Expert: 0}, {Layer: 0, Expert: 1}, {Layer: 3, Expert: 0}, {Layer: 3, Expert: 1}, {Layer: 3, Expert: 5}}

// newSpec makes a spec with random weights that its dtype holds exactly.
func newSpec(d tensor.DType, activation string) expert.Spec {
	rng := rand.New(rand.NewPCG(11, uint64(d)))
	spec := expert.Spec{Hidden: hidden, Intermediate: intermediate, Activation: activation}
	for _, u := range units {
		spec.Units = append(spec.Units, expert.UnitWeights{
			Unit: u,
			Gate: random(rng, d, intermediate, hidden), Up: random(rng, d, intermediate, hidden), Down: random(rng, d, hidden, intermediate),
		})
	}
	return spec
}

func random(rng *rand.Rand, d tensor.DType, out, in int) tensor.View {
	v := tensor.View{DType: d, Shape: []int{out, in}}
	for range out * in {
		switch d {
		case tensor.F16: // exponents 2^-7 to 2^-2, any fraction
			v.Data = binary.LittleEndian.AppendUint16(v.Data, uint16(rng.Uint32())&0x83ff|uint16(8+rng.IntN(6))<<10)
		case tensor.BF16:
			v.Data = binary.LittleEndian.AppendUint16(v.Data, uint16(math.Float32bits(float32(rng.NormFloat64()/8))>>16))
		default:
			v.Data = binary.LittleEndian.AppendUint32(v.Data, math.Float32bits(float32(rng.NormFloat64()/8)))
		}
	}
	return v
}

// value reads element i.
func value(v tensor.View, i int) float64 {
	switch v.DType {
	case tensor.F16:
		b := binary.LittleEndian.Uint16(v.Data[2*i:])
		f := math.Ldexp(1+float64(b&0x3ff)/1024, int(b>>10&31)-15) // normal numbers only
		if b>>15 != 0 {
			f = -f
		}
		return f
	case tensor.BF16:
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(v.Data[2*i:])) << 16))
	default:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(v.Data[4*i:])))
	}
}

// reference is down(act(gate x) * up x) in float64.
func reference(u expert.UnitWeights, activation string, x []float32) []float64 {
	in := make([]float64, len(x))
	for i, v := range x {
		in[i] = float64(v)
	}
	g, up := linear(u.Gate, in), linear(u.Up, in)
	for i, v := range g {
		if activation == "silu" {
			v = v / (1 + math.Exp(-v))
		} else {
			v = 0.5 * v * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
		}
		g[i] = v * up[i]
	}
	return linear(u.Down, g)
}

func linear(w tensor.View, x []float64) []float64 {
	y := make([]float64, w.Shape[0])
	for o := range y {
		for i, v := range x {
			y[o] += value(w, o*len(x)+i) * v
		}
	}
	return y
}

// newCall makes a call of a layer's experts with some rows each.
func newCall(layer int, seed uint64, threads int, segments ...expert.Segment) *expert.Call {
	rows := 0
	for _, s := range segments {
		rows += s.Rows
	}
	c := &expert.Call{Layer: layer, Threads: threads, Segments: segments, X: tensor.NewMatrix(rows, hidden), Y: tensor.NewMatrix(rows, hidden)}
	rng := rand.New(rand.NewPCG(seed, 23))
	for i := range c.X.Data {
		c.X.Data[i] = float32(rng.NormFloat64())
	}
	return c
}

// matrices pairs a unit's matrices with their places in a shard.
func matrices(u *expert.UnitWeights, s *client.ShardUnit) []struct {
	from *tensor.View
	to   *client.ShardTensor
} {
	return []struct {
		from *tensor.View
		to   *client.ShardTensor
	}{{&u.Gate, &s.Gate}, {&u.Up, &s.Up}, {&u.Down, &s.Down}}
}
