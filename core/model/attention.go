package model

import (
	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// item is the unit of attention's parallel work, once for each kv head: a few consecutive rows of one span.
type item struct {
	from, to int // rows of the batch
}

const (
	// stretch is how many keys are scored, weighed and mixed at once: beside them everything of an item fits the
	// second-level cache, and what has to be done once a stretch is lost in it. Stretches begin at multiples of it.
	stretch = 256
	// itemQueries is how many queries read the keys together: with fewer the keys would be read more often from the
	// second-level cache, with more short prompts leave threads idle.
	itemQueries = 64
	itemRows    = 32
	// tileQueries are mixed together. Their ends differ where they come to their own tokens, and there each is alone.
	tileQueries = 8
)

// plan cuts the spans into items. Neither the cut nor the threads show in the result.
func (b *batch) plan() {
	s := &b.t.scratch
	s.items, b.attention = s.items[:0], 0
	most := min(itemRows, max(1, itemQueries*b.t.cfg.KVHeads/b.t.cfg.Heads))
	for from := 0; from < len(b.rows); {
		to := from + 1
		for to < len(b.rows) && to-from < most && b.rows[to].span == b.rows[from].span {
			to++
		}
		s.items = append(s.items, item{from, to})
		b.attention += (to - from) * (b.rows[to-1].position + 1)
		from = to
	}
	for len(s.workers) < b.team.Threads() {
		s.workers = append(s.workers, new(attentionWorker))
	}
}

// attend is the first half of a layer: from the normalised h to y.
func (b *batch) attend() {
	c, s, layer := b.t.cfg, &b.t.scratch, b.layer
	n, q, kv := b.x.Rows, c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	qkv := s.qkv.matrix(n, q+2*kv)
	b.q, b.k, b.v = columns(qkv, 0, q), columns(qkv, q, q+kv), columns(qkv, q+kv, q+2*kv)
	layer.qkv.apply(qkv, b.h, b.team)
	b.share(n, 8*qkv.Cols, (*putting)(b))
	if b.l == len(b.t.layers)-1 {
		b.narrow()
	}
	b.out = s.attended.matrix(b.x.Rows, q)
	if b.x.Rows == 0 {
		return
	}
	b.do(len(s.items)*c.KVHeads, b.attention*q*attentionWork, (*attending)(b))
	layer.o.Apply(b.y, b.out, b.team)
}

// narrow drops the rows that nobody wants to know more of: what is left of the last layer would lead to their logits
// alone. Their keys and values are in the cache by now.
func (b *batch) narrow() {
	s := &b.t.scratch
	row, to := 0, 0
	for i := range b.spans {
		n := len(b.spans[i].Tokens)
		for r := row + n - b.spans[i].keeps(); r < row+n; r++ {
			if to != r {
				copy(b.x.Row(to), b.x.Row(r))
				copy(b.q.Row(to), b.q.Row(r))
				s.rows[to], s.tokens[to], s.positions[to] = s.rows[r], s.tokens[r], s.positions[r]
			}
			to++
		}
		row += n
	}
	if to == row {
		return
	}
	s.rows, s.tokens, s.positions = s.rows[:to], s.tokens[:to], s.positions[:to]
	b.rows = s.rows
	b.x, b.h, b.y, b.q = b.x.Slice(0, to), b.h.Slice(0, to), b.y.Slice(0, to), b.q.Slice(0, to)
	b.plan()
}

// attentionWork is how a key's dimension compares with the work that do counts: two fused operations, and bytes that
// come from far away.
const attentionWork = 2

// columns is a part of all rows.
func columns(m tensor.Matrix, from, to int) tensor.Matrix {
	return tensor.Matrix{Rows: m.Rows, Cols: to - from, Stride: m.Stride, Data: m.Data[from : (m.Rows-1)*m.Stride+to]}
}

// putting is the task of making projections into queries, keys and values, row by row, and of storing the latter.
type putting batch

func (b *putting) Run(_, piece int) {
	c, layer := b.t.cfg, b.layer
	from, to := b.piece(piece)
	for r := from; r < to; r++ {
		k, v, at := b.k.Row(r), b.v.Row(r), b.rows[r]
		c.shape(b.q.Row(r), layer.qNorm, b.cos.Row(r), b.sin.Row(r))
		c.shape(k, layer.kNorm, b.cos.Row(r), b.sin.Row(r))
		if c.clip != 0 {
			vec.Clamp(v, c.clip)
		}
		for h := range c.KVHeads {
			d := h * c.HeadDim
			b.cache.put(b.l, b.spans[at.span].Pages, h, at.position, k[d:d+c.HeadDim], v[d:d+c.HeadDim])
		}
	}
}

func (b *putting) piece(i int) (from, to int) { return (*batch)(b).piece(i) }

// shape makes a projection's row into queries or keys: norm, clip, rotation.
func (c *Config) shape(x, norm, cos, sin []float32) {
	if c.arch.qkNorm == fullNorm {
		vec.RMSNorm(x, x, norm, c.eps)
	}
	if c.clip != 0 {
		vec.Clamp(x, c.clip)
	}
	if c.arch.qkNorm == headNorm {
		for at := 0; at < len(x); at += c.HeadDim {
			head := x[at : at+c.HeadDim]
			vec.RMSNorm(head, head, norm, c.eps)
		}
	}
	vec.Rotate(x, cos, sin)
}

// attending is the task of one item and one kv head for each piece.
type attending batch

func (b *attending) Run(worker, piece int) {
	s, heads := &b.t.scratch, b.t.cfg.KVHeads
	it := s.items[len(s.items)-1-piece/heads] // the last ones of a prompt have the most keys: long work first
	s.workers[worker].attend((*batch)(b), it, piece%heads)
}

// attentionWorker is one worker's memory: that of an item's queries.
type attentionWorker struct {
	q, scores, sums buffer
	softmax         []vec.Softmax
	seen            []keys
	keys, values    []int // where the blocks of a stretch lie
}

// keys are those from from to to - 1; none if from >= to.
type keys struct{ from, to int }

// attend computes an item's rows for the query heads of one kv head. Each query by itself is, over stretches of
// keys in ascending order,
//
//	s[t] = q scale . k[t]                       (dimensions ascending, fused)
//	top = the largest s so far; rescale sum and out by exp(top before - top)
//	p[t] = exp(s[t] - top); sum += p[t]         (in the lanes of vec)
//	for t ascending: out += p[t] * v[t]         (fused)
//
// and out / sum at the end (Milakov and Gimelshein 2018). Keys go from the start of the window to the query's own
// position, and stretches begin at fixed positions, so the bits are a function of that position alone.
func (w *attentionWorker) attend(b *batch, it item, kvHead int) {
	c := b.t.cfg
	first, last := b.rows[it.from], b.rows[it.to-1].position
	pages, layer := b.spans[first.span].Pages, &b.cache.layers[b.l]
	group, dim, width := c.Heads/c.KVHeads, c.HeadDim, b.cache.width
	queries := (it.to - it.from) * group
	w.gather(b, it, kvHead, group)
	scores, sums := w.scores.matrix(queries, stretch), w.sums.matrix(queries, width)
	clear(sums.Data)
	start := c.firstKey(b.l, first.position)
	for at := start &^ (stretch - 1); at <= last; at += stretch {
		lo, hi := max(at, start)&^(PageUnit-1), min(at+stretch, last+1)
		w.keys, w.values = b.cache.blocks(w.keys[:0], w.values[:0], pages, kvHead, lo, hi)
		vec.Scores(scores.Data, stretch, w.q.data[:queries*dim], dim, layer.k, w.keys)
		w.seen = w.seen[:0]
		for i := range queries {
			p := b.rows[it.from+i/group].position
			see := keys{max(c.firstKey(b.l, p), lo) - lo, min(p+1, hi) - lo}
			w.seen = append(w.seen, see)
			if see.from >= see.to {
				continue
			}
			if f := w.softmax[i].Step(scores.Row(i), see.from, see.to); f != 1 {
				vec.Scale(sums.Row(i), sums.Row(i), f)
			}
		}
		w.mix(scores, sums, layer.v)
	}
	for i := range queries {
		out := b.out.Row(it.from + i/group)
		h := (kvHead*group + i%group) * dim
		vec.Scale(out[h:h+dim], sums.Row(i)[:dim], 1/w.softmax[i].Total())
	}
}

// gather copies the item's queries, times the scale of the scores, and begins their softmaxes.
func (w *attentionWorker) gather(b *batch, it item, kvHead, group int) {
	n := group * b.t.cfg.HeadDim
	q := w.q.matrix(it.to-it.from, n)
	w.softmax = w.softmax[:0]
	for r := it.from; r < it.to; r++ {
		vec.Scale(q.Row(r-it.from), b.q.Row(r)[kvHead*n:(kvHead+1)*n], b.t.cfg.attention)
		for range group {
			w.softmax = append(w.softmax, vec.NewSoftmax())
		}
	}
}

// mix adds the weighted values of a stretch, in ascending order for each query: the keys that several queries see for
// these together, and what comes before and after for each alone. A value that a query doesn't see is not touched: it
// may be another sequence's, and anything.
func (w *attentionWorker) mix(scores, sums tensor.Matrix, v vec.Store) {
	width, n := sums.Cols, sums.Rows
	add := func(i, end, from, to int) {
		vec.Mix(sums.Data[i*width:end*width], width, scores.Data[i*stretch:end*stretch], stretch, v, w.values, from, to)
	}
	for i, end := 0, 0; i < n; i = end {
		if end = n; w.seen[i] != w.seen[n-1] {
			end = min(i+tileQueries, n)
		}
		both := keys{w.seen[end-1].from, w.seen[i].to} // windows only move on
		if both.from >= both.to {
			for j := i; j < end; j++ {
				add(j, j+1, w.seen[j].from, w.seen[j].to)
			}
			continue
		}
		for j := i; j < end; j++ {
			add(j, j+1, w.seen[j].from, both.from)
		}
		add(i, end, both.from, both.to)
		for j := i; j < end; j++ {
			add(j, j+1, both.to, w.seen[j].to)
		}
	}
}

// firstKey is the first position that a token sees in a layer: a window counts the token itself.
func (c *Config) firstKey(l, position int) int {
	if w := c.windows[l]; w > 0 && position >= w {
		return position - w + 1
	}
	return 0
}
