package cuda

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/pimoe/pimoe/sdk/tensor"
)

// shape is what a call multiplies by: a block, or a matrix, which has no inner width.
type shape struct {
	kind           *kind
	in, inner, out int
	act            uint64
}

// part is rows of one unit.
type part struct {
	unit unit
	rows int
}

// tile is what the kernels' type of the same name is.
type tile struct {
	at        [4]uint64
	row, rows uint32
	_         [2]uint32
}

const tileBytes = int(unsafe.Sizeof(tile{}))

// chunkRows is what goes up, through the kernels and down at a time. More would let less of it overlap; fewer would leave most
// of a large device idle.
const chunkRows = 512

// places are where a stage's data lies in its device memory: the tiles, x, what the kernels take instead of it, the inner
// activations, what they take instead of those, and y.
type places struct{ x, cx, h, ch, y, end int }

// stride is how far apart rows of float32 are.
func stride(cols int) int { return roundUp(cols, 16) }

func (s shape) places(tiles, rows int) (p places) {
	at := roundUp(tiles*tileBytes, 256)
	next := func(bytes int) int {
		at += roundUp(rows*bytes, 256)
		return at
	}
	p.x = at
	p.cx = next(stride(s.in) * 4)
	p.h = next(s.converted(s.in))
	p.ch = next(stride(s.inner) * 4)
	p.y = next(s.converted(s.inner))
	p.end = next(stride(s.out) * 4)
	return p
}

func (s shape) converted(cols int) int {
	if s.kind.convert == nil {
		return 0
	}
	return s.kind.convert(cols)
}

// stage is the memory of a stream.
type stage struct {
	in, out []byte // of the host, pinned
	room    uint64 // on the device
	bytes   int    // of room
	y       tensor.Matrix
	busy    bool
}

// pin makes the pinned memory large enough. What it held is lost.
func (s *stage) pin(dev device, in, out int) error {
	for _, m := range []struct {
		b *[]byte
		n int
	}{{&s.in, in}, {&s.out, out}} {
		if m.n <= len(*m.b) {
			continue
		}
		if *m.b != nil {
			if err := dev.unpin(*m.b); err != nil {
				return err
			}
			*m.b = nil
		}
		b, err := dev.pinned(roundUp(m.n, 4096))
		if err != nil {
			return err
		}
		*m.b = b
	}
	return nil
}

// size makes room for a chunk.
func (s *stage) size(dev device, p places, outBytes int) error {
	if err := s.pin(dev, p.cx, outBytes); err != nil {
		return err
	}
	if p.end <= s.bytes {
		return nil
	}
	if s.room != 0 {
		if err := dev.free(s.room); err != nil {
			return err
		}
		s.room, s.bytes = 0, 0
	}
	room, err := dev.alloc(p.end)
	if err == nil {
		s.room, s.bytes = room, p.end
	}
	return err
}

func (s *stage) free(dev device) (all error) {
	for _, b := range []*[]byte{&s.in, &s.out} {
		if *b != nil {
			all = errors.Join(all, dev.unpin(*b))
			*b = nil
		}
	}
	if s.room != 0 {
		all = errors.Join(all, dev.free(s.room))
		s.room, s.bytes = 0, 0
	}
	return all
}

// reserve makes room for full chunks, so that no call can find the device full.
func (e *engine) reserve(s shape) error {
	return e.do(func() error {
		if err := e.collect(); err != nil {
			return err
		}
		for i := range e.stages {
			if err := e.stages[i].size(e.dev, s.places(chunkRows, chunkRows), chunkRows*stride(s.out)*4); err != nil {
				return err
			}
		}
		return nil
	})
}

// run computes a call in chunks. After an error y is undefined and nothing is under way.
func (e *engine) run(s shape, parts []part, y, x tensor.Matrix) error {
	return e.do(func() error {
		err := e.chunks(s, parts, y, x)
		for i := range e.stages {
			if st := &e.stages[i]; st.busy {
				st.busy = false
				if late := e.dev.wait(i); err == nil { // the first error says most
					err = late
				}
			}
		}
		return err
	})
}

func (e *engine) chunks(s shape, parts []part, y, x tensor.Matrix) error {
	at, n := 0, 0
	for ; at < x.Rows; n++ {
		rows := min(chunkRows, x.Rows-at)
		i := n % streams
		if err := e.finish(i); err != nil {
			return err
		}
		var cut []part
		cut, parts = split(parts, rows)
		if err := e.begin(i, s, cut, y.Slice(at, at+rows), x.Slice(at, at+rows)); err != nil {
			return err
		}
		at += rows
	}
	for i := n; i < n+streams; i++ {
		if err := e.finish(i % streams); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done.Calls++
	e.done.Rows += uint64(x.Rows)
	return nil
}

// split takes the first rows of parts.
func split(parts []part, rows int) (first, rest []part) {
	for i, p := range parts {
		if p.rows >= rows {
			first = append(first, part{p.unit, rows})
			if p.rows == rows {
				return first, parts[i+1:]
			}
			rest = append([]part{{p.unit, p.rows - rows}}, parts[i+1:]...)
			return first, rest
		}
		first = append(first, p)
		rows -= p.rows
	}
	return first, nil
}

// variant is what computes parts: as many rows of an expert at a time as most of them have.
func (k *kind) variant(sm int, parts []part) variant {
	most := 0
	for _, p := range parts {
		most = max(most, p.rows)
	}
	all := k.available(sm)
	for _, v := range all {
		if v.rows >= most {
			return v
		}
	}
	return all[len(all)-1]
}

// tilesOf cuts parts into tiles of a variant.
func tilesOf(parts []part, rows int) (out []tile) {
	at := 0
	for _, p := range parts {
		for r := 0; r < p.rows; r += rows {
			out = append(out, tile{at: p.unit.at, row: uint32(at + r), rows: uint32(min(rows, p.rows-r))})
		}
		at += p.rows
	}
	return out
}

// begin puts a chunk on a stream.
func (e *engine) begin(i int, s shape, parts []part, y, x tensor.Matrix) error {
	st, v := &e.stages[i], s.kind.variant(e.info.SM, parts)
	tiles := tilesOf(parts, v.rows)
	p := s.places(len(tiles), x.Rows)
	if err := st.size(e.dev, p, x.Rows*stride(s.out)*4); err != nil {
		return err
	}
	copy(st.in, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(tiles))), len(tiles)*tileBytes))
	xs := floatsOf(st.in[p.x:])
	for r := range x.Rows {
		copy(xs[r*stride(s.in):], x.Row(r))
	}
	st.y, st.busy = y, true
	l := launcher{e: e, stream: i, variant: v, tiles: len(tiles), rows: x.Rows, room: st.room, act: s.act}
	l.mark(0)
	l.step("upload", func() error { return e.dev.upload(i, st.room, st.in[:p.x+x.Rows*stride(s.in)*4]) })
	l.mark(1)
	in, width := l.convert(s, p.x, p.cx, s.in)
	if s.inner > 0 {
		l.multiply("gate_up", in, p.h, s.in, s.inner, width, stride(s.inner))
		in, width = l.convert(s, p.h, p.ch, s.inner)
		l.multiply("linear", in, p.y, s.inner, s.out, width, stride(s.out))
	} else {
		l.multiply("linear", in, p.y, s.in, s.out, width, stride(s.out))
	}
	l.mark(2)
	l.step("download", func() error { return e.dev.download(i, st.out[:x.Rows*stride(s.out)*4], st.room+uint64(p.y)) })
	l.mark(3)
	return l.err
}

// launcher puts steps on a stream until one fails.
type launcher struct {
	e           *engine
	stream      int
	variant     variant
	tiles, rows int
	room, act   uint64
	err         error
}

func (l *launcher) step(what string, do func() error) {
	if l.err == nil {
		if err := do(); err != nil {
			l.err = fmt.Errorf("%s: %w", what, err)
		}
	}
}

func (l *launcher) mark(n int) {
	l.step("event", func() error { return l.e.dev.mark(l.stream, n) })
}

// convert makes of rows of float32 what the kernels take, and gives where that is and how far apart its rows are, in elements.
func (l *launcher) convert(s shape, from, to, cols int) (at, width int) {
	if s.kind.convert == nil {
		return from, stride(cols)
	}
	items := roundUp(cols, 16) // a thread's work is an element, or a group of integers
	width = s.kind.convert(cols) / 2
	if s.kind.pad == 0 {
		width, items = s.kind.convert(cols), roundUp(cols, 64)/32
	}
	grid := [2]int{roundUp(items, 32) / 32, l.rows}
	l.launch("convert_"+l.variant.family, grid, [2]int{32, 1}, from, to, cols, 0, stride(cols), width)
	return to, width
}

func (l *launcher) multiply(op string, from, to, in, out, xs, ys int) {
	panels := roundUp(out, panel) / panel
	warps := 1
	for warps < 4 && panels*l.tiles >= 4*warps*l.e.info.Processors { // few blocks are better spread over all processors
		warps *= 2
	}
	l.launch(launched(op, l.variant), [2]int{roundUp(panels, warps) / warps, l.tiles}, [2]int{panel, warps}, from, to, in, out, xs, ys)
}

func (l *launcher) launch(name string, grid, block [2]int, from, to, in, out, xs, ys int) {
	params := [parameters]uint64{l.room, l.room + uint64(from), l.room + uint64(to), uint64(in), uint64(out), uint64(xs), uint64(ys), l.act}
	l.step("launch "+name, func() error { return l.e.dev.launch(l.stream, l.e.kernels[name], grid, block, &params) })
}

// finish waits for a stream's chunk, if there is one, and takes its rows.
func (e *engine) finish(i int) error {
	st := &e.stages[i]
	if !st.busy {
		return nil
	}
	if err := e.dev.wait(i); err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	st.busy = false
	ys := floatsOf(st.out)
	for r := range st.y.Rows {
		copy(st.y.Row(r), ys[r*stride(st.y.Cols):])
	}
	st.y = tensor.Matrix{}
	var times [marks - 1]float64
	for n := range times {
		s, err := e.dev.elapsed(i, n, n+1)
		if err != nil {
			return fmt.Errorf("time: %w", err)
		}
		times[n] = s
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done.CopySeconds += times[0] + times[2]
	e.done.RunSeconds += times[1]
	return nil
}
