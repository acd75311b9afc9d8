package model

import (
	"math"

	"github.com/pimoe/pimoe/backends/scalar"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// attentionItem is the unit of parallel work: a few consecutive rows of one span.
type attentionItem struct {
	from, to int // rows of the batch
}

// attentionWorker is one worker's memory.
type attentionWorker struct {
	scores buffer
	page   buffer // keys or values of a page as float32, where the cache holds 16 bits
}

const (
	itemRows   = 16      // rows that read a page together: more would leave threads idle in short prompts
	itemScores = 1 << 18 // scores of an item, 1 MiB: beside long contexts items have fewer rows
)

// plan cuts the spans into items. Neither the cut nor the threads show in the result.
func (b *batch) plan() {
	s := &b.t.scratch
	s.items = s.items[:0]
	group := b.t.cfg.Heads / b.t.cfg.KVHeads
	for from := 0; from < len(b.rows); {
		first := b.rows[from]
		most := min(itemRows, max(1, itemScores/((first.position+itemRows)*group)))
		to := from + 1
		for to < len(b.rows) && to-from < most && b.rows[to].span == first.span {
			to++
		}
		s.items = append(s.items, attentionItem{from, to})
		from = to
	}
	for len(s.workers) < b.team.Threads() {
		s.workers = append(s.workers, attentionWorker{})
	}
}

// attend is the first half of a layer: norm, attention, residual.
func (b *batch) attend(l int) {
	c, s, layer := b.t.cfg, &b.t.scratch, &b.t.layers[l]
	n, kv := b.x.Rows, c.KVHeads*c.HeadDim
	b.normalise(layer.attnNorm)
	q, k, v := s.q.matrix(n, c.Heads*c.HeadDim), s.k.matrix(n, kv), s.v.matrix(n, kv)
	layer.q.Apply(q, b.h, b.team)
	layer.k.Apply(k, b.h, b.team)
	layer.v.Apply(v, b.h, b.team)
	page := b.cache.spec.PageTokens
	parallel(b.team, n, 8*n*q.Cols, func(_, r int) {
		c.shape(q.Row(r), layer.qNorm, b.cos.Row(r), b.sin.Row(r))
		c.shape(k.Row(r), layer.kNorm, b.cos.Row(r), b.sin.Row(r))
		if c.clip != 0 {
			clamp(v.Row(r), c.clip)
		}
		at := b.rows[r]
		b.cache.put(l, b.spans[at.span].Pages[at.position/page], at.position%page, k.Row(r), v.Row(r))
	})
	out := s.a.matrix(n, q.Cols)
	clear(out.Data)
	work := 0
	for _, at := range b.rows {
		work += (at.position + 1) * 4 * q.Cols
	}
	parallel(b.team, len(s.items)*c.KVHeads, work, func(worker, i int) {
		b.item(l, s.items[i/c.KVHeads], i%c.KVHeads, q, out, &s.workers[worker])
	})
	layer.o.Apply(b.y, out, b.team)
	b.add()
}

// shape makes a projection's row into queries or keys: norm, clip, rotation.
func (c *Config) shape(x, norm, cos, sin []float32) {
	if c.arch.qkNorm == fullNorm {
		rmsNorm(x, x, norm, c.eps)
	}
	if c.clip != 0 {
		clamp(x, c.clip)
	}
	for at := 0; at < len(x); at += c.HeadDim {
		head := x[at : at+c.HeadDim]
		if c.arch.qkNorm == headNorm {
			rmsNorm(head, head, norm, c.eps)
		}
		rotate(head, cos, sin)
	}
}

// item attends with the rows of an item and the query heads of one kv head. Each query by itself is
//
//	for t in keys ascending: s[t] = (q . k[t]) * scale     (dimensions ascending)
//	p[t] = exp(s[t] - max s) / sum of exp ascending
//	for t in keys ascending: out += p[t] * v[t]
//
// with keys from the start of the window to the query's own position: a function of that position alone. Going through
// the pages for all queries together only saves reading and converting them again.
func (b *batch) item(l int, it attentionItem, kvHead int, q, out tensor.Matrix, w *attentionWorker) {
	c := b.t.cfg
	group, dim, page := c.Heads/c.KVHeads, c.HeadDim, b.cache.spec.PageTokens
	first, last := b.rows[it.from].position, b.rows[it.to-1].position
	pages := b.spans[b.rows[it.from].span].Pages
	start := c.firstKey(l, first)
	scores := w.scores.matrix((it.to-it.from)*group, last+1-start)
	buf := w.page.matrix(page, dim).Data
	each := func(p int, do func(query, head []float32, s []float32, lo, hi int)) {
		for r := it.from; r < it.to; r++ {
			at := b.rows[r].position
			lo, hi := max(c.firstKey(l, at), p*page), min(at+1, (p+1)*page)
			if lo >= hi {
				continue
			}
			for g := range group {
				h := (kvHead*group + g) * dim
				s := scores.Row((r-it.from)*group + g)[lo-start : hi-start]
				do(q.Row(r)[h:h+dim], out.Row(r)[h:h+dim], s, lo-p*page, hi-p*page)
			}
		}
	}
	for p := start / page; p <= last/page; p++ {
		keys := b.cache.keys(l, pages[p], kvHead, min(page, last+1-p*page), buf)
		each(p, func(query, _, s []float32, lo, hi int) { dots(s, query, keys[lo*dim:hi*dim], c.attention) })
	}
	for r := it.from; r < it.to; r++ {
		at := b.rows[r].position
		for g := range group {
			softmax(scores.Row((r-it.from)*group + g)[c.firstKey(l, at)-start : at+1-start])
		}
	}
	for p := start / page; p <= last/page; p++ {
		values := b.cache.values(l, pages[p], kvHead, min(page, last+1-p*page), buf)
		each(p, func(_, head, s []float32, lo, hi int) { accumulate(head, s, values[lo*dim:hi*dim]) })
	}
}

// firstKey is the first position that a token sees in a layer: a window counts the token itself.
func (c *Config) firstKey(l, position int) int {
	if w := c.windows[l]; w > 0 && position >= w {
		return position - w + 1
	}
	return 0
}

// dots is s[t] = (q . keys[t]) * scale for consecutive keys: one accumulator each, eight keys at a time.
func dots(s, q, keys []float32, scale float32) {
	dim := len(q)
	for ; len(s) >= 8; s, keys = s[8:], keys[8*dim:] {
		k0, k1, k2, k3 := keys[:dim], keys[dim:2*dim], keys[2*dim:3*dim], keys[3*dim:4*dim]
		k4, k5, k6, k7 := keys[4*dim:5*dim], keys[5*dim:6*dim], keys[6*dim:7*dim], keys[7*dim:8*dim]
		k0, k1, k2, k3 = k0[:len(q)], k1[:len(q)], k2[:len(q)], k3[:len(q)]
		k4, k5, k6, k7 = k4[:len(q)], k5[:len(q)], k6[:len(q)], k7[:len(q)]
		var s0, s1, s2, s3, s4, s5, s6, s7 float32
		for i, v := range q {
			s0 += float32(v * k0[i])
			s1 += float32(v * k1[i])
			s2 += float32(v * k2[i])
			s3 += float32(v * k3[i])
			s4 += float32(v * k4[i])
			s5 += float32(v * k5[i])
			s6 += float32(v * k6[i])
			s7 += float32(v * k7[i])
		}
		s[0], s[1], s[2], s[3] = s0*scale, s1*scale, s2*scale, s3*scale
		s[4], s[5], s[6], s[7] = s4*scale, s5*scale, s6*scale, s7*scale
	}
	for t := range s {
		k := keys[t*dim : (t+1)*dim]
		var sum float32
		for i, v := range q {
			sum += float32(v * k[i])
		}
		s[t] = sum * scale
	}
}

// softmax turns scores into weights in place.
func softmax(s []float32) {
	top := float32(math.Inf(-1))
	for _, v := range s {
		top = max(top, v)
	}
	var sum float32
	for i, v := range s {
		e := float32(scalar.Exp(float64(v - top)))
		s[i] = e
		sum += e
	}
	inv := 1 / sum
	for i := range s {
		s[i] *= inv
	}
}

// accumulate is out += p[t] * values[t] for consecutive values, in ascending order, four at a time.
func accumulate(out, p, values []float32) {
	dim := len(out)
	for ; len(p) >= 4; p, values = p[4:], values[4*dim:] {
		p0, p1, p2, p3 := p[0], p[1], p[2], p[3]
		v0, v1, v2, v3 := values[:dim], values[dim:2*dim], values[2*dim:3*dim], values[3*dim:4*dim]
		v0, v1, v2, v3 = v0[:len(out)], v1[:len(out)], v2[:len(out)], v3[:len(out)]
		for i, o := range out {
			o += float32(p0 * v0[i])
			o += float32(p1 * v1[i])
			o += float32(p2 * v2[i])
			o += float32(p3 * v3[i])
			out[i] = o
		}
	}
	for t, w := range p {
		v := values[t*dim : (t+1)*dim]
		for i := range out {
			out[i] += float32(w * v[i])
		}
	}
}
