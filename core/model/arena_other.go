//go:build !linux

package model

import "unsafe"

// newArena takes memory of at least so many bytes from Go's heap.
func newArena(bytes int) (*arena, error) {
	b := make([]byte, bytes+hugePage)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (hugePage - 1)
	return &arena{all: b, rest: b[skip:]}, nil
}

// close lets the collector have the memory.
func (a *arena) close() error {
	a.all, a.rest = nil, nil
	return nil
}

// release does nothing: the memory is Go's, and may be needed again.
func release([]byte) {}
