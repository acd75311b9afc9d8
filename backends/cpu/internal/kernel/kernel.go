// Package kernel holds the inner loops of package cpu, one in each file, each documented by the naive loop that it
// must equal to the bit. All of them keep one accumulator for each output, walk the input upwards and round a product
// before they add it; what makes them fast is that several outputs are under way at once, so that no addition waits
// for the one before it.
//
// Only backends/cpu calls it. The callers guarantee that a slice of weights has len(y)*len(x) elements; the kernels
// refuse, by a panic of the run-time's bounds check, to read beyond it. They know nothing of threads and strides.
package kernel

// Outputs is how many outputs the float32 kernel has under way: whoever splits work does so at its multiples. Scalar
// code on x86-64 can start two multiplications and two additions in a cycle and an addition takes three, so six
// accumulators keep the adders busy; eight no longer fit the registers and halve the speed.
const Outputs = 6
