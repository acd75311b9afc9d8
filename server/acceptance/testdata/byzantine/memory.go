//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk/expert"
)

// Where things are in a slot's response header, as sdk/proto/README.md has it.
const (
	page      = 4096
	genAt     = 64
	statusAt  = 72
	rowsAt    = 76
	colsAt    = 80
	messageAt = 84
)

// header is the response header of the slot that a call lies in, in the results' memory, and what belongs there. It works
// only where calls come through shared memory.
type header struct {
	b    []byte
	gen  uint64
	call *expert.Call
}

// headerOf finds a call's slot: Y is its payload, which follows the header's page; X lies in the first page of the request's.
func headerOf(call *expert.Call) header {
	y, x := unsafe.Pointer(&call.Y.Data[0]), unsafe.Pointer(&call.X.Data[0])
	request := unsafe.Slice((*byte)(unsafe.Add(x, -int(uintptr(x)%page)-page)), page)
	return header{
		b: unsafe.Slice((*byte)(unsafe.Add(y, -page)), page), gen: binary.LittleEndian.Uint64(request[genAt:]), call: call,
	}
}

func (h header) set(at int, v uint32) { binary.LittleEndian.PutUint32(h.b[at:], v) }

func (h header) add(at int, d int32) {
	h.set(at, binary.LittleEndian.Uint32(h.b[at:])+uint32(d))
}

// flick makes a field wrong, and right again.
func (h header) flick(at int, on bool) {
	if on {
		h.set(at, 0xfffffff0)
		return
	}
	h.right()
}

// ends are the places of an answer's first and last value.
func (h header) ends() (first, last *float32) {
	row := h.call.Y.Row(h.call.Y.Rows - 1)
	return &h.call.Y.Row(0)[0], &row[len(row)-1]
}

// right fills the header in as it should be.
func (h header) right() {
	binary.LittleEndian.PutUint64(h.b[genAt:], h.gen)
	h.set(statusAt, 0)
	h.set(rowsAt, uint32(h.call.Y.Rows))
	h.set(colsAt, uint32(h.call.Y.Cols))
	h.set(messageAt, 0)
}

// close stores the word that the host waits for, and wakes it.
func (h header) close(v uint32) {
	word := (*uint32)(unsafe.Pointer(&h.b[0]))
	atomic.StoreUint32(word, v)
	const wake = 1
	unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), wake, 1, 0, 0, 0)
}

// seen is a time in which the host reads an answer. Then the call returns, and package serve answers it again.
const seen = 2 * time.Millisecond

// headed answers right, but for the header.
func headed(change func(header)) func(context.Context, *liar, *expert.Call) error {
	return func(ctx context.Context, l *liar, call *expert.Call) error {
		if err := l.compute(ctx, call); err != nil {
			return err
		}
		h := headerOf(call)
		h.right()
		change(h)
		h.close(uint32(h.gen))
		time.Sleep(seen)
		return nil
	}
}

// done answers right, but for the word that says so.
func done(lie func(gen uint32) uint32) func(context.Context, *liar, *expert.Call) error {
	return func(ctx context.Context, l *liar, call *expert.Call) error {
		if err := l.compute(ctx, call); err != nil {
			return err
		}
		h := headerOf(call)
		h.right()
		h.close(lie(uint32(h.gen)))
		time.Sleep(seen)
		return nil
	}
}

// early says that it is done before it has begun.
func early(ctx context.Context, l *liar, call *expert.Call) error {
	h := headerOf(call)
	h.right()
	h.close(uint32(h.gen))
	time.Sleep(seen)
	return l.compute(ctx, call)
}

// flicker answers, and goes on changing the header, from wrong to right and back, while the host reads it.
func flicker(change func(h header, on bool)) func(context.Context, *liar, *expert.Call) error {
	return func(ctx context.Context, l *liar, call *expert.Call) error {
		if err := l.compute(ctx, call); err != nil {
			return err
		}
		h := headerOf(call)
		h.right()
		return flickering(h, func(on bool) { change(h, on) })
	}
}

// flickerValues is flicker for the ends of the answer.
func flickerValues(lie float32) func(context.Context, *liar, *expert.Call) error {
	return func(ctx context.Context, l *liar, call *expert.Call) error {
		if err := l.compute(ctx, call); err != nil {
			return err
		}
		h := headerOf(call)
		h.right()
		first, last := h.ends()
		right := [2]float32{*first, *last}
		return flickering(h, func(on bool) {
			if on {
				*first, *last = lie, lie
			} else {
				*first, *last = right[0], right[1]
			}
		})
	}
}

// flickering ends with what is right.
func flickering(h header, change func(on bool)) error {
	answer := 10 + rand.IntN(10)
	for began, n := time.Now(), 0; time.Since(began) < seen; n++ {
		change(true)
		if n == answer {
			h.close(uint32(h.gen))
		}
		change(false)
	}
	return nil
}

// scribble answers right and writes NaN over everything that lies behind its own slot in the results' memory.
func scribble(ctx context.Context, l *liar, call *expert.Call) error {
	if err := l.compute(ctx, call); err != nil {
		return err
	}
	h := headerOf(call)
	own := page + (4*len(call.Y.Data)+page-1)/page*page
	b := unsafe.Slice(&h.b[0], behind(uintptr(unsafe.Pointer(&h.b[0]))))
	for i := own; i < len(b); i++ {
		b[i] = 0xff
	}
	return nil
}

// behind is how many bytes there are from an address to the end of its mapping; 0 if it is in none.
func behind(at uintptr) int {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		if fmt.Sscanf(line, "%x-%x", &from, &to); from <= at && at < to {
			return int(to - at)
		}
	}
	return 0
}

// chance is true once in so many times.
func chance(in int) bool { return rand.IntN(in) == 0 }
