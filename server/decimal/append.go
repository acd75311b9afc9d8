package decimal

import (
	"math"
	"math/big"
	"math/bits"
	"strconv"
)

// Append writes the shortest decimal that reads back as f, the one closest to f if there are several, in the form that
// encoding/json has: without an exponent from 1e-6 up to 1e21. f must be finite.
func Append(b []byte, f float32) []byte {
	if f == 0 {
		if math.Signbit(float64(f)) {
			b = append(b, '-')
		}
		return append(b, '0')
	}
	if f < 0 {
		b, f = append(b, '-'), -f
	}
	if f < 1e-6 || f >= 1e21 {
		return appendScientific(b, f)
	}
	digits, exponent := shortest(f)
	for digits%10 == 0 {
		digits, exponent = digits/10, exponent+1
	}
	return appendPlain(b, digits, exponent)
}

// appendScientific is encoding/json's form of very small and very large numbers, which are rare: e-9 instead of e-09.
func appendScientific(b []byte, f float32) []byte {
	b = strconv.AppendFloat(b, float64(f), 'e', -1, 32)
	if n := len(b); n >= 4 && b[n-4] == 'e' && b[n-3] == '-' && b[n-2] == '0' {
		b[n-2] = b[n-1]
		b = b[:n-1]
	}
	return b
}

// appendPlain writes digits x 10^exponent without an exponent.
func appendPlain(b []byte, digits uint32, exponent int) []byte {
	var text [10]byte
	i := len(text)
	for digits >= 100 {
		pair := digits % 100 * 2
		digits /= 100
		i -= 2
		text[i], text[i+1] = pairs[pair], pairs[pair+1]
	}
	if digits >= 10 {
		i -= 2
		text[i], text[i+1] = pairs[digits*2], pairs[digits*2+1]
	} else {
		i--
		text[i] = byte('0' + digits)
	}
	all := text[i:]
	point := len(all) + exponent // digits before the point
	switch {
	case exponent >= 0:
		b = append(b, all...)
		return append(b, zeros[:exponent]...)
	case point > 0:
		b = append(b, all[:point]...)
		b = append(b, '.')
		return append(b, all[point:]...)
	}
	b = append(b, '0', '.')
	b = append(b, zeros[:-point]...)
	return append(b, all...)
}

const zeros = "000000000000000000000" // 1e20 has 20 of them behind its digit

var pairs = func() (p [200]byte) {
	for i := range 100 {
		p[2*i], p[2*i+1] = byte('0'+i/10), byte('0'+i%10)
	}
	return p
}()

// shortest finds digits x 10^exponent, the shortest decimal in f's rounding interval and of those the closest to f; trailing
// zeros may be left. It is Schubfach (Raffaello Giulietti, "The Schubfach way to render doubles", 2020), whose names it keeps:
// f = c x 2^q, and k is the power of ten at which the interval holds one or two candidates of full length.
func shortest(f float32) (digits uint32, exponent int) {
	raw := math.Float32bits(f)
	c, q := raw&(1<<23-1), int(raw>>23)-150
	lowest := c == 0 && q > -149 // the interval below a power of two is half as wide
	if raw>>23 != 0 {
		c |= 1 << 23
	} else {
		q, lowest = -149, false
	}
	even := c & 1 // an odd mantissa does not own the ends of its interval
	cbl, cb, cbr := 4*c-2, 4*c, 4*c+2
	k := (q * 1262611) >> 22 // floor(log10(2^q))
	if lowest {
		cbl = 4*c - 1
		k = (q*1262611 - 524031) >> 22 // floor(log10(3/4 x 2^q))
	}
	h := q + (-k*1741647)>>19 + 1 // q + floor(log2(10^-k)) + 1
	g := powers[-k-leastPower]
	vbl, vb, vbr := scale(g, cbl<<h), scale(g, cb<<h), scale(g, cbr<<h)
	lower, upper := vbl+even, vbr-even
	s := vb / 4
	if s >= 10 { // one digit less, if the interval has such a number
		short := s / 10
		below, above := lower <= 40*short, 40*short+40 <= upper
		if below != above {
			if above {
				short++
			}
			return short, k + 1
		}
	}
	below, above := lower <= 4*s, 4*s+4 <= upper
	if middle := 4*s + 2; below != above && above || below == above && (vb > middle || vb == middle && (s&1 == 1 || lowest)) { // a tie goes where strconv has it
		s++
	}
	return s, k
}

// scale is g x cp / 2^64, with every bit that is lost kept as a one in the last place.
func scale(g uint64, cp uint32) uint32 {
	high, _ := bits.Mul64(g, uint64(cp)<<32)
	y := uint32(high >> 32)
	if uint32(high) > 1 { // 1 can be g's own rounding
		y |= 1
	}
	return y
}

// The powers of ten that float32 needs: powers[i] is 10^(leastPower+i), scaled to 64 bits and rounded up.
const (
	leastPower = -31
	mostPower  = 45
)

var powers = func() (p [mostPower - leastPower + 1]uint64) {
	for i := range p {
		p[i] = power(leastPower + i)
	}
	return p
}()

// power is floor(10^e / 2^(floor(log2(10^e))-63)) + 1.
func power(e int) uint64 {
	ten := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(e, -e))), nil)
	n := new(big.Int)
	if e >= 0 {
		if shift := ten.BitLen() - 64; shift >= 0 {
			n.Rsh(ten, uint(shift))
		} else {
			n.Lsh(ten, uint(-shift))
		}
	} else {
		n.Div(new(big.Int).Lsh(big.NewInt(1), uint(ten.BitLen()+63)), ten)
	}
	return n.Uint64() + 1
}
