package main

import . "github.com/mmcloughlin/avo/build"

// exp is e^x, as exp32 of the package has it.
func (m machine) exp(x v) v {
	x = m.min(m.value(100), m.max(m.value(-104), x))
	t := m.load(m.value(0x1.8p23))
	m.fma(t, x, m.value(0x1.715476p0))
	n := m.minus(t, m.value(0x1.8p23))
	r := x
	m.fma(r, n, m.value(-0x1.62e430p-1))
	m.fma(r, n, m.value(0x1.05c610p-29))
	p := m.load(m.value(0x1.6a2434p-10))
	for _, c := range []float32{0x1.1239e2p-7, 0x1.5558f2p-5, 0x1.555492p-3, 0x1.fffffcp-2, 1, 1} {
		m.horner(p, r, m.value(c))
	}
	if m.wide {
		z := m.new()
		VSCALEFPS(n[0], p[0], z[0])
		return z
	}
	one := m.bits(127)
	m.each(func(i int) {
		k, half := YMM(), YMM()
		VPSUBD(m.bits(0x4b400000)[i], t[i], k)
		VPSRAD(imm(1), k, half)
		VPSUBD(half, k, k)
		VPADDD(one[i], half, half)
		VPADDD(one[i], k, k)
		VPSLLD(imm(23), half, half)
		VPSLLD(imm(23), k, k)
		VMULPS(half, p[i], p[i])
		VMULPS(k, p[i], p[i])
	})
	return p
}

// logistic is x / (1 + e^minus).
func (m machine) logistic(x, minus v) v {
	return m.over(x, m.plus(m.exp(minus), m.value(1)))
}

func (m machine) activations() {
	const signature = "func(dst, gate, up *float32, n int)"
	for _, a := range []struct {
		name, doc string
		act       func(x v) v
	}{
		{"siluMul", "is siluMulGeneric.", func(x v) v {
			return m.logistic(x, m.minus(m.zero(), x))
		}},
		{"geluTanhMul", "is geluTanhMulGeneric.", func(x v) v {
			c := m.mul(m.mul(x, x), m.value(0.044715))
			u := m.copy(x)
			m.fma(u, x, c)
			return m.logistic(x, m.mul(u, m.value(-2*0.7978845608028654)))
		}},
	} {
		m.function(a.name, signature, a.doc)
		dst, gate, up, n := pointer("dst"), pointer("gate"), pointer("up"), pointer("n")
		m.vectors("loop", n, func(at access) {
			g := at.load(gate)
			at.store(m.mul(a.act(g), at.load(up)), dst)
		})
		m.end()
	}
}
