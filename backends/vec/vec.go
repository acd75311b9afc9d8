// Package vec holds the vector operations between matrix products: activations, norms, rotary embedding, softmax,
// attention over pages of keys and values, sums, and conversions to and from 16 bits. The trunk and the backends' fused
// expert blocks use it.
//
// Every operation has the same bits on every level of package isa: each is a fixed sequence of float32 operations, each
// rounded once, and where values are added up it has 16 virtual lanes, of which value i belongs to lane i mod 16, and
// which are added in the order j and j+8, j and j+4, j and j+2, j and j+1. NaN payloads are not promised; NaN-ness is.
//
// It refuses threads and matrices: callers cut their work into rows and tasks. Slices of unequal length panic.
package vec

//go:generate sh -c "cd _asm && go run . -out ../kernels_amd64.s -stubs ../stubs_amd64.go -pkg vec"

import "github.com/pimoe/pimoe/backends/isa"

// level is what the operations run on. Only this package's tests change it.
var level = isa.Active()

const panicLength = "vec: slices differ in length"

// check panics unless a slice has n values.
func check(n int, slices ...int) {
	for _, s := range slices {
		if s != n {
			panic(panicLength)
		}
	}
}
