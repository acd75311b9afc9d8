package model

import "unsafe"

// arena is zeroed memory outside Go's heap. A cache may be a quarter of the machine: on the heap it would let the
// collector put off its work until as much garbage lies around. Memory that was never written is not resident.
//
// Nothing that was taken from an arena may be used after close.
type arena struct {
	all  []byte
	rest []byte
}

// Slices of an arena begin at huge pages if they are large, else at cache lines.
const (
	hugePage  = 2 << 20
	cacheLine = 64
)

// arenaBytes is the room in an arena that a slice of so many bytes takes.
func arenaBytes(bytes int) int {
	if bytes >= 8*hugePage { // less than an eighth is lost by rounding
		return (bytes + hugePage - 1) &^ (hugePage - 1)
	}
	return (bytes + cacheLine - 1) &^ (cacheLine - 1)
}

// arenaSlice takes the next n elements of an arena. It panics when the arena was made too small.
func arenaSlice[T float32 | uint16](a *arena, n int) []T {
	var t T
	take := arenaBytes(n * int(unsafe.Sizeof(t)))
	b := a.rest[:take]
	a.rest = a.rest[take:]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n)
}
