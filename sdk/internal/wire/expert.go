package wire

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/plane"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// CheckCall holds for every call before it leaves the host and again before an author's code sees it.
func CheckCall(c *expert.Call) error {
	rows, before := 0, -1
	for _, s := range c.Segments {
		if s.Rows <= 0 || s.Rows > maxDim || s.Expert <= before || s.Expert > maxDim {
			return fmt.Errorf("segment of expert %d with %d rows after expert %d: %w", s.Expert, s.Rows, before, sdk.ErrInvalid)
		}
		rows, before = rows+s.Rows, s.Expert
	}
	given := c.X.Rows
	if c.From != nil {
		given = len(c.From)
		for _, r := range c.From {
			if r < 0 || int(r) >= c.X.Rows {
				return fmt.Errorf("row %d of %d: %w", r, c.X.Rows, sdk.ErrInvalid)
			}
		}
	}
	if rows != given || rows != c.Y.Rows || c.X.Cols != c.Y.Cols || c.X.Cols < 1 || c.X.Cols > maxDim {
		return fmt.Errorf("x is %d x %d, y is %d x %d, segments have %d rows: %w",
			c.X.Rows, c.X.Cols, c.Y.Rows, c.Y.Cols, rows, sdk.ErrInvalid)
	}
	if c.Layer < 0 || c.Layer > maxDim || c.Threads < 0 || c.Threads > maxDim {
		return fmt.Errorf("layer %d, %d threads: %w", c.Layer, c.Threads, sdk.ErrInvalid)
	}
	return nil
}

// SliceCall is the part of a call with the rows [from, to).
func SliceCall(c *expert.Call, from, to int) *expert.Call {
	part := &expert.Call{Layer: c.Layer, Threads: c.Threads, Lane: c.Lane, X: c.X, Y: c.Y.Slice(from, to)}
	if c.From != nil {
		part.From = c.From[from:to]
	} else {
		part.X = c.X.Slice(from, to)
	}
	at := 0
	for _, s := range c.Segments {
		n := min(at+s.Rows, to) - max(at, from)
		if n > 0 {
			part.Segments = append(part.Segments, expert.Segment{Expert: s.Expert, Rows: n})
		}
		at += s.Rows
	}
	return part
}

// Gather is the call with rows of its own memory, if they were not gathered yet.
func Gather(c *expert.Call) *expert.Call {
	if c.From == nil {
		return c
	}
	g := *c
	g.X, g.From = tensor.NewMatrix(len(c.From), c.X.Cols), nil
	for i, r := range c.From {
		copy(g.X.Row(i), c.X.Row(int(r)))
	}
	return &g
}

// ForwardRequest packs a call.
func ForwardRequest(c *expert.Call) *pb.ForwardRequest {
	req := &pb.ForwardRequest{Layer: uint32(c.Layer), Threads: uint32(max(c.Threads, 1)), X: matrix(Gather(c).X)}
	for _, s := range c.Segments {
		req.Segments = append(req.Segments, &pb.Segment{Expert: uint32(s.Expert), Rows: uint32(s.Rows)})
	}
	return req
}

// CallOf unpacks a call, with a Y to fill.
func CallOf(req *pb.ForwardRequest) (*expert.Call, error) {
	x, err := unpack(req.GetX())
	if err != nil {
		return nil, fmt.Errorf("x: %w", err)
	}
	c := &expert.Call{Layer: int(req.GetLayer()), Threads: max(int(req.GetThreads()), 1), X: x, Y: tensor.NewMatrix(x.Rows, x.Cols)}
	for _, s := range req.GetSegments() {
		c.Segments = append(c.Segments, expert.Segment{Expert: int(s.GetExpert()), Rows: int(s.GetRows())})
	}
	poison(c.Y.Data)
	return c, CheckCall(c)
}

// ForwardReply packs a filled Y.
func ForwardReply(y tensor.Matrix) *pb.ForwardReply { return &pb.ForwardReply{Y: matrix(y)} }

// TakeForwardReply fills the call's Y.
func TakeForwardReply(c *expert.Call, reply *pb.ForwardReply) error { return fill(c.Y, reply.GetY()) }

// ForwardHead is the plane's header of a call.
func ForwardHead(c *expert.Call, left time.Duration) plane.Head {
	return plane.Head{
		Op: plane.OpForward, Layer: int32(c.Layer), Threads: uint32(max(c.Threads, 1)), Rows: uint32(c.Y.Rows),
		Cols: uint32(c.X.Cols), Segments: uint32(len(c.Segments)), Timeout: uint64(left / time.Microsecond),
	}
}

// tableBytes is the segment table's room: the rows after it start on a cache line.
func tableBytes(segments int) int { return (8*segments + 63) &^ 63 }

// PutForward writes a call's payload: the segment table, then the rows.
func PutForward(b []byte, c *expert.Call) {
	for i, s := range c.Segments {
		binary.LittleEndian.PutUint32(b[8*i:], uint32(s.Expert))
		binary.LittleEndian.PutUint32(b[8*i+4:], uint32(s.Rows))
	}
	b = b[tableBytes(len(c.Segments)):]
	if c.From == nil {
		putRows(b, c.X)
		return
	}
	dst, cols := asFloats(b, c.Y.Rows*c.Y.Cols), c.X.Cols
	for i, r := range c.From {
		copy(dst[i*cols:(i+1)*cols], c.X.Row(int(r)))
	}
}

// PlaneCall makes c the call of a payload; its segments' memory is used again. X and Y are views of the shared memory; Y
// is poisoned.
func PlaneCall(c *expert.Call, h plane.Head, in, out []byte) error {
	rows, cols, segments := uint64(h.Rows), uint64(h.Cols), uint64(h.Segments)
	if rows > maxDim || cols > maxDim || segments > rows || uint64(tableBytes(int(segments)))+rows*cols*4 > uint64(len(in)) || rows*cols*4 > uint64(len(out)) {
		return fmt.Errorf("call of %d x %d with %d segments does not fit its slot: %w", rows, cols, segments, sdk.ErrInvalid)
	}
	*c = expert.Call{Layer: int(h.Layer), Threads: max(int(h.Threads), 1), Segments: c.Segments[:0]}
	for i := range int(segments) {
		c.Segments = append(c.Segments, expert.Segment{
			Expert: int(binary.LittleEndian.Uint32(in[8*i:])), Rows: int(binary.LittleEndian.Uint32(in[8*i+4:])),
		})
	}
	n := int(rows * cols)
	c.X = tensor.MatrixOf(int(rows), int(cols), asFloats(in[tableBytes(len(c.Segments)):], n))
	c.Y = tensor.MatrixOf(int(rows), int(cols), asFloats(out, n))
	if err := CheckCall(c); err != nil {
		return err
	}
	prick(c.Y)
	return nil
}

// PlaneForwardReply is the header of a filled Y.
func PlaneForwardReply(c *expert.Call) plane.Reply {
	return plane.Reply{Rows: uint32(c.Y.Rows), Cols: uint32(c.Y.Cols)}
}

// TakeForward fills the call's Y from a payload that its writer may still change: each value is loaded once, and the
// value that was loaded is both judged and stored.
func TakeForward(c *expert.Call, r plane.Reply, b []byte) error {
	if err := FromReply(r); err != nil {
		return err
	}
	if int64(r.Rows) != int64(c.Y.Rows) || int64(r.Cols) != int64(c.Y.Cols) {
		return fmt.Errorf("answer of %d x %d, want %d x %d: %w", r.Rows, r.Cols, c.Y.Rows, c.Y.Cols, sdk.ErrInvalidOutput)
	}
	src := asFloats(b, c.Y.Rows*c.Y.Cols)
	for i := range c.Y.Rows {
		if row := c.Y.Row(i); !copyFinite(row, src[i*c.Y.Cols:]) {
			col := notFinite(row)
			return invalidValue(i, col, row[col])
		}
	}
	return nil
}
