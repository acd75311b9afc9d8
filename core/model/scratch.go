package model

import (
	"math"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// buffer is memory that is reused from call to call.
type buffer struct{ data []float32 }

// keep is how many floats (64 MiB) a buffer holds on to however little the next call needs: a rare large call, such as
// the logits of a whole text, is not kept for ever.
const keep = 16 << 20

// matrix is a contiguous [rows, cols] over the buffer, with whatever was in it.
func (b *buffer) matrix(rows, cols int) tensor.Matrix {
	n := rows * cols
	if cap(b.data) < n || cap(b.data) > keep && cap(b.data)/8 > n {
		b.data = make([]float32, n)
	}
	return tensor.MatrixOf(rows, cols, b.data[:n])
}

// scratch is all the memory that a Forward needs beside its results.
type scratch struct {
	x, h, q, k, v, a, y, gate  buffer
	ffnGate, ffnUp             buffer
	shared, sharedGate         buffer
	cos, sin, last, headLogits buffer
	tokens, positions          []int32
	rows                       []rowOf
	items                      []attentionItem
	workers                    []attentionWorker
	logits                     []tensor.Matrix
}

// rowOf says which token a row of the batch is.
type rowOf struct {
	span     int
	position int
}

// smallWork is the number of float operations below which starting goroutines costs more than it gains: one takes
// about a microsecond, in which a core does some thousand of them.
const smallWork = 1 << 15

// parallel calls do(worker, i) for every i below n on the team, and returns when all are done. work is about how many
// operations that is in all. Which worker gets which i must not matter to the result.
func parallel(t team.Team, n, work int, do func(worker, i int)) {
	if t.Threads() <= 1 || work < smallWork {
		for i := range n {
			do(0, i)
		}
		return
	}
	t.Do(n, pieces(do))
}

// pieces is a function as a team's task.
type pieces func(worker, i int)

func (f pieces) Run(worker, i int) { f(worker, i) }

// rmsNorm is x / sqrt(mean(x^2) + eps) * w (Zhang and Sennrich 2019), squares summed in ascending order. y may be x.
func rmsNorm(y, x, w []float32, eps float32) {
	var sum float32
	for _, v := range x {
		sum += float32(v * v)
	}
	r := float32(1 / math.Sqrt(float64(sum/float32(len(x))+eps)))
	y, w = y[:len(x)], w[:len(x)]
	for i, v := range x {
		y[i] = float32(v*r) * w[i]
	}
}

// addScaled is y += w x.
func addScaled(y, x []float32, w float32) {
	x = x[:len(y)]
	for i, v := range x {
		y[i] += float32(v * w)
	}
}

// clamp cuts x to [-limit, limit].
func clamp(x []float32, limit float32) {
	for i, v := range x {
		x[i] = min(max(v, -limit), limit)
	}
}

func finite(x []float32) bool {
	for _, v := range x {
		if v-v != 0 {
			return false
		}
	}
	return true
}
