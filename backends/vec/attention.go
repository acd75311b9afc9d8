package vec

import (
	"math"

	"github.com/pimoe/pimoe/backends/internal/fma"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// BlockTokens is how many tokens the blocks of Keys and Values have: the lanes of a vector.
const BlockTokens = lanes

const lanes = 16

// Store is memory of keys or values: F where DType is F32, H where it is BF16 or F16.
type Store struct {
	DType tensor.DType
	F     []float32
	H     []uint16
}

// NewStore makes room for n values.
func NewStore(dtype tensor.DType, n int) Store {
	if dtype == tensor.F32 {
		return Store{DType: dtype, F: make([]float32, n)}
	}
	return Store{DType: dtype, H: make([]uint16, n)}
}

// Len is how many values the store has room for.
func (s Store) Len() int { return len(s.F) + len(s.H) }

// PutRow stores consecutive values from at on, rounded to the store's type.
func (s Store) PutRow(at int, src []float32) {
	switch s.DType {
	case tensor.F32:
		copy(s.F[at:at+len(src)], src)
	case tensor.BF16:
		ToBF16(s.H[at:at+len(src)], src)
	default:
		ToF16(s.H[at:at+len(src)], src)
	}
}

// PutColumn stores value i at at + i * BlockTokens, rounded to the store's type.
func (s Store) PutColumn(at int, src []float32) {
	if s.DType == tensor.F32 {
		for column := s.F[at:]; len(src) > 0; src = src[1:] {
			column[0] = src[0]
			column = column[min(lanes, len(column)):]
		}
		return
	}
	var buf [64]uint16
	for len(src) > 0 {
		n := min(len(src), len(buf))
		if s.DType == tensor.BF16 {
			ToBF16(buf[:n], src[:n])
		} else {
			ToF16(buf[:n], src[:n])
		}
		for i, h := range buf[:n] {
			s.H[at+i*lanes] = h
		}
		at, src = at+n*lanes, src[n:]
	}
}

// Scores multiplies queries by keys: s[i*ld + 16 j + t] = sum over dimensions d ascending of q[i*dim + d] * key, a chain
// of fused multiply-adds from +0 on, for the tokens t of all blocks j. Block j has its keys as [dim][BlockTokens] at
// at[j] of k. q is [queries, dim], s [queries, ld].
func Scores(s []float32, ld int, q []float32, dim int, k Store, at []int) {
	queries := len(q) / dim
	if queries*dim != len(q) || ld < lanes*len(at) || len(s) < queries*ld {
		panic(panicLength)
	}
	for _, a := range at {
		_ = k.slice(a, dim*lanes)
	}
	if queries > 0 && len(at) > 0 {
		scores(s, ld, q, dim, k, at)
	}
}

// slice panics where values are outside the store.
func (s Store) slice(at, n int) Store {
	if s.DType == tensor.F32 {
		return Store{DType: s.DType, F: s.F[at : at+n]}
	}
	return Store{DType: s.DType, H: s.H[at : at+n]}
}

// floats is values as float32, one by one.
func (s Store) float(i int) float32 {
	switch s.DType {
	case tensor.F32:
		return s.F[i]
	case tensor.BF16:
		return math.Float32frombits(uint32(s.H[i]) << 16)
	}
	return f16Float(s.H[i])
}

// Mix adds weighted values: out[i*width + d] continues as a chain of fused multiply-adds of p[i*ld + t] * value over the
// tokens t from from to to - 1, ascending. Block j has the values of tokens 16 j to 16 j + 15 as [BlockTokens][width] at
// at[j] of v; width is a multiple of 16. out is [queries, width], p [queries, ld].
func Mix(out []float32, width int, p []float32, ld int, v Store, at []int, from, to int) {
	queries := len(out) / width
	if queries*width != len(out) || width%lanes != 0 || from < 0 || to > lanes*len(at) || ld < to || len(p) < queries*ld {
		panic(panicLength)
	}
	for j := from / lanes; j*lanes < to; j++ {
		_ = v.slice(at[j], width*lanes)
	}
	if queries > 0 && from < to {
		mix(out, width, p, ld, v, at, from, to)
	}
}

// Softmax is one query's softmax on the way, block after block (Milakov and Gimelshein 2018): the largest score so far,
// and the sum of the exponentials below it in 16 lanes.
type Softmax struct {
	Top float32
	Sum [lanes]float32
}

// NewSoftmax is a softmax over nothing yet.
func NewSoftmax() Softmax { return Softmax{Top: float32(math.Inf(-1))} }

// Step turns the scores from from to to - 1 into weights in place: e^(score - top) with the largest score so far, these
// included. Scores beside them up to whole vectors are overwritten with 0. What came of the weights before must be multiplied by the result.
func (m *Softmax) Step(s []float32, from, to int) float32 {
	if from < 0 || from >= to || to > len(s) {
		panic(panicLength)
	}
	lo, hi := from&^(lanes-1), (to+lanes-1)&^(lanes-1)
	for i := lo; i < from; i++ {
		s[i] = float32(math.Inf(-1))
	}
	for i := to; i < hi; i++ {
		s[i] = float32(math.Inf(-1))
	}
	s = s[lo:hi]
	before := m.Top
	if t := top(s); t > m.Top || t != t {
		m.Top = t
	}
	rescale := float32(1)
	if m.Top != before {
		rescale = Exp(before - m.Top)
		for i := range m.Sum {
			m.Sum[i] *= rescale
		}
	}
	expSum(s, m.Top, &m.Sum)
	return rescale
}

// Total is the sum of all exponentials.
func (m *Softmax) Total() float32 { return fold(m.Sum) }

func topGeneric(s []float32) float32 {
	top := float32(math.Inf(-1))
	for _, v := range s {
		if !(top > v) { // as the vectors have it: a NaN is taken, and lost to the next number
			top = v
		}
	}
	return top
}

func expSumGeneric(s []float32, top float32, sum *[lanes]float32) {
	for i, v := range s {
		s[i] = Exp(v - top)
		sum[i%lanes] += s[i]
	}
}

func scoresGeneric(s []float32, ld int, q []float32, dim int, k Store, at []int) {
	for i := 0; len(q) > 0; i, q = i+1, q[dim:] {
		for j, a := range at {
			out := s[i*ld+j*lanes:][:lanes]
			clear(out)
			for d, v := range q[:dim] {
				for t := range out {
					out[t] = fma.F32(v, k.float(a+d*lanes+t), out[t])
				}
			}
		}
	}
}

func mixGeneric(out []float32, width int, p []float32, ld int, v Store, at []int, from, to int) {
	for i := 0; len(out) > 0; i, out = i+1, out[width:] {
		for t := from; t < to; t++ {
			w, a := p[i*ld+t], at[t/lanes]+t%lanes*width
			for d := range width {
				out[d] = fma.F32(w, v.float(a+d), out[d])
			}
		}
	}
}
