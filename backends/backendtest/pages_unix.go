//go:build unix

package backendtest

import (
	"os"
	"syscall"
	"testing"
	"unsafe"
)

// atEnd copies b to where no byte can be read behind it, until the test ends.
func atEnd(t testing.TB, b []byte) []byte {
	t.Helper()
	page := os.Getpagesize()
	size := (len(b) + page - 1) / page * page
	room, err := syscall.Mmap(-1, 0, size+page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(room) })
	if err := syscall.Mprotect(room[size:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	at := room[size-len(b) : size : size]
	copy(at, b)
	return at
}

// floatsAtEnd is the same for numbers.
func floatsAtEnd(t testing.TB, f []float32) []float32 {
	t.Helper()
	if len(f) == 0 {
		return f
	}
	b := atEnd(t, unsafe.Slice((*byte)(unsafe.Pointer(&f[0])), 4*len(f)))
	return unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), len(f))
}
