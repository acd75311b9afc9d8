//go:build linux && (amd64 || arm64)

package plane

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
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
	req     []byte // writable
	res     []byte // read-only; hostile
	files   [2]*os.File
	slots   []hostSlot
	tokens  chan struct{} // one for each free slot
	aborted atomic.Bool
	once    sync.Once // of Close

	// users is read-locked by whoever touches the mappings and locked for good by Close.
	users sync.RWMutex

	// mu guards free and orphans.
	mu      sync.Mutex
	free    []int // last in, first out: the worker that ran last is the warmest
	orphans []int // slots whose caller went away before the answer came
}

type hostSlot struct {
	gen  uint64 // of the latest request
	spin spinner
}

// NewHost makes both regions and seals them: nobody can resize them, and nobody but this mapping can write requests.
func NewHost(spec Spec) (*Host, error) {
	l, err := spec.Layout()
	if err != nil {
		return nil, err
	}
	h := &Host{layout: l, slots: make([]hostSlot, l.Slots), tokens: make(chan struct{}, l.Slots)}
	if err := h.open(); err != nil {
		h.Close()
		return nil, err
	}
	binary.LittleEndian.PutUint64(h.req[reqMagic:], magic)
	binary.LittleEndian.PutUint32(h.req[reqVersion:], Version)
	binary.LittleEndian.PutUint32(h.req[reqSlots:], uint32(l.Slots))
	binary.LittleEndian.PutUint64(h.req[reqInCap:], uint64(l.InCap))
	binary.LittleEndian.PutUint64(h.req[reqOutCap:], uint64(l.OutCap))
	for i := l.Slots - 1; i >= 0; i-- {
		h.free = append(h.free, i)
		h.tokens <- struct{}{}
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

// Abort fails all calls under way, and all later ones, with ErrClosed. The process is gone.
func (h *Host) Abort() {
	h.aborted.Store(true)
	if !h.users.TryRLock() {
		return
	}
	defer h.users.RUnlock()
	for i := range h.slots {
		futexWake(word(h.res, h.layout.resSlot(i)+slotDone))
	}
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
}

// TryPost writes a request into a free slot and wakes the plugin. It reports false when no slot is free.
func (h *Host) TryPost(head Head, fill func(payload []byte)) (Ticket, bool, error) {
	if h.aborted.Load() {
		return Ticket{}, false, ErrClosed
	}
	select {
	case <-h.tokens:
	default:
		if !h.reclaim() {
			return Ticket{}, false, nil
		}
		<-h.tokens
	}
	t, err := h.post(head, fill)
	return t, err == nil, err
}

// Post is TryPost that waits for a slot.
func (h *Host) Post(ctx context.Context, head Head, fill func(payload []byte)) (Ticket, error) {
	// A slot that its caller left comes back without a signal, hence the look every other millisecond. It happens
	// only while all slots are taken.
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if h.aborted.Load() {
			return Ticket{}, ErrClosed
		}
		select {
		case <-h.tokens:
			return h.post(head, fill)
		case <-ctx.Done():
			return Ticket{}, ctx.Err()
		case <-tick.C:
			h.reclaim()
		}
	}
}

// reclaim frees slots whose late answer has arrived. It reports whether there was one.
func (h *Host) reclaim() bool {
	if !h.users.TryRLock() {
		return false
	}
	defer h.users.RUnlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	kept, found := h.orphans[:0], false
	for _, i := range h.orphans {
		if word(h.res, h.layout.resSlot(i)+slotDone).Load() != uint32(h.slots[i].gen) {
			kept = append(kept, i)
			continue
		}
		h.free = append(h.free, i)
		h.tokens <- struct{}{}
		found = true
	}
	h.orphans = kept
	return found
}

// post owns a token.
func (h *Host) post(head Head, fill func(payload []byte)) (Ticket, error) {
	if !h.users.TryRLock() {
		return Ticket{}, ErrClosed
	}
	defer h.users.RUnlock()
	h.mu.Lock()
	i := h.free[len(h.free)-1]
	h.free = h.free[:len(h.free)-1]
	h.mu.Unlock()

	s := &h.slots[i]
	s.gen++
	off := h.layout.reqSlot(i)
	b := h.req[off : off+headerSize]
	putHead(b, head, s.gen)
	fill(h.req[off+headerSize : off+headerSize+h.layout.InCap : off+headerSize+h.layout.InCap])
	post := word(b, slotPost)
	post.Store(uint32(s.gen)) // releases the writes above
	if word(h.res, h.layout.resSlot(i)+slotSleeping).Load() != 0 {
		futexWake(post)
	}
	return Ticket{host: h, slot: i, gen: s.gen}, nil
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
}

// Wait blocks until the answer is there and hands it to take, whose payload may change under its hands: it loads each
// value once. A caller that gives up leaves the slot behind; it is used again only after the plugin has closed that
// generation, so that a late answer can't meet another call.
func (t Ticket) Wait(ctx context.Context, limit time.Duration, take func(r Reply, payload []byte) error) error {
	h := t.host
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

// arrive waits for the plugin to close the generation.
func (t Ticket) arrive(ctx context.Context, limit time.Duration) error {
	h := t.host
	done := word(h.res, h.layout.resSlot(t.slot)+slotDone)
	waiting := word(h.req, h.layout.reqSlot(t.slot)+slotWaiting)
	spin := &h.slots[t.slot].spin
	start := time.Now()
	spin.until(func() bool { return done.Load() != uint32(t.gen-1) || h.aborted.Load() })
	defer func() {
		waiting.Store(0)
		spin.took(time.Since(start))
	}()
	for {
		v := done.Load()
		switch {
		case v == uint32(t.gen):
			return nil
		case h.aborted.Load():
			return ErrClosed
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Since(start) > limit:
			return context.DeadlineExceeded
		case v != uint32(t.gen-1): // nobody honest writes anything else here
			return fmt.Errorf("answer of generation %d to a call of generation %d: %w", v, uint32(t.gen), sdk.ErrInvalidOutput)
		}
		waiting.Store(1)
		// The word is looked at again, so that a wake that came too early is not waited for; and every few milliseconds,
		// which bounds how late an end of the process or of the context is seen.
		if done.Load() == v && !h.aborted.Load() {
			futexWait(done, v, glance(ctx))
		}
	}
}

// glance is how long to sleep at most before looking at the context again.
func glance(ctx context.Context) time.Duration {
	const most = 4 * time.Millisecond
	if d, ok := ctx.Deadline(); ok {
		return max(min(time.Until(d), most), 50*time.Microsecond)
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
	}
	if n := min(le.Uint32(head[slotMsgLen:]), maxMessage); n > 0 {
		r.Message = string(b[slotMsg : slotMsg+n])
	}
	return r, le.Uint64(head[slotGenBack:])
}

func (h *Host) release(slot int) {
	h.mu.Lock()
	h.free = append(h.free, slot)
	h.mu.Unlock()
	h.tokens <- struct{}{}
}

// leave marks a generation as unwanted and sets its slot aside.
func (h *Host) leave(t Ticket) {
	word(h.req, h.layout.reqSlot(t.slot)+slotCancel).Store(uint32(t.gen))
	h.mu.Lock()
	h.orphans = append(h.orphans, t.slot)
	h.mu.Unlock()
}
