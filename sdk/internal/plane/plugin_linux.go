//go:build linux && (amd64 || arm64)

package plane

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk"
)

// Handler computes one call. in and out are the slot's payloads, valid until it returns, as is ctx.
type Handler func(ctx context.Context, head Head, in, out []byte) Reply

// Plugin is the plugin's end of a plane.
type Plugin struct {
	Idle func() // called, if not nil, once after the start, and when a load has ended. Set before Serve
	Busy func() // called, if not nil, with every heartbeat before which calls came, but for the host's own tests. Set before Serve

	calls   atomic.Uint32 // served
	layout  Layout
	cores   []int  // of the lanes; empty = unbound
	req     []byte // read-only
	res     []byte // writable
	handler Handler
	stop    atomic.Bool
	resting atomic.Bool // Idle runs: a lane that sleeps lets the runtime know
	quit    chan struct{}
	wg      sync.WaitGroup
	workers sync.WaitGroup
	wills   []will // of the lanes' threads
	polls   bool   // lanes may look for calls for a while
}

// Attach maps both regions after checking that they are what the host says: sealed, and of the right size. The files
// may be closed afterwards. cores says which core each lane is bound to; with fewer cores than lanes nothing is bound.
func Attach(l Layout, cores []int, requests, results *os.File) (*Plugin, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	p := &Plugin{layout: l, quit: make(chan struct{})}
	if len(cores) >= l.Lanes {
		p.cores = cores
	}
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
	if int(le.Uint32(p.req[reqSlots:])) != p.layout.Slots || int(le.Uint32(p.req[reqLanes:])) != p.layout.Lanes || le.Uint64(p.req[reqInCap:]) != uint64(p.layout.InCap) ||
		le.Uint64(p.req[reqOutCap:]) != uint64(p.layout.OutCap) {
		return fmt.Errorf("plane: region and bootstrap document differ: %w", sdk.ErrInvalid)
	}
	return nil
}

// Memory is where calls come, which may only be read, and where answers go. It lasts until Stop.
func (p *Plugin) Memory() (calls, answers []byte) { return p.req, p.res }

// Serve starts the lanes and the heartbeat, and returns. Calls run concurrently, one a lane.
func (p *Plugin) Serve(h Handler) {
	p.handler = h
	// A lane that looks holds one of the runtime's processors: with one for each and one to spare nobody is kept from working.
	p.polls = polls && runtime.GOMAXPROCS(0) > p.layout.Lanes
	p.wills = make([]will, p.layout.Lanes)
	for n := range p.layout.Lanes {
		p.workers.Go(func() { p.lane(n) })
	}
	p.wg.Go(p.beat)
}

// Stop ends the lanes when they have finished what they run, and waits for them until the context ends. Posted calls
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
		p.wake() // again each time: a lane may have been about to sleep
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

// lane serves its slots, on a thread of its own that ends with it.
func (p *Plugin) lane(n int) {
	runtime.LockOSThread()
	p.wills[n].make(word(p.res, resThread+n*line))
	defer p.wills[n].revoke()
	p.pin(n)
	var slots []slot
	for i := n; i < p.layout.Slots; i += p.layout.Lanes {
		slots = append(slots, slot{
			in:  p.req[p.layout.reqSlot(i):][:headerSize+p.layout.InCap],
			out: p.res[p.layout.resSlot(i):][:headerSize+p.layout.OutCap],
		})
	}
	bell, ctx := word(p.req, reqBell+n*line), new(callContext)
	// The first wait is a long one: a plugin loads its weights meanwhile, and a garbage collection would wait for each doze.
	last := waits{patience * laneDozes, patience * laneDozes}
	for !p.stop.Load() {
		rung := bell.Load() // before the slots: a post after this look changes it
		for i := range slots {
			if s := &slots[i]; word(s.in, slotPost).Load() != s.last {
				ctx = p.serve(s, ctx)
			}
		}
		last = waits{p.await(n, bell, rung, last), last[0]}
	}
}

// pin binds the thread to the lane's core. A system that refuses it gets lanes that are not bound.
func (p *Plugin) pin(n int) {
	if p.cores == nil {
		return
	}
	var set unix.CPUSet
	set.Set(p.cores[n])
	if unix.SchedSetaffinity(0, &set) == nil {
		word(p.res, resPins).Add(1)
	}
}

// slot is one slot as its lane sees it.
type slot struct {
	in, out []byte
	last    uint32 // generation served
}

// serve answers the call in the slot. It returns the context for the next call.
func (p *Plugin) serve(s *slot, ctx *callContext) *callContext {
	gen := word(s.in, slotPost).Load()
	head := readHead(s.in)
	ctx.begin(word(s.in, slotCancel), gen, head.Timeout)
	r := p.handle(ctx, head, s)
	if ctx.end() {
		ctx = new(callContext) // somebody may still look at the old one
	}
	putReply(s.out, r, binary.LittleEndian.Uint64(s.in[slotGen:]))
	done := word(s.out, slotDone)
	done.Store(gen) // releases the writes above
	if word(s.in, slotWaiting).Load() != 0 {
		futexWake(done)
	}
	s.last = gen
	p.calls.Add(1)
	return ctx
}

// handle computes the call. Of one that somebody follows it says when.
func (p *Plugin) handle(ctx context.Context, head Head, s *slot) Reply {
	in, out := s.in[headerSize:], s.out[headerSize:]
	if head.Trace == (Trace{}) {
		return p.handler(ctx, head, in, out)
	}
	began := time.Now()
	r := p.handler(ctx, head, in, out)
	r.Began, r.Took = uint64(began.UnixNano()), uint64(time.Since(began))
	return r
}

const (
	// lanePolls is how long a lane looks for the next call: as long as the host's own work between two layers takes.
	// The looks give the core away, so that they cost the host little.
	lanePolls = 200 * time.Microsecond
	// lookWithin is how long one of the last two waits may have been for the next one to begin with looking: as long as a look
	// lasts and a lane that slept takes to wake. Two, since between a step's last layer and the next step's first there is more time.
	lookWithin = 3 * lanePolls / 2
	// patience is how many times laneDozes the last wait may have been for the next one to doze.
	patience = 8
	// laneLooks is how often it looks between two yields: as many lanes as there are processes may look on one core, and the
	// host's turn comes after theirs.
	laneLooks = 4
	// laneDozes is how long it sleeps in the kernel without the runtime's knowledge after that, dozeEach at a time: as long
	// as requests may be in flight. The runtime's own watcher looks every 10 ms meanwhile. After a sleep that the runtime
	// knows of, even a short one, the watcher looks every 20 us for a millisecond: with 64 processes that took a fifth of
	// two cores. But a garbage collection waits for a doze.
	laneDozes = 250 * time.Millisecond
	dozeEach  = 50 * time.Millisecond
	// laneSleeps is only so that no wait is without an end.
	laneSleeps = time.Minute
)

// waits are how long a lane waited for the last call and for the one before.
type waits [2]time.Duration

// await returns when the bell has rung or the plane stops, and says how long that took. A lane that would look in vain does not
// look: those that look keep the one that works, and the host, from their core, and are woken all the same. Nor does it doze if it
// waited much longer than that: its last call was a lone one, such as a test.
func (p *Plugin) await(n int, bell *atomic.Uint32, rung uint32, last waits) (idle time.Duration) {
	start := time.Now()
	sleeping := word(p.res, resSleeping+n*line)
	for p.polls && min(last[0], last[1]) < lookWithin && idle < lanePolls {
		for range 8 {
			yield() // first: after an answer the host has something to do, perhaps on this core
			if watch((*uint32)(unsafe.Pointer(bell)), rung, laneLooks) != rung || p.stop.Load() {
				return time.Since(start)
			}
		}
		idle = time.Since(start)
	}
	sleeping.Store(1)
	for bell.Load() == rung && !p.stop.Load() {
		if idle = time.Since(start); p.polls && !p.resting.Load() && last[0] < patience*laneDozes && idle < lanePolls+laneDozes {
			doze(bell, rung, dozeEach)
		} else {
			futexWait(bell, rung, laneSleeps)
		}
	}
	sleeping.Store(0)
	return time.Since(start)
}

// A load has ended when many calls, more than the host's own tests make in some minutes, are followed by ten seconds with
// hardly one: the memory that is given back then has to be made again for the next load. What a start leaves behind is given
// back with the second heartbeat, since to collect it takes a fifth of what the whole start does, while the group waits for the
// process; or if calls have begun, with the first heartbeat before which there was hardly one, or at last with one that differs from
// process to process. A collection waits for each lane that computes, and the other lanes wait for it.
const (
	loadCalls  = 128
	quietCalls = 4
	quietBeats = 5
	// lastBeats is how many heartbeats cleaning up may be put off after the start, and up to so many more.
	lastBeats, lastSpread = 5, 8
)

// pace tells loads and their ends from the number of calls at each heartbeat.
type pace struct {
	late   int // the beat at which it cleans up after the start, whatever comes
	beats  int
	before uint32 // calls when the quiet began
	quiet  int    // beats since then
	told   uint32 // calls at the last time of rest
	rested bool   // there was one
}

// beat takes the number of calls so far. busy: calls came, more than the host's own tests. rest: it is time to clean up.
func (p *pace) beat(calls uint32) (busy, rest bool) {
	if p.beats++; calls-p.before > quietCalls {
		p.before, p.quiet, busy = calls, 0, true
	} else {
		p.quiet++
	}
	switch {
	case p.beats > 1 && !p.rested && (p.quiet > 0 || p.beats == p.late):
		p.rested, rest = true, true
	case p.quiet == quietBeats:
		rest = calls-p.told >= loadCalls
		p.before, p.quiet = calls, 0
	}
	if rest {
		p.told = calls
	}
	return busy, rest
}

// beat counts up, and notices the end of a load.
func (p *Plugin) beat() {
	runtime.LockOSThread() // whatever other threads wait for
	defer runtime.UnlockOSThread()
	tick := time.NewTicker(BeatEvery)
	defer tick.Stop()
	pace := pace{late: lastBeats + os.Getpid()%lastSpread}
	for {
		word64(p.res, resBeat).Add(1)
		busy, rest := pace.beat(p.calls.Load())
		if busy && p.Busy != nil {
			p.Busy()
		}
		if rest && p.Idle != nil {
			p.rest()
		}
		select {
		case <-p.quit:
			return
		case <-tick.C:
		}
	}
}

// rest calls Idle. What that does waits for lanes that doze, so they are woken, to sleep as the runtime knows it.
func (p *Plugin) rest() {
	p.resting.Store(true)
	defer p.resting.Store(false)
	p.wake()
	p.Idle()
}

// wake wakes all lanes that sleep. Those that nobody has called go on sleeping.
func (p *Plugin) wake() {
	for n := range p.layout.Lanes {
		futexWake(word(p.req, reqBell+n*line))
	}
}

func readHead(b []byte) Head {
	le := binary.LittleEndian
	h := Head{
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
	copy(h.Trace.ID[:], b[slotTrace:])
	copy(h.Trace.Span[:], b[slotSpan:])
	return h
}

func putReply(b []byte, r Reply, gen uint64) {
	le := binary.LittleEndian
	n := copy(b[slotMsg:slotMsg+maxMessage], r.Message)
	le.PutUint64(b[slotGenBack:], gen)
	le.PutUint32(b[slotStatus:], r.Status)
	le.PutUint32(b[slotRowsBack:], r.Rows)
	le.PutUint32(b[slotColsBack:], r.Cols)
	le.PutUint32(b[slotMsgLen:], uint32(n))
	le.PutUint64(b[slotBegan:], r.Began)
	le.PutUint64(b[slotTook:], r.Took)
}
