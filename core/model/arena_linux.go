package model

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newArena maps memory of at least so many bytes and asks for huge pages, without which attention over long contexts
// waits for the page table. The kernel may refuse these; that is no error.
func newArena(bytes int) (*arena, error) {
	b, err := unix.Mmap(-1, 0, bytes+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of memory: %w", bytes, err)
	}
	if bytes >= 8*hugePage { // a small cache would be resident as a whole with its first page
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	}
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (hugePage - 1)
	return &arena{all: b, rest: b[skip:]}, nil
}

// close gives the memory back.
func (a *arena) close() error {
	b := a.all
	a.all, a.rest = nil, nil
	if b == nil {
		return nil
	}
	return unix.Munmap(b)
}

// release gives whole pages of memory back; they read as zeros then.
func release(b []byte) { _ = unix.Madvise(b, unix.MADV_DONTNEED) }
