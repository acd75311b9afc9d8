//go:build !amd64 && !arm64

package doctor

// simd is empty: no kernel of ours uses this processor's instruction sets.
func simd() []string { return nil }
