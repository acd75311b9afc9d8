package kernel

// Fence chooses between the kernels for AMD's and for other processors.
func Fence(on bool) (before bool) {
	before, fenced = fenced, on
	return before
}
