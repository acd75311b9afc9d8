//go:build linux && (amd64 || arm64)

package plane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk"
)

// Supported says that this build has shared memory.
const Supported = true

// Host is the host's end of one process's plane. It is safe for concurrent use.
type Host struct {
	layout  Layout
	cores   []int  // of the lanes; empty = unbound
	req     []byte // writable
	res     []byte // read-only; hostile
	files   [2]*os.File
	aborted atomic.Bool
	ending  atomic.Bool   // a lane's thread has ended
	asleep  atomic.Uint32 // lanes to be woken, a bit each
	freed   chan struct{} // holds something after a slot came back; whoever takes it and finds more passes it on
	once    sync.Once     // of Close

	// users is read-locked by whoever touches the mappings and locked for good by Close.
	users sync.RWMutex

	// mu guards what follows, except that a slot's gen belongs to the slot's owner.
	mu      sync.Mutex
	gens    []uint64 // of each slot's latest request
	free    [][]int  // by lane; last in, first out: its memory is the warmest
	orphans []int    // slots whose caller went away before the answer came
}

// AnyLane is for a call that may run wherever there is room.
const AnyLane = -1

// NewHost makes both regions and seals them: nobody can resize them, and nobody but this mapping can write requests. cores are
// those that the plugin will bind its lanes to, if any.
func NewHost(spec Spec, cores []int) (*Host, error) {
	l, err := spec.Layout()
	if err != nil {
		return nil, err
	}
	h := &Host{layout: l, cores: cores, gens: make([]uint64, l.Slots), free: make([][]int, l.Lanes), freed: make(chan struct{}, 1)}
	if err := h.open(); err != nil {
		h.Close()
		return nil, err
	}
	binary.LittleEndian.PutUint64(h.req[reqMagic:], magic)
	binary.LittleEndian.PutUint32(h.req[reqVersion:], Version)
	binary.LittleEndian.PutUint32(h.req[reqSlots:], uint32(l.Slots))
	binary.LittleEndian.PutUint64(h.req[reqInCap:], uint64(l.InCap))
	binary.LittleEndian.PutUint64(h.req[reqOutCap:], uint64(l.OutCap))
	binary.LittleEndian.PutUint32(h.req[reqLanes:], uint32(l.Lanes))
	for i := l.Slots - 1; i >= 0; i-- {
		h.free[l.lane(i)] = append(h.free[l.lane(i)], i)
	}
	return h, nil
}

func (h *Host) open() error {
	var err error
	h.files[0], h.req, err = sealed("pimoe-requests", h.layout.RequestBytes(), unix.PROT_READ|unix.PROT_WRITE,
		unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_FUTURE_WRITE|unix.F_SEAL_SEAL)
	if err != nil {
		return err
	}
	h.files[1], h.res, err = sealed("pimoe-results", h.layout.ResultBytes(), unix.PROT_READ,
		unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	return err
}

// sealed makes a memfd, maps it and seals it, in this order: FUTURE_WRITE spares the mapping that is already there.
func sealed(name string, size, prot, seals int) (*os.File, []byte, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, nil, fmt.Errorf("plane: make %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(int64(size)); err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("plane: size %s: %w", name, err)
	}
	b, err := unix.Mmap(fd, 0, size, prot, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("plane: map %s: %w", name, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		unix.Munmap(b)
		f.Close()
		return nil, nil, fmt.Errorf("plane: seal %s: %w", name, err)
	}
	return f, b, nil
}

// Files are the descriptors for the process to inherit: requests, results. They stay the Host's.
func (h *Host) Files() (requests, results *os.File) { return h.files[0], h.files[1] }

// CloseFiles closes the descriptors once the process has them; the mappings stay.
func (h *Host) CloseFiles() {
	for i, f := range h.files {
		if f != nil {
			f.Close()
			h.files[i] = nil
		}
	}
}

// Layout is the geometry as made.
func (h *Host) Layout() Layout { return h.layout }

// Bytes is the memory of both regions.
func (h *Host) Bytes() int64 { return h.layout.Bytes() }

// Beat is the plugin's heartbeat counter; false once the plane is closed.
func (h *Host) Beat() (uint64, bool) {
	if !h.users.TryRLock() {
		return 0, false
	}
	defer h.users.RUnlock()
	return word64(h.res, resBeat).Load(), true
}

// Pinned is how many lanes are bound to their cores, as the plugin says.
func (h *Host) Pinned() int {
	if !h.users.TryRLock() {
		return 0
	}
	defer h.users.RUnlock()
	return int(min(word(h.res, resPins).Load(), uint32(h.layout.Lanes)))
}

// Abort fails all calls under way, and all later ones, with ErrClosed. The process is gone.
func (h *Host) Abort() {
	h.aborted.Store(true)
	if !h.users.TryRLock() {
		return
	}
	defer h.users.RUnlock()
	for i := range h.layout.Slots {
		futexWake(h.done(i))
	}
}

// Ending reports whether somebody who waited for an answer has seen that the thread which should give it has ended. Calls that
// are posted from then on fail with ErrEnding.
func (h *Host) Ending() bool { return h.ending.Load() }

// ended looks whether the lane's thread has ended. The kernel says so at the beginning of a process's end (set_robust_list(2)),
// which is milliseconds before it tells the parent, since it takes the memory down in between.
func (h *Host) ended(lane int) bool {
	if word(h.res, resThread+lane*line).Load()&ownerDied == 0 {
		return false
	}
	h.ending.Store(true)
	return true
}

// Close aborts, waits until nobody reads the mappings any more, and unmaps them. It may be called again.
func (h *Host) Close() error {
	h.once.Do(func() {
		h.CloseFiles()
		h.aborted.Store(true)
		if h.res != nil {
			h.Abort()
		}
		h.users.Lock() // for good: TryRLock fails from now on
		for _, b := range [][]byte{h.req, h.res} {
			if b != nil {
				unix.Munmap(b)
			}
		}
		h.req, h.res = nil, nil
	})
	return nil
}

// Ticket is a request under way. Exactly one Wait belongs to it.
type Ticket struct {
	host *Host
	slot int
	gen  uint64
	long bool // the call takes so long that nobody should look for its answer meanwhile
}

// TryPost writes a request into a free slot, of the lane if that has one. It reports false when no slot is free. A lane that
// sleeps is not woken yet: Wake or Wait does it.
func (h *Host) TryPost(lane int, head Head, fill func(payload []byte)) (Ticket, bool, error) {
	if h.aborted.Load() || !h.users.TryRLock() {
		return Ticket{}, false, ErrClosed
	}
	defer h.users.RUnlock()
	if h.ending.Load() {
		return Ticket{}, false, ErrEnding
	}
	slot, more := h.take(lane)
	if slot < 0 {
		return Ticket{}, false, nil
	}
	if more {
		h.signal()
	}
	return h.post(slot, head, fill), true, nil
}

// Post is TryPost that waits for a slot.
func (h *Host) Post(ctx context.Context, lane int, head Head, fill func(payload []byte)) (Ticket, error) {
	if t, ok, err := h.TryPost(lane, head, fill); ok || err != nil {
		return t, err
	}
	// A slot that its caller left comes back without a signal, hence the look every other millisecond. It happens
	// only while all slots are taken.
	tick := time.Tick(2 * time.Millisecond)
	for {
		select {
		case <-h.freed:
		case <-tick:
		case <-ctx.Done():
			return Ticket{}, ctx.Err()
		}
		if t, ok, err := h.TryPost(lane, head, fill); ok || err != nil {
			return t, err
		}
	}
}

// take finds a free slot, or -1: of the wanted lane, else of the one with the most. more says that others are left. The slots of
// late answers are looked at only when there is no other.
func (h *Host) take(lane int) (slot int, more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	lane %= h.layout.Lanes // AnyLane stays below zero, except where there is one lane
	for {
		best, total := 0, 0
		for l, free := range h.free {
			total += len(free)
			if len(free) > len(h.free[best]) {
				best = l
			}
		}
		if total == 0 {
			if h.reclaim() {
				continue
			}
			return -1, false
		}
		if lane >= 0 && len(h.free[lane]) > 0 {
			best = lane
		}
		free := h.free[best]
		slot = free[len(free)-1]
		h.free[best] = free[:len(free)-1]
		return slot, total > 1
	}
}

// reclaim frees slots whose late answer has arrived. It reports whether there was one. The caller holds mu.
func (h *Host) reclaim() bool {
	kept, found := h.orphans[:0], false
	for _, i := range h.orphans {
		if h.done(i).Load() != uint32(h.gens[i]) {
			kept = append(kept, i)
			continue
		}
		h.free[h.layout.lane(i)] = append(h.free[h.layout.lane(i)], i)
		found = true
	}
	h.orphans = kept
	return found
}

// done is the word in which the plugin says which generation of the slot it has closed.
func (h *Host) done(slot int) *atomic.Uint32 { return word(h.res, h.layout.resSlot(slot)+slotDone) }

// signal tells one of those who wait for a slot that there is one.
func (h *Host) signal() {
	select {
	case h.freed <- struct{}{}:
	default:
	}
}

// post fills a slot that the caller owns, and rings the lane's bell.
func (h *Host) post(i int, head Head, fill func(payload []byte)) Ticket {
	h.gens[i]++
	gen := h.gens[i]
	off := h.layout.reqSlot(i)
	b := h.req[off : off+headerSize]
	putHead(b, head, gen)
	fill(h.req[off+headerSize : off+headerSize+h.layout.InCap : off+headerSize+h.layout.InCap])
	word(b, slotPost).Store(uint32(gen)) // releases the writes above
	lane := h.layout.lane(i)
	word(h.req, reqBell+lane*line).Add(1)
	if word(h.res, resSleeping+lane*line).Load() != 0 {
		h.asleep.Or(1 << lane)
	}
	return Ticket{host: h, slot: i, gen: gen, long: uint64(head.Rows)*uint64(head.Cols) >= longValues}
}

// Wake wakes the lanes that slept when a call was posted to them. It is apart from posting because a thread that is woken on
// the caller's core may run at once: a caller with several calls posts all of them first, then wakes the lanes that are
// bound to other cores, and then, with all, those of his own. Wait, Settled and Leave do it as well.
func (h *Host) Wake(all bool) {
	if h.asleep.Load() == 0 || !h.users.TryRLock() {
		return
	}
	defer h.users.RUnlock()
	for lanes := h.asleep.Swap(0); lanes != 0; lanes &= lanes - 1 {
		lane := bits.TrailingZeros32(lanes)
		if !all && lane < len(h.cores) && h.cores[lane] == Core() {
			h.asleep.Or(1 << lane)
			continue
		}
		futexWake(word(h.req, reqBell+lane*line))
	}
}

func putHead(b []byte, h Head, gen uint64) {
	le := binary.LittleEndian
	le.PutUint64(b[slotGen:], gen)
	le.PutUint32(b[slotOp:], h.Op)
	le.PutUint32(b[slotLayer:], uint32(h.Layer))
	le.PutUint32(b[slotThreads:], h.Threads)
	le.PutUint32(b[slotRows:], h.Rows)
	le.PutUint32(b[slotCols:], h.Cols)
	le.PutUint32(b[slotSegments:], h.Segments)
	le.PutUint32(b[slotK:], h.K)
	le.PutUint32(b[slotHidden:], h.Hidden)
	le.PutUint64(b[slotTimeout:], h.Timeout)
	copy(b[slotTrace:slotTrace+16], h.Trace.ID[:])
	copy(b[slotSpan:slotSpan+8], h.Trace.Span[:])
}

// Wait blocks until the answer is there and hands it to take, whose payload may change under its hands: it loads each
// value once. A caller that gives up leaves the slot behind; it is used again only after the plugin has closed that
// generation, so that a late answer can't meet another call.
func (t Ticket) Wait(ctx context.Context, limit time.Duration, take func(r Reply, payload []byte) error) error {
	h := t.host
	h.Wake(true)
	if !h.users.TryRLock() {
		return ErrClosed
	}
	defer h.users.RUnlock()
	if err := t.arrive(ctx, limit); err != nil {
		h.leave(t)
		return err
	}
	off := h.layout.resSlot(t.slot)
	r, gen := readReply(h.res[off : off+headerSize])
	var err error
	switch {
	case gen != t.gen:
		err = fmt.Errorf("answer of generation %d to a call of generation %d: %w", gen, t.gen, sdk.ErrInvalidOutput)
	default:
		err = take(r, h.res[off+headerSize:off+headerSize+h.layout.OutCap:off+headerSize+h.layout.OutCap])
	}
	h.release(t.slot)
	return err
}

// Settled waits until the answer is there or the process is gone, for at most the time within, and reports whether Wait
// returns at once.
func (t Ticket) Settled(within time.Duration) bool {
	h := t.host
	h.Wake(true)
	if !h.users.TryRLock() {
		return true
	}
	defer h.users.RUnlock()
	return !errors.Is(t.arrive(context.Background(), within), context.DeadlineExceeded)
}

// Leave gives the call up, instead of Wait. The slot is used again when the plugin has closed the generation, for which it
// has to be awake: calls that nobody had looked at would else take one slot after the other from those that come later.
func (t Ticket) Leave() {
	t.host.Wake(true)
	if !t.host.users.TryRLock() {
		return
	}
	defer t.host.users.RUnlock()
	t.host.leave(t)
}

const (
	// hostPolls is how long the host looks for an answer before it sleeps. Its looks between two yields cost the experts little,
	// and to be woken costs it more than most layers' whole dispatch of a few rows. The calls of a prompt or of many rows take
	// longer than this, and then the yields of a thread that shares a core with the lanes cost them a tenth of their time.
	hostPolls = 2 * time.Millisecond
	// longValues is the size of a call, in values, that takes longer than that.
	longValues = 1 << 16
	// checkEvery is after how many rounds of looking the clock and the context are looked at.
	checkEvery = 16
	// goschedEvery is the same for the runtime's scheduler. It starts a thread that looks for work, so it is seldom.
	goschedEvery = 128
)

// arrive waits for the plugin to close the generation.
func (t Ticket) arrive(ctx context.Context, limit time.Duration) error {
	h := t.host
	done := h.done(t.slot)
	want, before := uint32(t.gen), uint32(t.gen-1)
	var start time.Time
	var took, looks time.Duration
	if polls && !t.long {
		looks = hostPolls
	}
	for n := 0; ; n++ {
		switch v := await(done, before); {
		case v == want:
			return nil
		case h.aborted.Load():
			return ErrClosed
		case v != before: // nobody honest writes anything else here
			return fmt.Errorf("answer of generation %d to a call of generation %d: %w", v, want, sdk.ErrInvalidOutput)
		case h.ended(h.layout.lane(t.slot)) && done.Load() == before:
			return ErrEnding
		}
		if n%checkEvery == 0 || took >= looks {
			if err := ctx.Err(); err != nil {
				return err
			}
			if n == 0 {
				start = time.Now()
			}
			if took = time.Since(start); took > limit {
				return context.DeadlineExceeded
			}
		}
		if took < looks {
			if n%goschedEvery == goschedEvery-1 {
				runtime.Gosched() // other goroutines have no other chance where there are few processors
			}
			yield()
			continue
		}
		// A plugin that has spoilt its own word about who sleeps is woken all the same.
		futexWake(word(h.req, reqBell+h.layout.lane(t.slot)*line))
		t.sleep(done, before, min(glance(ctx), limit-took+minDoze))
	}
}

// minDoze keeps a wait that is nearly over from looking at the clock all the time.
const minDoze = 50 * time.Microsecond

// sleep waits for a wake-up, but only for some milliseconds at most, which bounds how late an end of the process or of the
// context is seen.
func (t Ticket) sleep(done *atomic.Uint32, before uint32, most time.Duration) {
	h := t.host
	waiting := word(h.req, h.layout.reqSlot(t.slot)+slotWaiting)
	waiting.Store(1)
	if done.Load() == before && !h.aborted.Load() { // again, so that a wake that came too early is not waited for
		doze(done, before, most)
	}
	waiting.Store(0)
}

// glance is how long to sleep at most before looking at the context again.
func glance(ctx context.Context) time.Duration {
	const most = 4 * time.Millisecond
	if d, ok := ctx.Deadline(); ok {
		return max(min(time.Until(d), most), minDoze)
	}
	return most
}

func readReply(b []byte) (Reply, uint64) {
	var head [slotMsg]byte
	copy(head[:], b) // one copy, then checks on the copy
	le := binary.LittleEndian
	r := Reply{
		Status: le.Uint32(head[slotStatus:]),
		Rows:   le.Uint32(head[slotRowsBack:]),
		Cols:   le.Uint32(head[slotColsBack:]),
		Began:  le.Uint64(head[slotBegan:]),
		Took:   le.Uint64(head[slotTook:]),
	}
	if n := min(le.Uint32(head[slotMsgLen:]), maxMessage); n > 0 {
		r.Message = string(b[slotMsg : slotMsg+n])
	}
	return r, le.Uint64(head[slotGenBack:])
}

func (h *Host) release(slot int) {
	h.mu.Lock()
	lane := h.layout.lane(slot)
	h.free[lane] = append(h.free[lane], slot)
	h.mu.Unlock()
	h.signal()
}

// leave marks a generation as unwanted and sets its slot aside.
func (h *Host) leave(t Ticket) {
	word(h.req, h.layout.reqSlot(t.slot)+slotCancel).Store(uint32(t.gen))
	h.mu.Lock()
	h.orphans = append(h.orphans, t.slot)
	h.mu.Unlock()
}
