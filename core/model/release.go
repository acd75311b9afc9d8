package model

import (
	"slices"
	"unsafe"

	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Release gives the memory of pages, whose content is undefined afterwards, back to the system where it can be. The pages are
// used again like those that were never written. Other pages may be in use meanwhile.
func (c *Cache) Release(pages []int32) {
	pages = slices.Sorted(slices.Values(pages))
	size := c.spec.DType.Size()
	for len(pages) > 0 && c.layers != nil {
		n := 1
		for n < len(pages) && pages[n] == pages[0]+int32(n) {
			n++
		}
		heads := c.spec.PageTokens * c.kvHeads
		for _, l := range c.layers {
			drop(memoryOf(l.k), int(pages[0])*heads*c.headDim*size, n*heads*c.headDim*size)
			drop(memoryOf(l.v), int(pages[0])*heads*c.width*size, n*heads*c.width*size)
		}
		pages = pages[n:]
	}
}

// memoryOf is a store as bytes.
func memoryOf(s vec.Store) []byte {
	if s.DType == tensor.F32 {
		return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s.F))), len(s.F)*4)
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s.H))), len(s.H)*2)
}

// drop gives back the whole pages of the system that lie within n bytes from a place.
func drop(b []byte, from, n int) {
	const page = 4096 // the least that a system has; where it has more the kernel refuses, which is no error
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b))) + uintptr(from)
	skip := int(-start & (page - 1))
	if n -= skip; n < page {
		return
	}
	release(b[from+skip:][:n&^(page-1)])
}
