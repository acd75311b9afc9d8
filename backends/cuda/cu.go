//go:build cuda && cgo

package cuda

// #include <cuda.h>
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"gorgonia.org/cu"

	_ "github.com/pimoe/pimoe/backends/cuda/internal/preflight" // its init comes before that of cu
)

// Supported says that this build can compute on a GPU.
const Supported = true

// cuDevice is a device by way of gorgonia.org/cu, which has no functions that pin memory.
type cuDevice struct {
	about   Info
	context cu.CUContext
	stream  [streams]cu.Stream
	event   [streams][marks]cu.Event
	params  [parameters]unsafe.Pointer
}

// openDevice opens a device on the calling thread, which it must keep.
func openDevice(number int) (device, error) {
	n, err := cu.NumDevices()
	if err != nil {
		return nil, fmt.Errorf("count devices: %w", err)
	}
	if number < 0 {
		if number, err = roomiest(n); err != nil {
			return nil, err
		}
	}
	if number >= n {
		return nil, fmt.Errorf("there is no device %d: the driver has %d", number, n)
	}
	d := &cuDevice{}
	if d.about, err = about(number); err != nil {
		return nil, fmt.Errorf("device %d: %w", number, err)
	}
	if d.about.SM < oldest {
		return nil, fmt.Errorf("device %d: %s is sm_%d, the kernels need sm_%d or newer", number, d.about.Name, d.about.SM, oldest)
	}
	if err := d.begin(); err != nil {
		return nil, errors.Join(fmt.Errorf("device %d: %w", number, err), d.close())
	}
	return d, nil
}

// roomiest is the device with the most free memory.
func roomiest(n int) (int, error) {
	if n == 1 {
		return 0, nil
	}
	best, most := -1, int64(-1)
	var why error
	for i := range n {
		free, err := freeOf(i)
		if err != nil {
			why = errors.Join(why, fmt.Errorf("device %d: %w", i, err))
		} else if free > most {
			best, most = i, free
		}
	}
	if best < 0 {
		return 0, errors.Join(errors.New("no device can be used"), why)
	}
	return best, nil
}

func freeOf(number int) (int64, error) {
	dev, err := cu.GetDevice(number)
	if err != nil {
		return 0, err
	}
	context, err := dev.MakeContext(cu.SchedAuto)
	if err != nil {
		return 0, err
	}
	free, _, err := cu.MemInfo()
	return free, errors.Join(err, context.Destroy())
}

func about(number int) (Info, error) {
	i := Info{Number: number, Driver: cu.Version()}
	dev, err := cu.GetDevice(number)
	if err != nil {
		return i, err
	}
	if i.Name, err = dev.Name(); err != nil {
		return i, err
	}
	if i.Memory, err = dev.TotalMem(); err != nil {
		return i, err
	}
	values, err := dev.Attributes(cu.ComputeCapabilityMajor, cu.ComputeCapabilityMinor, cu.MultiprocessorCount, cu.ClockRate,
		cu.MemoryClockRate, cu.GlobalMemoryBusWidth)
	if err != nil {
		return i, err
	}
	i.SM, i.Processors, i.ClockKHz, i.MemoryClockKHz, i.BusBits = values[0]*10+values[1], values[2], values[3], values[4], values[5]
	return i, nil
}

func (d *cuDevice) begin() error {
	dev, err := cu.GetDevice(d.about.Number)
	if err != nil {
		return err
	}
	if d.context, err = dev.MakeContext(cu.SchedAuto); err != nil {
		return fmt.Errorf("make a context: %w", err)
	}
	for s := range streams {
		if d.stream[s], err = cu.MakeStream(cu.NonBlocking); err != nil {
			return fmt.Errorf("make a stream: %w", err)
		}
		for m := range marks {
			if d.event[s][m], err = cu.MakeEvent(cu.DefaultEvent); err != nil {
				return fmt.Errorf("make an event: %w", err)
			}
		}
	}
	return nil
}

func (d *cuDevice) info() Info { return d.about }

type cuModule struct{ m cu.Module }

func (d *cuDevice) load(ptx string) (module, error) {
	m, err := cu.LoadData(ptx)
	return cuModule{m}, err
}

func (m cuModule) kernel(name string) (kernel, error) { return m.m.Function(name) }

func (d *cuDevice) alloc(bytes int) (uint64, error) {
	p, err := cu.MemAlloc(int64(bytes))
	if errors.Is(err, cu.OutOfMemory) {
		free, total, _ := cu.MemInfo()
		return 0, fmt.Errorf("out of memory: %d MiB more are needed, %d of %d MiB are free: %w", mebibytes(int64(bytes)), free>>20, total>>20, err)
	}
	if err != nil {
		return 0, fmt.Errorf("allocate %d bytes: %w", bytes, err)
	}
	return uint64(p), nil
}

// mebibytes is rounded up.
func mebibytes(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

func (d *cuDevice) free(p uint64) error { return cu.MemFree(cu.DevicePtr(p)) }

func (d *cuDevice) pinned(bytes int) ([]byte, error) {
	var p unsafe.Pointer
	if err := result(C.cuMemHostAlloc(&p, C.size_t(bytes), C.CU_MEMHOSTALLOC_PORTABLE)); err != nil {
		return nil, fmt.Errorf("pin %d bytes of the host's memory: %w", bytes, err)
	}
	return unsafe.Slice((*byte)(p), bytes), nil
}

func (d *cuDevice) unpin(b []byte) error { return cu.MemFreeHost(unsafe.Pointer(unsafe.SliceData(b))) }

func (d *cuDevice) register(b []byte, readOnly bool) error {
	flags := C.uint(C.CU_MEMHOSTREGISTER_PORTABLE)
	if readOnly {
		flags |= C.CU_MEMHOSTREGISTER_READ_ONLY
	}
	return result(C.cuMemHostRegister(unsafe.Pointer(unsafe.SliceData(b)), C.size_t(len(b)), flags))
}

func (d *cuDevice) unregister(b []byte) error {
	return result(C.cuMemHostUnregister(unsafe.Pointer(unsafe.SliceData(b))))
}

// result is the error of a call that cu does not have.
func result(r C.CUresult) error {
	if r == C.CUDA_SUCCESS {
		return nil
	}
	return fmt.Errorf("the driver answers error %d", int(r))
}

func (d *cuDevice) upload(stream int, dst uint64, src []byte) error {
	return cu.MemcpyHtoDAsync(cu.DevicePtr(dst), unsafe.Pointer(unsafe.SliceData(src)), int64(len(src)), d.stream[stream])
}

func (d *cuDevice) download(stream int, dst []byte, src uint64) error {
	return cu.MemcpyDtoHAsync(unsafe.Pointer(unsafe.SliceData(dst)), cu.DevicePtr(src), int64(len(dst)), d.stream[stream])
}

// launch gives cu cells of 8 bytes, since it copies as many of each parameter.
func (d *cuDevice) launch(stream int, k kernel, grid, block [2]int, params *[parameters]uint64) error {
	for i := range params {
		d.params[i] = unsafe.Pointer(&params[i])
	}
	return k.(cu.Function).Launch(grid[0], grid[1], 1, block[0], block[1], 1, 0, d.stream[stream], d.params[:])
}

func (d *cuDevice) mark(stream, n int) error { return d.event[stream][n].Record(d.stream[stream]) }

func (d *cuDevice) elapsed(stream, from, to int) (float64, error) {
	ms, err := d.event[stream][from].Elapsed(d.event[stream][to])
	return ms / 1000, err
}

func (d *cuDevice) wait(stream int) error { return d.stream[stream].Synchronize() }

func (d *cuDevice) memory() (free, total int64, err error) { return cu.MemInfo() }

// close gives back what begin has made, of which there may be only a part.
func (d *cuDevice) close() error {
	var all error
	for s := range streams {
		for m := range marks {
			if d.event[s][m] != (cu.Event{}) {
				all = errors.Join(all, cu.DestroyEvent(&d.event[s][m]))
			}
		}
		if d.stream[s] != (cu.Stream{}) {
			all = errors.Join(all, d.stream[s].Destroy())
		}
	}
	if d.context != (cu.CUContext{}) {
		all = errors.Join(all, d.context.Destroy())
	}
	return all
}

var _ device = (*cuDevice)(nil)
