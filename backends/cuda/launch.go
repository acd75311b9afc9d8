package cuda

import "fmt"

// launcher puts a chunk's steps on a stream until one fails. Places are in the stage's memory on the device.
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

func (l *launcher) upload(to int, src []byte) {
	l.step("upload", func() error { return l.e.dev.upload(l.stream, l.room+uint64(to), src) })
	l.e.stages[l.stream].chunk.up += len(src)
}

func (l *launcher) download(dst []byte, from int) {
	l.step("download", func() error { return l.e.dev.download(l.stream, dst, l.room+uint64(from)) })
	l.e.stages[l.stream].chunk.down += len(dst)
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
