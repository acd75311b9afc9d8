package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// tile is how many queries share a load, and how many vectors they share it for: as many sums as registers hold, and
// enough of them to hide the latency of an addition.
type tile struct{ queries, vectors int }

func (m machine) tiles() []tile {
	if m.wide {
		return []tile{{8, 2}, {4, 4}, {2, 4}, {1, 8}}
	}
	return []tile{{4, 1}, {2, 2}, {1, 4}}
}

// strides addresses rows at multiples of a stride of bytes.
type strides map[int]reg.GPVirtual

func newStrides(stride reg.GPVirtual, rows int) strides {
	s := strides{1: stride}
	if rows > 3 {
		s[3] = GP64()
		LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, s[3])
	}
	if rows > 5 {
		s[5], s[7] = GP64(), GP64()
		LEAQ(Mem{Base: stride, Index: stride, Scale: 4}, s[5])
		LEAQ(Mem{Base: s[3], Index: stride, Scale: 4}, s[7])
	}
	return s
}

func (s strides) row(base reg.Register, i int) Mem {
	switch i {
	case 0:
		return Mem{Base: base}
	case 6:
		return Mem{Base: base, Index: s[3], Scale: 2}
	case 1, 2, 4:
		return Mem{Base: base, Index: s[1], Scale: uint8(i)}
	}
	return Mem{Base: base, Index: s[i], Scale: 1}
}

// sums are a tile's accumulators, [query][vector].
func (m machine) sums(t tile) [][]v {
	all := make([][]v, t.queries)
	for q := range all {
		for range t.vectors {
			all[q] = append(all[q], m.new())
		}
	}
	return all
}

// scores: outer over queries, so that a tile's rows stay in the first-level cache, and the keys come from the second.
func (m machine) scores(h half) {
	m.function("scores"+h.name(), "func(s *float32, ld int, q *float32, queries, dim int, k "+h.pointer()+", at *int, blocks int)",
		"is scoresGeneric.")
	// Registers are few: the arguments are also the variables of the outer loops.
	blocks := AllocLocal(8)
	for _, t := range m.tiles() {
		t.vectors = min(t.vectors, 4)
		name := fmt.Sprintf("q%d", t.queries)
		Label(name)
		CMPQ(param("queries"), imm(uint8(t.queries)))
		JL(LabelRef(name + "Done"))
		at, to, n := pointer("at"), pointer("s"), pointer("blocks")
		MOVQ(n, blocks)
		for _, width := range t.widths() {
			label := fmt.Sprintf("%sb%d", name, width)
			Label(label)
			CMPQ(blocks, imm(uint8(width)))
			JL(LabelRef(label + "Done"))
			m.scoreTile(h, tile{t.queries, width}, label, at, to)
			ADDQ(imm(uint8(8*width)), at)
			ADDQ(U32(64*width), to)
			SUBQ(imm(uint8(width)), blocks)
			JMP(LabelRef(label))
			Label(label + "Done")
		}
		m.advance("q", "dim", 4*t.queries)
		m.advance("s", "ld", 4*t.queries)
		SUBQ(imm(uint8(t.queries)), param("queries"))
		JMP(LabelRef(name))
		Label(name + "Done")
	}
	m.end()
}

// widths are the numbers of vectors that are done at once: as many as fit, then the rest.
func (t tile) widths() []int {
	switch t.vectors {
	case 1:
		return []int{1}
	case 8:
		return []int{8, 4, 1}
	}
	return []int{t.vectors, 1}
}

// advance moves a pointer, an argument, by another argument times some bytes.
func (m machine) advance(p, by string, bytes int) {
	n := pointer(by)
	IMUL3Q(U32(bytes), n, n)
	ADDQ(n, param(p))
}

// scoreTile is the sums over the dimensions for t.queries queries and t.vectors blocks.
func (m machine) scoreTile(h half, t tile, label string, at, to reg.GPVirtual) {
	sums := m.sums(t)
	for _, row := range sums {
		for _, a := range row {
			m.clear(a)
		}
	}
	k := pointer("k")
	blocks := make([]reg.GPVirtual, t.vectors)
	for j := range blocks {
		blocks[j] = GP64()
		MOVQ(Mem{Base: at, Disp: 8 * j}, blocks[j])
		LEAQ(Mem{Base: k, Index: blocks[j], Scale: 1 << h.shift()}, blocks[j])
	}
	stride, left, from, offset := pointer("dim"), pointer("dim"), pointer("q"), GP64()
	SHLQ(imm(2), stride)
	rows := newStrides(stride, t.queries)
	XORQ(offset, offset)
	loop := label + "d"
	Label(loop)
	m.product(h, sums, func(j int) Mem { return Mem{Base: blocks[j], Index: offset, Scale: 1} },
		func(i int) Mem { return rows.row(from, i) })
	ADDQ(imm(4), from)
	ADDQ(U32(16<<h.shift()), offset)
	DECQ(left)
	JNZ(LabelRef(loop))
	stride = pointer("ld")
	SHLQ(imm(2), stride)
	rows = newStrides(stride, t.queries)
	for i := range sums {
		for j := range sums[i] {
			m.store(sums[i][j], rows.row(to, i).Offset(64*j))
		}
	}
}

// product is sums[i][j] += factor i, in all lanes, times vector j.
func (m machine) product(h half, sums [][]v, vector, factor func(int) Mem) {
	if len(sums) == 1 {
		b := m.broadcast(factor(0))
		for j := range sums[0] {
			m.fma(sums[0][j], b, m.widen(h, vector(j)))
		}
		return
	}
	var shared []v
	for j := range sums[0] {
		w := m.widen(h, vector(j))
		if h == f32 {
			w = m.load(w)
		}
		shared = append(shared, w)
	}
	for i := range sums {
		b := m.broadcast(factor(i))
		for j := range sums[i] {
			m.fma(sums[i][j], b, shared[j])
		}
	}
}

func (h half) pointer() string {
	if h == f32 {
		return "*float32"
	}
	return "*uint16"
}

// mix keeps a tile's sums in registers over all tokens.
func (m machine) mix(h half) {
	m.function("mix"+h.name(),
		"func(out *float32, width int, p *float32, ld, queries int, v "+h.pointer()+", at *int, from, to int)", "is mixGeneric.")
	vectors := AllocLocal(8)
	for _, t := range m.tiles() {
		name := fmt.Sprintf("q%d", t.queries)
		Label(name)
		CMPQ(param("queries"), imm(uint8(t.queries)))
		JL(LabelRef(name + "Done"))
		first, n := GP64(), pointer("width") // the first of a group of dimensions
		XORQ(first, first)
		SHRQ(imm(4), n)
		MOVQ(n, vectors)
		for _, width := range t.widths() {
			label := fmt.Sprintf("%sv%d", name, width)
			Label(label)
			CMPQ(vectors, imm(uint8(width)))
			JL(LabelRef(label + "Done"))
			m.mixTile(h, tile{t.queries, width}, label, first)
			ADDQ(U32(lanes*width), first)
			SUBQ(imm(uint8(width)), vectors)
			JMP(LabelRef(label))
			Label(label + "Done")
		}
		m.advance("out", "width", 4*t.queries)
		m.advance("p", "ld", 4*t.queries)
		SUBQ(imm(uint8(t.queries)), param("queries"))
		JMP(LabelRef(name))
		Label(name + "Done")
	}
	m.end()
}

func (m machine) mixTile(h half, t tile, label string, first reg.GPVirtual) {
	sums := m.sums(t)
	m.mixSums(t, sums, first, false)
	token := pointer("from")
	Label(label + "Block")
	values, left, row := GP64(), GP64(), GP64()
	// values = v + (at[token / 16] + (token % 16) * width + first) * size; left = tokens of this block.
	MOVQ(token, values)
	SHRQ(imm(4), values)
	table := pointer("at")
	MOVQ(Mem{Base: table, Index: values, Scale: 8}, values)
	MOVQ(token, left)
	ANDQ(imm(15), left)
	MOVQ(left, row)
	IMULQ(param("width"), row)
	ADDQ(row, values)
	ADDQ(first, values)
	SHLQ(imm(uint8(h.shift())), values)
	ADDQ(param("v"), values)
	NEGQ(left)
	ADDQ(imm(16), left)
	end := pointer("to")
	SUBQ(token, end)
	CMPQ(left, end)
	CMOVQGT(end, left)
	weights := pointer("p")
	LEAQ(Mem{Base: weights, Index: token, Scale: 4}, weights)
	ADDQ(left, token)
	stride, width := pointer("ld"), pointer("width")
	SHLQ(imm(2), stride)
	SHLQ(imm(uint8(h.shift())), width)
	rows := newStrides(stride, t.queries)
	Label(label + "Token")
	m.product(h, sums, func(j int) Mem { return Mem{Base: values, Disp: j * lanes << h.shift()} },
		func(i int) Mem { return rows.row(weights, i) })
	ADDQ(imm(4), weights)
	ADDQ(width, values)
	DECQ(left)
	JNZ(LabelRef(label + "Token"))
	CMPQ(token, param("to"))
	JL(LabelRef(label + "Block"))
	m.mixSums(t, sums, first, true)
}

// mixSums loads or stores a tile's sums.
func (m machine) mixSums(t tile, sums [][]v, first reg.GPVirtual, store bool) {
	base, stride := pointer("out"), pointer("width")
	LEAQ(Mem{Base: base, Index: first, Scale: 4}, base)
	SHLQ(imm(2), stride)
	rows := newStrides(stride, t.queries)
	for i := range sums {
		for j := range sums[i] {
			at := rows.row(base, i).Offset(64 * j)
			if store {
				m.store(sums[i][j], at)
				continue
			}
			from := m.mem(at)
			m.each(func(part int) { VMOVUPS(from[part], sums[i][j][part]) })
		}
	}
}
