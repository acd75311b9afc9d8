package ws

import "errors"

// ErrSlow is a reader for whom more waits than it may.
var ErrSlow = errors.New("the client reads too slowly")

// Frame is one WebSocket message.
type Frame struct {
	Binary bool
	Bytes  []byte // may be shared: nobody changes it
}

// Outbox is what waits to be written to one connection, bounded by number and bytes. A frame that is larger than the
// bound fits into an empty box. The zero value with limits is ready; its owner locks.
type Outbox struct {
	MaxFrames, MaxBytes int

	frames []Frame
	bytes  int
}

// Push adds a frame, or reports ErrSlow.
func (o *Outbox) Push(f Frame) error {
	if len(o.frames) > 0 && (len(o.frames) >= o.MaxFrames || o.bytes+len(f.Bytes) > o.MaxBytes) {
		return ErrSlow
	}
	o.frames = append(o.frames, f)
	o.bytes += len(f.Bytes)
	return nil
}

// Pop takes the oldest frame. An empty box keeps no memory: most connections are idle most of the time.
func (o *Outbox) Pop() (f Frame, ok bool) {
	if len(o.frames) == 0 {
		return Frame{}, false
	}
	f = o.frames[0]
	o.frames[0] = Frame{}
	o.bytes -= len(f.Bytes)
	if o.frames = o.frames[1:]; len(o.frames) == 0 {
		o.frames = nil
	}
	return f, true
}

// Clear drops everything.
func (o *Outbox) Clear() { o.frames, o.bytes = nil, 0 }
