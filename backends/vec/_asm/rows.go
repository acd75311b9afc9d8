package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// rows are the operations on one or two rows of values.
func (m machine) rows() {
	m.function("dot", "func(x, y *float32, n int) float32", "is dotGeneric.")
	x, y, n := pointer("x"), pointer("y"), pointer("n")
	sum := m.zero()
	m.vectors("loop", n, func(at access) { m.fma(sum, at.load(x), at.load(y)) })
	result := m.fold(sum)
	m.give(result)
	m.end()

	m.function("normScale", "func(y, x, w *float32, r float32, n int)", "is normScaleGeneric.")
	y, x, w, n := pointer("y"), pointer("x"), pointer("w"), pointer("n")
	r := m.broadcast(param("r"))
	m.vectors("loop", n, func(at access) { at.store(m.mul(m.mul(at.load(x), r), at.load(w)), y) })
	m.end()

	m.function("add", "func(y, x *float32, n int)", "is addGeneric.")
	y, x, n = pointer("y"), pointer("x"), pointer("n")
	m.vectors("loop", n, func(at access) { at.store(m.plus(at.load(y), at.load(x)), y) })
	m.end()

	m.function("addScaled", "func(y, x *float32, w float32, n int)", "is addScaledGeneric.")
	y, x, n = pointer("y"), pointer("x"), pointer("n")
	factor := m.broadcast(param("w"))
	m.vectors("loop", n, func(at access) {
		acc := at.load(y)
		m.fma(acc, at.load(x), factor)
		at.store(acc, y)
	})
	m.end()

	m.function("scale", "func(y, x *float32, w float32, n int)", "is scaleGeneric.")
	y, x, n = pointer("y"), pointer("x"), pointer("n")
	factor = m.broadcast(param("w"))
	m.vectors("loop", n, func(at access) { at.store(m.mul(at.load(x), factor), y) })
	m.end()

	m.function("clamp", "func(x *float32, limit float32, n int)", "is clampGeneric.")
	x, n = pointer("x"), pointer("n")
	high := m.broadcast(param("limit"))
	low := m.minus(m.zero(), high)
	m.vectors("loop", n, func(at access) { at.store(m.min(high, m.max(low, at.load(x))), x) })
	m.end()

	m.function("defects", "func(x *float32, n int) uint32", "is not 0 if a value is not finite.")
	x, n = pointer("x"), pointer("n")
	bad := m.zero()
	m.vectors("loop", n, func(at access) {
		d := at.load(x)
		d = m.minus(d, d)
		m.each(func(i int) { VORPS(d[i], bad[i], bad[i]) })
	})
	found := m.reduce(bad, VORPS)
	bits := GP32()
	VMOVD(found, bits)
	Store(bits, ReturnIndex(0))
	m.end()

	m.function("rotate", "func(x, cos, sin *float32, half, heads int)", "is rotateGeneric.")
	x, cos, sin, heads := pointer("x"), pointer("cos"), pointer("sin"), pointer("heads")
	size, upper := pointer("half"), GP64()
	SHLQ(imm(2), size)
	Label("head")
	LEAQ(Mem{Base: x, Index: size, Scale: 1}, upper)
	n = pointer("half")
	m.vectors("loop", n, func(at access) {
		a, b, c, s := at.load(x), at.load(upper), at.load(cos), at.load(sin)
		at.store(m.minus(m.mul(a, c), m.mul(b, s)), x)
		at.store(m.plus(m.mul(b, c), m.mul(a, s)), upper)
	})
	LEAQ(Mem{Base: x, Index: size, Scale: 2}, x)
	DECQ(heads)
	JNZ(LabelRef("head"))
	m.end()

	m.function("top", "func(x *float32, vectors int) float32", "is topGeneric.")
	x, n = pointer("x"), pointer("vectors")
	high = m.load(m.bits(0xff800000))
	m.whole(n, func(offset reg.GPVirtual) {
		at := m.mem(Mem{Base: x, Index: offset, Scale: 1})
		m.each(func(i int) { VMAXPS(at[i], high[i], high[i]) })
	})
	m.give(m.reduce(high, VMAXPS))
	m.end()

	m.function("expSum", "func(x *float32, top float32, sum *float32, vectors int)", "is expSumGeneric.")
	x, n = pointer("x"), pointer("vectors")
	shift := m.broadcast(param("top"))
	lane := pointer("sum")
	sum = m.load(m.mem(Mem{Base: lane}))
	m.whole(n, func(offset reg.GPVirtual) {
		at := Mem{Base: x, Index: offset, Scale: 1}
		e := m.exp(m.minus(m.load(m.mem(at)), shift))
		m.store(e, at)
		m.each(func(i int) { VADDPS(e[i], sum[i], sum[i]) })
	})
	m.store(sum, Mem{Base: lane})
	m.end()
}

// whole runs body for n whole vectors, n at least 1, with the byte offset of each.
func (m machine) whole(n reg.GPVirtual, body func(offset reg.GPVirtual)) {
	offset := GP64()
	XORQ(offset, offset)
	Label("loop")
	body(offset)
	ADDQ(imm(64), offset)
	DECQ(n)
	JNZ(LabelRef("loop"))
}

// halves are the conversions from and to 16 bits, of whole vectors.
func (m machine) halves() {
	for _, h := range []half{bf16, f16} {
		m.function("from"+h.name(), "func(dst *float32, src *uint16, vectors int)", "is from"+h.name()+"Generic.")
		dst, src, n := pointer("dst"), pointer("src"), pointer("vectors")
		m.whole(n, func(offset reg.GPVirtual) {
			m.store(m.widen(h, Mem{Base: src}), Mem{Base: dst, Index: offset, Scale: 1})
			ADDQ(imm(32), src)
		})
		m.end()

		m.function("to"+h.name(), "func(dst *uint16, src *float32, vectors int)", "is to"+h.name()+"Generic.")
		dst, src, n = pointer("dst"), pointer("src"), pointer("vectors")
		m.whole(n, func(offset reg.GPVirtual) {
			x := m.load(m.mem(Mem{Base: src, Index: offset, Scale: 1}))
			if h == f16 {
				to := Mem{Base: dst}
				m.each(func(i int) { VCVTPS2PH(imm(0), x[i], to.Offset(i*m.bytes()/2)) })
			} else {
				m.narrow(x, Mem{Base: dst})
			}
			ADDQ(imm(32), dst)
		})
		m.end()
	}
}

// half says how values are stored.
type half int

const (
	f32 half = iota
	bf16
	f16
)

func (h half) name() string { return []string{"F32", "BF16", "F16"}[h] }

// shift is the binary logarithm of a value's size.
func (h half) shift() int {
	if h == f32 {
		return 2
	}
	return 1
}

// widen is the vector at an address as float32: memory itself where it is that.
func (m machine) widen(h half, at Mem) v {
	if h == f32 {
		return m.mem(at)
	}
	r := m.new()
	m.each(func(i int) {
		from := at.Offset(i * m.bytes() / 2)
		if h == f16 {
			VCVTPH2PS(from, r[i])
			return
		}
		VPMOVZXWD(from, r[i])
		VPSLLD(imm(16), r[i], r[i])
	})
	return r
}

// narrow rounds to bfloat16, to nearest, ties to even; a NaN keeps its upper bits and becomes quiet.
func (m machine) narrow(x v, to Mem) {
	var parts []Op
	m.each(func(i int) {
		r, odd := m.new()[0], m.new()[0]
		VPSRLD(imm(16), x[i], r)
		if m.wide {
			k := K()
			VPANDD(m.bits(1)[0], r, odd)
			VPADDD(m.bits(0x7fff)[0], odd, odd)
			VPADDD(x[i], odd, odd)
			VPSRLD(imm(16), odd, odd)
			VCMPPS(imm(3), x[i], x[i], k)
			VPORD(m.bits(0x40)[0], r, k, odd)
			narrow := YMM()
			VPMOVDW(odd, narrow)
			VMOVDQU(narrow, to)
			return
		}
		nan := YMM()
		VPAND(m.bits(1)[0], r, odd)
		VPADDD(m.bits(0x7fff)[0], odd, odd)
		VPADDD(x[i], odd, odd)
		VPSRLD(imm(16), odd, odd)
		VPOR(m.bits(0x40)[0], r, r)
		VCMPPS(imm(3), x[i], x[i], nan)
		VBLENDVPS(nan, r, odd, odd)
		parts = append(parts, odd)
	})
	if !m.wide {
		y := YMM()
		VPACKUSDW(parts[1], parts[0], y)
		VPERMQ(imm(0xd8), y, y)
		VMOVDQU(y, to)
	}
}

// give returns lane 0. (Store would use an instruction of SSE, which costs where upper halves are in use.)
func (m machine) give(x reg.VecVirtual) {
	b, err := ReturnIndex(0).Resolve()
	if err != nil {
		panic(err)
	}
	VMOVSS(x, b.Addr)
}

// param is an argument in memory.
func param(name string) Mem {
	b, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return b.Addr
}
