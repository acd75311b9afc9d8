package model

import "github.com/pimoe/pimoe/sdk/tensor"

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
	b.data = b.data[:n]
	return tensor.MatrixOf(rows, cols, b.data)
}

// scratch is all the memory that a Forward needs beside its results.
type scratch struct {
	x, h, y, qkv, attended     buffer
	gate, shared, sharedGate   buffer
	cos, sin, last, headLogits buffer
	tokens, positions          []int32
	rows                       []rowOf
	items                      []item
	workers                    []*attentionWorker
	logits                     []tensor.Matrix
}

// rowOf says which token a row of the batch is.
type rowOf struct {
	span     int
	position int
}
