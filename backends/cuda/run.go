package cuda

import (
	"fmt"

	"github.com/pimoe/pimoe/sdk/tensor"
)

// chunkRows is what goes up, through the kernels and down at a time. More would let less of it overlap; fewer would leave most
// of a large device idle.
const chunkRows = 512

// reserve makes room for full chunks, so that no call can find the device full.
func (e *engine) reserve(s shape) error {
	return e.do(func() error {
		if err := e.collect(); err != nil {
			return err
		}
		for i := range e.stages {
			if err := e.stages[i].size(e.dev, s.places(chunkRows, chunkRows), rowBytes(chunkRows, s.out)); err != nil {
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
			if late := e.abandon(i); err == nil { // the first error says most
				err = late
			}
		}
		if err == nil {
			err = e.lookAgain()
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

// begin puts a chunk on a stream.
func (e *engine) begin(i int, s shape, parts []part, y, x tensor.Matrix) error {
	st, v := &e.stages[i], s.kind.variant(e.info.SM, parts)
	tiles := tilesOf(parts, v.rows)
	p := s.places(len(tiles), x.Rows)
	if err := st.size(e.dev, p, rowBytes(y.Rows, y.Cols)); err != nil {
		return err
	}
	copy(st.in, bytesOfTiles(tiles))
	st.chunk, st.busy = chunk{y: y}, true
	l := launcher{e: e, stream: i, variant: v, tiles: len(tiles), rows: x.Rows, room: st.room, act: s.act}
	l.mark(0)
	if rows := e.shared.direct(x, false); rows != nil {
		l.upload(0, st.in[:len(tiles)*tileBytes])
		l.upload(p.x, rows)
	} else {
		spread(floatsOf(st.in[p.x:]), x)
		l.upload(0, st.in[:p.x+rowBytes(x.Rows, x.Cols)])
	}
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
	to := e.shared.direct(y, true)
	if st.chunk.direct = to != nil; !st.chunk.direct {
		to = st.out[:rowBytes(y.Rows, y.Cols)]
	}
	l.download(to, p.y)
	l.mark(3)
	return l.err
}

// spread copies rows to where they are as far apart as on the device.
func spread(to []float32, x tensor.Matrix) {
	for r := range x.Rows {
		copy(to[r*stride(x.Cols):], x.Row(r))
	}
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
	c := st.chunk
	st.chunk, st.busy = chunk{}, false
	if !c.direct {
		ys := floatsOf(st.out)
		for r := range c.y.Rows {
			copy(c.y.Row(r), ys[r*stride(c.y.Cols):])
		}
	}
	return e.count(i, c)
}

// abandon waits for a chunk whose rows nobody takes.
func (e *engine) abandon(i int) error {
	st := &e.stages[i]
	if !st.busy {
		return nil
	}
	st.chunk, st.busy = chunk{}, false
	return e.dev.wait(i)
}

// count adds a chunk that is done to the sums.
func (e *engine) count(i int, c chunk) error {
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
	e.done.UploadSeconds += times[0]
	e.done.RunSeconds += times[1]
	e.done.DownloadSeconds += times[2]
	e.done.Uploaded += int64(c.up)
	e.done.Downloaded += int64(c.down)
	if c.direct {
		e.done.Direct += uint64(c.y.Rows)
	}
	return nil
}
