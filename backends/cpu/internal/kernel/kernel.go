// Package kernel holds the inner loops of package cpu: panels of packed weights times tiles of rows. The assembly is
// written by _asm, one function for a format of weights and a level of instructions, and generic is its twin in pure Go.
// All keep one accumulator for each output, walk the input upwards and take one fused multiply-add for each weight, so
// that a row's bits depend on neither the level nor the tile.
//
// Only backends/cpu calls it, and guarantees that weights, rows and results are as large as a tile says: the assembly
// checks nothing. It knows nothing of threads and of matrices that are no multiple of 16 outputs.
package kernel
