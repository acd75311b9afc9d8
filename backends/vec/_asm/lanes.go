package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// machine is the instruction set that code is being made for. A vector has 16 float32 lanes on all of them: one
// register of 64 bytes, or two of 32, so every kernel is written once.
type machine struct {
	suffix string
	wide   bool // AVX-512
}

var machines = []machine{{"AVX2", false}, {"AVX512", true}}

const lanes = 16

// v is a vector: its one or two parts, registers or memory.
type v []Op

func (m machine) parts() int {
	if m.wide {
		return 1
	}
	return 2
}

// bytes is the width of a part.
func (m machine) bytes() int { return 64 / m.parts() }

func (m machine) new() v {
	var r v
	for range m.parts() {
		if m.wide {
			r = append(r, ZMM())
		} else {
			r = append(r, YMM())
		}
	}
	return r
}

func (m machine) each(do func(i int)) {
	for i := range m.parts() {
		do(i)
	}
}

// mem is the vector at an address.
func (m machine) mem(at Mem) v {
	var r v
	m.each(func(i int) { r = append(r, at.Offset(i*m.bytes())) })
	return r
}

// same is one part in all lanes: registers holding a broadcast are not needed twice.
func (m machine) same(o Op) v {
	r := v{o}
	for len(r) < m.parts() {
		r = append(r, o)
	}
	return r
}

func (m machine) broadcast(at Mem) v {
	if m.wide {
		z := ZMM()
		VBROADCASTSS(at, z)
		return v{z}
	}
	y := YMM()
	VBROADCASTSS(at, y)
	return m.same(y)
}

func (m machine) zero() v {
	r := m.new()
	m.clear(r)
	return r
}

func (m machine) clear(r v) {
	m.each(func(i int) {
		if m.wide { // avo doesn't know that VPXORD of a register with itself needs no value there
			VMOVUPS(m.bits(0)[i], r[i])
		} else {
			VXORPS(r[i], r[i], r[i])
		}
	})
}

func (m machine) load(at v) v {
	r := m.new()
	m.each(func(i int) { VMOVUPS(at[i], r[i]) })
	return r
}

func (m machine) copy(a v) v { return m.load(a) }

func (m machine) store(a v, at Mem) {
	to := m.mem(at)
	m.each(func(i int) { VMOVUPS(a[i], to[i]) })
}

// The operations: r = a op b. Of minus and over, a is the left side.
func (m machine) mul(a, b v) v   { return m.op(VMULPS, b, a) }
func (m machine) plus(a, b v) v  { return m.op(VADDPS, b, a) }
func (m machine) minus(a, b v) v { return m.op(VSUBPS, b, a) }
func (m machine) over(a, b v) v  { return m.op(VDIVPS, b, a) }

// max and min give the second operand where either is NaN.
func (m machine) max(a, b v) v { return m.op(VMAXPS, b, a) }
func (m machine) min(a, b v) v { return m.op(VMINPS, b, a) }

// op is r = a op b in the order of the assembler, which has the last source first.
func (m machine) op(f func(...Op), last, first v) v {
	if _, memory := first[0].(Mem); memory {
		first = m.load(first)
	}
	r := m.new()
	m.each(func(i int) { f(last[i], first[i], r[i]) })
	return r
}

// fma is acc += a * b.
func (m machine) fma(acc, a, b v) {
	m.each(func(i int) { VFMADD231PS(b[i], a[i], acc[i]) })
}

// horner is a = a * x + c.
func (m machine) horner(a, x, c v) {
	m.each(func(i int) { VFMADD213PS(c[i], x[i], a[i]) })
}

// mask is the first n lanes, for n from 1 to 15.
type mask struct {
	k reg.Register
	y v
}

func (m machine) first(n reg.GPVirtual) mask {
	if m.wide {
		k, bits := K(), GP32()
		ones := GP32()
		MOVL(U32(0xffffffff), ones)
		BZHIL(n.As32(), ones, bits)
		KMOVW(bits, k)
		return mask{k: k}
	}
	// A window of 16 words over sixteen of ones and sixteen of zeros.
	at, back := GP64(), GP64()
	LEAQ(maskTable(), at)
	MOVQ(n, back)
	NEGQ(back)
	return mask{y: m.load(m.mem(Mem{Base: at, Index: back, Scale: 4, Disp: 64}))}
}

func (m machine) loadFirst(k mask, at Mem) v {
	r, from := m.new(), m.mem(at)
	m.each(func(i int) {
		if m.wide {
			VMOVUPS_Z(from[i], k.k, r[i])
		} else {
			VMASKMOVPS(from[i], k.y[i], r[i])
		}
	})
	return r
}

func (m machine) storeFirst(a v, k mask, at Mem) {
	to := m.mem(at)
	m.each(func(i int) {
		if m.wide {
			VMOVUPS(a[i], k.k, to[i])
		} else {
			VMASKMOVPS(a[i], k.y[i], to[i])
		}
	})
}

// fold adds the lanes: j and j+8, then j and j+4, j and j+2, and the last two. The sum is in lane 0 of the result.
func (m machine) fold(a v) reg.VecVirtual { return m.reduce(a, VADDPS) }

func (m machine) reduce(a v, f func(...Op)) reg.VecVirtual {
	y, hi := YMM(), YMM()
	if m.wide {
		VEXTRACTF64X4(imm(1), a[0], hi)
		f(hi, a[0].(reg.VecVirtual).AsY(), y)
	} else {
		f(a[1], a[0], y)
	}
	x, other := XMM(), XMM()
	VEXTRACTF128(imm(1), y, other)
	f(other, y.AsX(), x)
	VPERMILPS(imm(0x0e), x, other)
	f(other, x, x)
	VPERMILPS(imm(0x01), x, other)
	f(other, x, x)
	return x
}

// Constants, 64 bytes each, so that they can be operands wherever a vector can.
var constants = map[uint32]Mem{}

func (m machine) bits(u uint32) v {
	at, ok := constants[u]
	if !ok {
		at = GLOBL(fmt.Sprintf("all%08x", u), 8|16) // RODATA|NOPTR
		for i := range lanes {
			DATA(4*i, U32(u))
		}
		constants[u] = at
	}
	return m.same(at)
}

func (m machine) value(f float32) v { return m.bits(math.Float32bits(f)) }

var masks *Mem

func maskTable() Mem {
	if masks == nil {
		at := GLOBL("firstLanes", 8|16)
		for i := range 2 * lanes {
			word := uint32(0)
			if i < lanes {
				word = 0xffffffff
			}
			DATA(4*i, U32(word))
		}
		masks = &at
	}
	return *masks
}

// function starts a kernel. The signature is that of Go's declaration without name.
func (m machine) function(name, signature, doc string) {
	TEXT(name+m.suffix, 4, signature) // NOSPLIT
	Pragma("noescape")
	Doc(name + m.suffix + " " + doc)
}

func (m machine) end() {
	VZEROUPPER()
	RET()
}

// over16 runs body for each vector of n values, the last one masked. body gets the byte offset, and how to load and
// store there.
type access struct {
	m      machine
	offset reg.GPVirtual
	tail   bool
	k      mask
}

func (a access) at(base reg.Register) Mem { return Mem{Base: base, Index: a.offset, Scale: 1} }

func (a access) load(base reg.Register) v {
	if a.tail {
		return a.m.loadFirst(a.k, a.at(base))
	}
	return a.m.load(a.m.mem(a.at(base)))
}

func (a access) store(r v, base reg.Register) {
	if a.tail {
		a.m.storeFirst(r, a.k, a.at(base))
	} else {
		a.m.store(r, a.at(base))
	}
}

func (m machine) vectors(label string, n reg.GPVirtual, body func(a access)) {
	a := access{m: m, offset: GP64()}
	XORQ(a.offset, a.offset)
	SUBQ(imm(lanes), n)
	JL(LabelRef(label + "Tail"))
	Label(label)
	body(a)
	ADDQ(imm(64), a.offset)
	SUBQ(imm(lanes), n)
	JGE(LabelRef(label))
	Label(label + "Tail")
	ADDQ(imm(lanes), n)
	JZ(LabelRef(label + "Done"))
	a.tail, a.k = true, m.first(n)
	body(a)
	Label(label + "Done")
}

func pointer(name string) reg.GPVirtual { return Load(Param(name), GP64()).(reg.GPVirtual) }

// imm is an operand of an instruction.
func imm(n uint8) Op { return U8(n) }
