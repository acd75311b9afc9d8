package int8

import (
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// job is a call of Apply: a product, or a block, whose steps are the tasks below.
type job struct {
	*Backend
	workers []*worker
	x, y    tensor.Matrix
	l       *linear // the product that is computed; of a block, down
	f       *ffn    // the block, if it is one
	qx, qh  rows    // x and a block's inner activations
	in      *rows   // what l multiplies
	cut     cut     // of the step that runs
}

// cut says how a step's outputs are shared: pieces of up to rows x panels, panels ascending fastest, so that threads that run
// together read the same rows.
type cut struct {
	rows, panels, allRows, allPanels int
	threads                          int // that share the pieces
}

const (
	// fewRows are computed in pieces of all rows: their time is that of reading weights.
	fewRows = 12
	// rowsPerPiece, otherwise, is a multiple of a tile's 6 rows; with 512 inputs (deep) each they take 48 KiB.
	rowsPerPiece = 96
	// panelsPerPiece is what many rows go through: their inputs come from the second cache once for that many panels.
	panelsPerPiece = 8
	// pieceBytes of weights, which take 5 us from memory and 2 from the third cache, are a piece of few rows.
	pieceBytes = 128 << 10
	// fewPieces of a matrix for each thread are enough to share it evenly.
	fewPieces = 4
	// threadWork is how many multiplications, or bytes of weights read, pay for one more thread.
	threadWork = 256 << 10
	// unit is how many panels are not separated: their outputs are one block of inputs for the next matrix.
	unit = pack.BlockIn / pack.Panel
)

func newCut(nRows int, m *matrix, t team.Team) cut {
	c := cut{rows: nRows, panels: panelsPerPiece, allRows: nRows, allPanels: m.panels, threads: t.Threads()}
	if nRows > fewRows {
		c.rows = rowsPerPiece
	} else {
		c.panels = max(ceil(pieceBytes/m.panelBytes(), unit), m.panels/(fewPieces*c.threads*unit), 1) * unit
	}
	return c
}

func (c cut) pieces() int { return ceil(c.allRows, c.rows) * ceil(c.allPanels, c.panels) }

func (c cut) span(piece int) span {
	across := ceil(c.allPanels, c.panels)
	s := span{row: piece / across * c.rows, panel: piece % across * c.panels}
	s.rows, s.panels = min(c.rows, c.allRows-s.row), min(c.panels, c.allPanels-s.panel)
	if across > 1 {
		s.skip = (c.threads - 1) * c.panels
	}
	return s
}

// begin takes a job with x quantised.
func (b *Backend) begin(y, x tensor.Matrix, work int, t team.Team) (*job, team.Team) {
	t = t.Limit(1 + work/threadWork)
	j := b.jobs.Take()
	j.Backend, j.x, j.y = b, x, y
	for len(j.workers) < t.Threads() {
		j.workers = append(j.workers, new(worker))
	}
	j.qx.size(x.Rows, x.Cols)
	if x.Rows <= fewRows {
		(*quantizing)(j).rows(j.workers[0], 0, x.Rows)
	} else {
		t.Do(ceil(x.Rows, fewRows), (*quantizing)(j))
	}
	return j, t
}

// end gives the job back, without what belongs to the caller.
func (j *job) end() {
	b := j.Backend
	j.Backend, j.x, j.y, j.l, j.f, j.in = nil, tensor.Matrix{}, tensor.Matrix{}, nil, nil, nil
	b.jobs.Put(j)
}

// quantizing makes integers of x, fewRows a piece.
type quantizing job

func (j *quantizing) Run(worker, piece int) {
	j.rows(j.workers[worker], piece*fewRows, min((piece+1)*fewRows, j.x.Rows))
}

func (j *quantizing) rows(w *worker, from, to int) {
	for r := from; r < to; r++ {
		w.quantize(j.kernels, &j.qx, r, 0, j.x.Row(r))
	}
}
