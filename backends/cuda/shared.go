package cuda

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/pimoe/pimoe/sdk/tensor"
)

// regions are memory that the process shares with its host, in which calls come and answers go, as far as the driver has pinned
// it: from there and to there the device copies by itself, and no row is copied twice.
type regions []region

type region struct {
	what     string
	bytes    []byte
	readOnly bool // the process may not write it
}

// share has the driver pin regions. What it refuses is left out, and the error says why.
func (r *regions) share(dev device, list []region) (why error) {
	for _, m := range list {
		if len(m.bytes) == 0 {
			continue
		}
		if err := dev.register(m.bytes, m.readOnly); err != nil {
			why = errors.Join(why, fmt.Errorf("pin %d bytes of shared memory for %s: %w", len(m.bytes), m.what, err))
			continue
		}
		*r = append(*r, m)
	}
	return why
}

// release gives them back: the device copies nothing more from there.
func (r *regions) release(dev device) (all error) {
	for _, m := range *r {
		if err := dev.unregister(m.bytes); err != nil {
			all = errors.Join(all, fmt.Errorf("release shared memory for %s: %w", m.what, err))
		}
	}
	*r = nil
	return all
}

// direct are the bytes of rows that the device can copy by itself: they lie in a region, and one after the other as on the device.
// nil if it can't.
func (r regions) direct(m tensor.Matrix, written bool) []byte {
	if !m.Contiguous() || m.Cols != stride(m.Cols) {
		return nil
	}
	b := floatBytes(m.Data[:m.Rows*m.Cols])
	for _, s := range r {
		if s.holds(b) && !(written && s.readOnly) {
			return b
		}
	}
	return nil
}

func (r region) holds(b []byte) bool {
	begin, at := uintptr(unsafe.Pointer(unsafe.SliceData(r.bytes))), uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return at >= begin && at-begin <= uintptr(len(r.bytes)) && uintptr(len(b)) <= uintptr(len(r.bytes))-(at-begin)
}
