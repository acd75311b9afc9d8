//go:build linux && (amd64 || arm64)

package plane

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ownerDied is what the kernel adds to a robust futex whose thread has ended (FUTEX_OWNER_DIED).
const ownerDied = 0x40000000

// will is what the kernel does for a thread when that ends: it marks one word, as if that were a mutex that the thread held
// (set_robust_list(2)). The kernel reads it until then: it must lie on the heap, where nothing moves, and be held until then.
type will struct {
	head struct { // struct robust_list_head
		first   uintptr // in the list; the last one's next is the head
		offset  int     // from an entry to its word
		pending uintptr
	}
	entry uintptr // the next one: the head
	word  *atomic.Uint32
}

// make makes the calling thread, which must be locked, one whose end is marked in the word. It replaces the list that a C library may
// have registered, of mutexes that are shared with other processes and held by the thread. Where the system refuses, the word stays 0.
func (w *will) make(word *atomic.Uint32) {
	w.word = word
	w.head.first, w.entry = uintptr(unsafe.Pointer(&w.entry)), uintptr(unsafe.Pointer(&w.head))
	w.head.offset = int(uintptr(unsafe.Pointer(word)) - w.head.first)
	if _, _, errno := unix.RawSyscall(unix.SYS_SET_ROBUST_LIST, uintptr(unsafe.Pointer(&w.head)), unsafe.Sizeof(w.head), 0); errno == 0 {
		word.Store(uint32(unix.Gettid()))
	}
}

// revoke is for a thread that ends while its process goes on.
func (w *will) revoke() {
	w.word.Store(0)
	unix.RawSyscall(unix.SYS_SET_ROBUST_LIST, 0, unsafe.Sizeof(w.head), 0)
}
