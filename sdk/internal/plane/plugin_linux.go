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

// Handler computes one call. in and out are the slot's payloads, valid until it returns.
type Handler func(ctx context.Context, head Head, in, out []byte) Reply

// Plugin is the plugin's end of a plane.
type Plugin struct {
	layout  Layout
	req     []byte // read-only
	res     []byte // writable
	handler Handler
	stop    atomic.Bool
	quit    chan struct{}
	wg      sync.WaitGroup
	workers sync.WaitGroup

	// mu guards running.
	mu      sync.Mutex
	running map[int]call // by slot
}

type call struct {
	gen    uint32
	cancel context.CancelFunc
}

// Attach maps both regions after checking that they are what the host says: sealed, and of the right size. The files
// may be closed afterwards.
func Attach(l Layout, requests, results *os.File) (*Plugin, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	p := &Plugin{layout: l, quit: make(chan struct{}), running: map[int]call{}}
	var err error
	p.req, err = attach(requests, l.RequestBytes(), unix.PROT_READ, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_FUTURE_WRITE|unix.F_SEAL_SEAL)
	if err != nil {
		return nil, fmt.Errorf("plane: requests: %w", err)
	}
	p.res, err = attach(results, l.ResultBytes(), unix.PROT_READ|unix.PROT_WRITE, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	if err != nil {
		unix.Munmap(p.req)
		return nil, fmt.Errorf("plane: results: %w", err)
	}
	if err := p.checkHeader(); err != nil {
		p.unmap()
		return nil, err
	}
	return p, nil
}

func attach(f *os.File, size, prot, seals int) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() != int64(size) {
		return nil, fmt.Errorf("%d bytes, want %d: %w", st.Size(), size, sdk.ErrInvalid)
	}
	got, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, fmt.Errorf("read seals: %w", err)
	}
	if got&seals != seals {
		return nil, fmt.Errorf("seals %#x, want %#x: %w", got, seals, sdk.ErrInvalid)
	}
	return unix.Mmap(int(f.Fd()), 0, size, prot, unix.MAP_SHARED)
}

func (p *Plugin) checkHeader() error {
	le := binary.LittleEndian
	if le.Uint64(p.req[reqMagic:]) != magic || le.Uint32(p.req[reqVersion:]) != Version {
		return fmt.Errorf("plane: not a version %d region: %w", Version, sdk.ErrUnsupported)
	}
	if int(le.Uint32(p.req[reqSlots:])) != p.layout.Slots || le.Uint64(p.req[reqInCap:]) != uint64(p.layout.InCap) ||
		le.Uint64(p.req[reqOutCap:]) != uint64(p.layout.OutCap) {
		return fmt.Errorf("plane: region and bootstrap document differ: %w", sdk.ErrInvalid)
	}
	return nil
}

// Serve starts one worker a slot and the heartbeat, and returns. Calls run concurrently, one a slot.
func (p *Plugin) Serve(h Handler) {
	p.handler = h
	for i := range p.layout.Slots {
		p.workers.Add(1)
		go p.worker(i)
	}
	p.wg.Add(1)
	go p.beat()
}

// Stop ends the workers when they have finished what they run, and waits for them until the context ends. Posted calls
// that nobody has begun are left to the host, which sees the process end.
func (p *Plugin) Stop(ctx context.Context) error {
	p.stop.Store(true)
	idle := make(chan struct{})
	go func() {
		p.workers.Wait()
		close(idle)
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		for i := range p.layout.Slots { // again each time: a worker may have been about to sleep
			futexWake(word(p.req, p.layout.reqSlot(i)+slotPost))
		}
		select {
		case <-idle:
			close(p.quit)
			p.wg.Wait()
			return p.unmap()
		case <-ctx.Done():
			return fmt.Errorf("plane: calls still run: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func (p *Plugin) unmap() error {
	unix.Munmap(p.req)
	return unix.Munmap(p.res)
}

// worker serves one slot.
func (p *Plugin) worker(i int) {
	defer p.workers.Done()
	off := p.layout.resSlot(i)
	in := p.req[p.layout.reqSlot(i):][:headerSize+p.layout.InCap]
	out := p.res[off:][:headerSize+p.layout.OutCap]
	done := word(out, slotDone)
	var spin spinner
	for last := uint32(0); ; {
		gen, ok := p.await(in, out, last, &spin)
		if !ok {
			return
		}
		r := p.run(i, gen, in, out)
		putReply(out, r, binary.LittleEndian.Uint64(in[slotGen:]))
		done.Store(gen) // releases the writes above
		if word(in, slotWaiting).Load() != 0 {
			futexWake(done)
		}
		last = gen
	}
}

// await blocks until another generation is posted. It looks for a moment first, if calls have been coming fast; then it
// sleeps in the kernel, so that an idle process costs nothing.
func (p *Plugin) await(in, out []byte, last uint32, spin *spinner) (uint32, bool) {
	const idle = 5 * time.Second // only so that no wait is without an end
	post, sleeping := word(in, slotPost), word(out, slotSleeping)
	start := time.Now()
	if !spin.until(func() bool { return post.Load() != last || p.stop.Load() }) {
		sleeping.Store(1)
		for post.Load() == last && !p.stop.Load() {
			futexWait(post, last, idle)
		}
		sleeping.Store(0)
	}
	spin.took(time.Since(start))
	return post.Load(), !p.stop.Load()
}

// run calls the handler under a context that ends with the call's time or when the host has given it up.
func (p *Plugin) run(i int, gen uint32, in, out []byte) Reply {
	head := readHead(in)
	ctx, cancel := context.Background(), context.CancelFunc(nil)
	if head.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(min(head.Timeout, uint64(time.Hour/time.Microsecond)))*time.Microsecond)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	p.mu.Lock()
	p.running[i] = call{gen, cancel}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.running, i)
		p.mu.Unlock()
		cancel()
	}()
	return p.handler(ctx, head, in[headerSize:], out[headerSize:])
}

// beat counts up and looks for calls that the host has given up.
func (p *Plugin) beat() {
	defer p.wg.Done()
	tick := time.NewTicker(BeatEvery * time.Millisecond)
	defer tick.Stop()
	for {
		word64(p.res, resBeat).Add(1)
		p.mu.Lock()
		for i, c := range p.running {
			if word(p.req, p.layout.reqSlot(i)+slotCancel).Load() == c.gen {
				c.cancel()
			}
		}
		p.mu.Unlock()
		select {
		case <-p.quit:
			return
		case <-tick.C:
		}
	}
}

func readHead(b []byte) Head {
	le := binary.LittleEndian
	return Head{
		Op:       le.Uint32(b[slotOp:]),
		Layer:    int32(le.Uint32(b[slotLayer:])),
		Threads:  le.Uint32(b[slotThreads:]),
		Rows:     le.Uint32(b[slotRows:]),
		Cols:     le.Uint32(b[slotCols:]),
		Segments: le.Uint32(b[slotSegments:]),
		K:        le.Uint32(b[slotK:]),
		Hidden:   le.Uint32(b[slotHidden:]),
		Timeout:  le.Uint64(b[slotTimeout:]),
	}
}

func putReply(b []byte, r Reply, gen uint64) {
	le := binary.LittleEndian
	n := copy(b[slotMsg:slotMsg+maxMessage], r.Message)
	le.PutUint64(b[slotGenBack:], gen)
	le.PutUint32(b[slotStatus:], r.Status)
	le.PutUint32(b[slotRowsBack:], r.Rows)
	le.PutUint32(b[slotColsBack:], r.Cols)
	le.PutUint32(b[slotMsgLen:], uint32(n))
}
