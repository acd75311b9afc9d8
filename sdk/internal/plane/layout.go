// Package plane is the shared-memory data plane between the host and one plugin process: two sealed memfds, requests
// written by the host alone and results written by the plugin alone, cut into slots, with futexes to wake the other
// side. A call is a slot index and a generation; no address and no name ever crosses.
//
// Slots belong to lanes, slot i to lane i mod lanes. A lane is a thread of the plugin, bound to one core, that serves its
// slots one after the other: the host says with the slot on which core a call runs, and the kernel's scheduler has
// nothing left to guess. Waking a sleeping core costs more than the call itself, so both sides look at memory for a while
// after work, giving the core away between looks, and sleep only when nothing has come for some time.
//
// sdk/client uses Host, sdk/serve uses Plugin; sdk/internal/wire knows what the payloads mean. The package trusts
// nothing that the plugin wrote: headers are copied and then checked, and payloads are handed to a reader that loads
// each value once. It refuses to know about experts, routers or processes, and on other systems than Linux it says
// that there is no shared memory here, so that gRPC carries the calls.
package plane

import (
	"errors"
	"fmt"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Version of the layout below. Both sides refuse another one.
const Version = 2

// The layout, as other languages see it (sdk/proto/README.md repeats it). All integers are little-endian.
const (
	page       = 4096
	headerSize = page           // of each region and of each slot; the payload follows on its own pages
	magic      = 0x31656f4d6950 // "PiMoe1" as little-endian bytes

	// Requests region: its header. The host writes it once.
	reqMagic   = 0  // u64
	reqVersion = 8  // u32
	reqSlots   = 12 // u32
	reqInCap   = 16 // u64, payload bytes of a slot in requests
	reqOutCap  = 24 // u64, payload bytes of a slot in results
	reqLanes   = 32 // u32
	// A line of each lane.
	reqBell = 1024 // u32 futex: counted up after each post to a slot of the lane

	// Results region: its header.
	resBeat = 0 // u64, incremented every 500 ms by the plugin
	resPins = 8 // u32, lanes that are bound to their cores
	// A line of each lane.
	resSleeping = 1024 // u32: the lane sleeps on its bell
	resThread   = 1028 // u32 robust futex: the number of the lane's thread, with ownerDied when it has ended; 0 = the lane doesn't say
	line        = 64   // between the words of two lanes

	// Request header of a slot.
	slotPost     = 0  // u32: low half of the generation that is posted
	slotWaiting  = 4  // u32: the host sleeps on slotDone
	slotCancel   = 8  // u32: low half of a generation that nobody waits for any more
	slotGen      = 64 // u64
	slotOp       = 72
	slotLayer    = 76
	slotThreads  = 80
	slotRows     = 84
	slotCols     = 88
	slotSegments = 92
	slotK        = 96
	slotHidden   = 100
	slotTimeout  = 104 // u64, microseconds left to the call; 0 = no limit
	slotTrace    = 112 // 16 bytes, W3C trace id; zeros = nobody follows the call
	slotSpan     = 128 // 8 bytes, W3C span id

	// Response header of a slot.
	slotDone     = 0  // u32 futex: low half of the generation that is answered
	slotGenBack  = 64 // u64
	slotStatus   = 72 // u32: 0 or an error class of sdk/internal/wire
	slotRowsBack = 76
	slotColsBack = 80
	slotMsgLen   = 84
	slotBegan    = 88  // u64, of a call that somebody follows: nanoseconds since 1970 when it was begun; 0 = unknown
	slotTook     = 96  // u64, and how many it took
	slotMsg      = 128 // bytes of the error's message
	maxMessage   = 2048

	maxSlots  = 64
	maxLanes  = 16      // more threads than this in one process wait for the same memory
	maxRegion = 1 << 36 // 64 GiB: far above any use, far below an overflow
)

// DefaultMaxRows is used where a Spec says 0: enough rows for a full decode step, few enough that a slot of a wide
// model stays at some MiB.
const DefaultMaxRows = 256

// DefaultSlots is used where a Spec says 0: as many calls as a process may have in flight at once. The engine makes one
// call a layer and process, so that a few are enough for overlapping requests and probes.
const DefaultSlots = 4

// BeatEvery is the heartbeat's period. It is for processes that are alive and get nowhere: the kernel tells the host of those
// that end or are stopped. A beat wakes an idle process, and there may be some dozens of them.
const BeatEvery = 2 * time.Second

var (
	// ErrClosed: the other side is gone or this side is closing.
	ErrClosed = errors.New("plane closed")
	// ErrEnding: a thread of the other side has ended, and with it the process: the kernel takes it down.
	ErrEnding = errors.New("plugin ending")
	// ErrTooWide: one row of the call doesn't fit a slot; the caller uses gRPC.
	ErrTooWide = errors.New("row does not fit a slot")
)

// Spec is the geometry of a plane. MaxRows, Slots and Lanes may be 0 for the defaults.
type Spec struct {
	Slots          int
	Lanes          int // at most Slots; 0 = one for each slot
	MaxRows        int
	InBytesPerRow  int // of a request's payload, without the segment table
	OutBytesPerRow int
}

// segmentBytes is what a row may need in the segment table: no segment is empty, so there is at most one a row.
const segmentBytes = 8

// Layout is a checked Spec with its sizes.
type Layout struct {
	Slots   int `json:"slots"`
	Lanes   int `json:"lanes"`
	MaxRows int `json:"max_rows"`
	InCap   int `json:"in_bytes"`  // payload bytes of a slot in the requests region
	OutCap  int `json:"out_bytes"` // payload bytes of a slot in the results region
}

// Layout checks a Spec and computes its sizes.
func (s Spec) Layout() (Layout, error) {
	if s.Slots == 0 {
		s.Slots = DefaultSlots
	}
	if s.MaxRows == 0 {
		s.MaxRows = DefaultMaxRows
	}
	if s.Slots < 1 || s.Slots > maxSlots {
		return Layout{}, fmt.Errorf("plane: %d slots, want 1 to %d: %w", s.Slots, maxSlots, sdk.ErrInvalid)
	}
	if s.Lanes == 0 {
		s.Lanes = min(s.Slots, maxLanes)
	}
	if s.Lanes < 1 || s.Lanes > min(s.Slots, maxLanes) {
		return Layout{}, fmt.Errorf("plane: %d lanes for %d slots, want 1 to %d: %w", s.Lanes, s.Slots, min(s.Slots, maxLanes), sdk.ErrInvalid)
	}
	if s.MaxRows < 1 || s.MaxRows > 1<<20 || s.InBytesPerRow < 1 || s.InBytesPerRow > 1<<28 || s.OutBytesPerRow < 1 || s.OutBytesPerRow > 1<<28 {
		return Layout{}, fmt.Errorf("plane: %d rows of %d bytes in and %d out: %w", s.MaxRows, s.InBytesPerRow, s.OutBytesPerRow, sdk.ErrInvalid)
	}
	l := Layout{
		Slots:   s.Slots,
		Lanes:   s.Lanes,
		MaxRows: s.MaxRows,
		InCap:   roundUp(s.MaxRows*(s.InBytesPerRow+segmentBytes)+64, page), // 64: the payload after the table is aligned
		OutCap:  roundUp(s.MaxRows*s.OutBytesPerRow+64, page),
	}
	return l, l.check()
}

// check holds for what arrives in a bootstrap document as well.
func (l Layout) check() error {
	if l.Slots < 1 || l.Slots > maxSlots || l.Lanes < 1 || l.Lanes > min(l.Slots, maxLanes) || l.MaxRows < 1 || l.InCap < page || l.OutCap < page || l.InCap%page != 0 ||
		l.OutCap%page != 0 || l.InCap > maxRegion/l.Slots-2*page || l.OutCap > maxRegion/l.Slots-2*page {
		return fmt.Errorf("plane: bad geometry %+v: %w", l, sdk.ErrInvalid)
	}
	return nil
}

// RequestBytes and ResultBytes are the sizes of the two regions.
func (l Layout) RequestBytes() int { return headerSize + l.Slots*(headerSize+l.InCap) }

// ResultBytes is the size of the results region.
func (l Layout) ResultBytes() int { return headerSize + l.Slots*(headerSize+l.OutCap) }

// Bytes is the memory of the whole plane.
func (l Layout) Bytes() int64 { return int64(l.RequestBytes()) + int64(l.ResultBytes()) }

// Rows is how many rows of a call fit a slot, when one row takes in bytes of request, without its share of the segment
// table, and out bytes of result. 0: not one.
func (l Layout) Rows(in, out int) int {
	rows := l.MaxRows
	rows = min(rows, (l.InCap-64)/(in+segmentBytes))
	return min(rows, (l.OutCap-64)/max(out, 1))
}

func (l Layout) reqSlot(i int) int { return headerSize + i*(headerSize+l.InCap) }
func (l Layout) resSlot(i int) int { return headerSize + i*(headerSize+l.OutCap) }

// lane serves slot i.
func (l Layout) lane(i int) int { return i % l.Lanes }

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// The operations.
const (
	OpForward = 1
	OpRoute   = 2
)

// Head is what a request says of its payload. The plane carries it and doesn't interpret it.
type Head struct {
	Op       uint32
	Layer    int32
	Threads  uint32
	Rows     uint32
	Cols     uint32
	Segments uint32
	K        uint32
	Hidden   uint32
	Timeout  uint64 // microseconds left to the call; 0 = no limit
	Trace    Trace
}

// Trace names a call that somebody follows, as W3C Trace Context does; the zero value is any other call.
type Trace struct {
	ID   [16]byte
	Span [8]byte
}

// Reply is what an answer says of its payload. Status 0 is success.
type Reply struct {
	Status  uint32
	Rows    uint32
	Cols    uint32
	Message string
	// Began and Took, in nanoseconds, are when the plugin computed a call that somebody follows, as it says. 0 = it says nothing.
	Began, Took uint64
}
