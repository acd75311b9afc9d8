package cuda

import (
	"fmt"
	"runtime"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// linear is one matrix.
type linear struct {
	backend *Backend
	kind    *kind
	out, in int
	unit    unit
}

func (l *linear) Out() int { return l.out }
func (l *linear) In() int  { return l.in }

// Apply leaves the team alone: the device has threads of its own.
func (l *linear) Apply(y, x tensor.Matrix, _ team.Team) {
	backends.CheckApply(l, y, x)
	if x.Rows > 0 {
		l.backend.run(shape{kind: l.kind, in: l.in, out: l.out}, []part{{l.unit, x.Rows}}, y, x)
	}
	runtime.KeepAlive(l) // its weights are freed with it
}

// ffn is an expert's block.
type ffn struct {
	backend       *Backend
	kind          *kind
	hidden, inner int
	act           uint64
	unit          unit
}

func (f *ffn) Hidden() int       { return f.hidden }
func (f *ffn) Intermediate() int { return f.inner }

func (f *ffn) shape() shape {
	return shape{kind: f.kind, in: f.hidden, inner: f.inner, out: f.hidden, act: f.act}
}

// Apply is ApplyAll for one block.
func (f *ffn) Apply(y, x tensor.Matrix, _ team.Team) {
	backends.CheckFFN(f, y, x)
	if x.Rows > 0 {
		f.backend.run(f.shape(), []part{{f.unit, x.Rows}}, y, x)
	}
	runtime.KeepAlive(f)
}

const panicBlocks = "cuda: blocks that are computed together differ in backend, class, activation or shape, or their rows are not those of x"

// ApplyAll computes the rows of several experts by one launch of each kernel.
func (b *Backend) ApplyAll(blocks []backends.FFN, rows []int, y, x tensor.Matrix, _ team.Team) {
	if len(blocks) == 0 {
		return
	}
	first, ok := blocks[0].(*ffn)
	parts, all := make([]part, len(blocks)), 0
	for i, block := range blocks {
		f, is := block.(*ffn)
		if ok = ok && is && f.backend == b && f.shape() == first.shape() && rows[i] > 0; !ok {
			panic(panicBlocks)
		}
		parts[i] = part{f.unit, rows[i]}
		all += rows[i]
	}
	backends.CheckFFN(first, y, x)
	if all != x.Rows {
		panic(panicBlocks)
	}
	b.run(first.shape(), parts, y, x)
	runtime.KeepAlive(blocks)
}

func (b *Backend) run(s shape, parts []part, y, x tensor.Matrix) {
	err := b.engine.run(s, parts, y, x)
	if err == nil {
		return
	}
	err = fmt.Errorf("cuda: device %d, %s: %w", b.engine.info.Number, b.engine.info.Name, err)
	if b.options.Lost != nil {
		b.options.Lost(err)
	}
	panic(err)
}

var (
	_ backends.Linear  = (*linear)(nil)
	_ backends.FFN     = (*ffn)(nil)
	_ backends.Grouped = (*Backend)(nil)
)
