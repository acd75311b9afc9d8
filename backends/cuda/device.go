package cuda

// device is what the backend needs of a driver: one device and its context, used by the one thread that has opened it. Streams
// are numbered from 0 to streams-1; what is put on one runs in order, and is done when wait returns.
type device interface {
	info() Info
	load(ptx string) (module, error)
	alloc(bytes int) (uint64, error)
	free(p uint64) error
	// pinned is memory of the host from which the device copies by itself; unpin gives it back.
	pinned(bytes int) ([]byte, error)
	unpin(b []byte) error
	// register pins memory that the process has already, which it may only read if it is readOnly; unregister ends that.
	register(b []byte, readOnly bool) error
	unregister(b []byte) error
	// upload and download copy between pinned memory and the device, asynchronously.
	upload(stream int, dst uint64, src []byte) error
	download(stream int, dst []byte, src uint64) error
	launch(stream int, k kernel, grid, block [2]int, params *[parameters]uint64) error
	// mark notes the time at which the stream gets there; elapsed is the seconds between two marks that it has passed.
	mark(stream, n int) error
	elapsed(stream, from, to int) (float64, error)
	wait(stream int) error
	memory() (free, total int64, err error)
	close() error
}

// module is loaded PTX, kernel one of its entries.
type module interface {
	kernel(name string) (kernel, error)
}
type kernel any

const (
	streams    = 2 // one computes while the rows of the other are copied
	marks      = 4 // of a stream: begin, uploaded, computed, downloaded
	parameters = 8 // of every kernel
)

// Info describes a device.
type Info struct {
	Number         int
	Name           string
	Driver         int // the CUDA version of the driver: 12040 is 12.4
	SM             int // compute capability: 80 is 8.0
	Processors     int
	Memory         int64 // bytes
	ClockKHz       int
	MemoryClockKHz int
	BusBits        int // of the memory
}
