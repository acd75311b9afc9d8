package decimal

import (
	"math"
	"strconv"
)

// Parse reads the number at the begin of b, in JSON's grammar, and returns how many bytes it takes; n is 0 where there is
// none. The value is the float32 nearest to it, ties to even, as strconv's; beyond float32 it is an infinity.
func Parse(b []byte) (f float32, n int) {
	i := 0
	negative := i < len(b) && b[i] == '-'
	if negative {
		i++
	}
	start := i
	var mantissa uint64
	for i < len(b) && b[i]-'0' < 10 {
		mantissa = mantissa*10 + uint64(b[i]-'0')
		i++
	}
	digits := i - start
	if digits == 0 || digits > 1 && b[start] == '0' {
		return 0, 0
	}
	exponent := 0
	if i < len(b) && b[i] == '.' {
		i++
		point := i
		for i < len(b) && b[i]-'0' < 10 {
			mantissa = mantissa*10 + uint64(b[i]-'0')
			i++
		}
		if i == point {
			return 0, 0
		}
		exponent = point - i
		digits += i - point
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		e, width := parseExponent(b[i+1:])
		if width == 0 {
			return 0, 0
		}
		i += 1 + width
		exponent += e
	}
	if f, ok := nearest(mantissa, exponent, digits); ok {
		if negative {
			f = -f
		}
		return f, i
	}
	return slow(b[:i]), i
}

// parseExponent reads what follows the e; a number of more digits than any float32 has stays as large as that.
func parseExponent(b []byte) (e, width int) {
	i := 0
	negative := len(b) > 0 && b[0] == '-'
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		i++
	}
	start := i
	for i < len(b) && b[i]-'0' < 10 {
		e = min(e*10+int(b[i]-'0'), 1e6)
		i++
	}
	if i == start {
		return 0, 0
	}
	if negative {
		e = -e
	}
	return e, i
}

const (
	maxDigits = 19 // that always fit into a uint64
	halfway   = 1 << 28
	lowBits   = 1<<29 - 1 // of a float64's mantissa that a float32 does not have
	// doubt is more than what the float64 below can be off, in its last places: half of one for the mantissa, as much for
	// the operation. Between two float32 lie 2^29, so that doubt is rare.
	doubt = 4
)

// nearest is mantissa x 10^exponent, if a float64 is enough to tell the nearest float32. Powers of ten up to 22 are exact
// in float64, so it is off by less than doubt; rounding it again is right unless it lies as close to the middle between two
// float32. Denormal and huge numbers have their middles elsewhere and take the slow way.
func nearest(mantissa uint64, exponent, digits int) (float32, bool) {
	if mantissa == 0 {
		return 0, digits <= maxDigits
	}
	if digits > maxDigits || exponent < -22 || exponent > 22 {
		return 0, false
	}
	d := float64(mantissa)
	if exponent < 0 {
		d /= tens[-exponent]
	} else {
		d *= tens[exponent]
	}
	if low := math.Float64bits(d) & lowBits; low-(halfway-doubt) <= 2*doubt || d < 0x1p-126 || d > 0x1p127 {
		return 0, false
	}
	return float32(d), true
}

var tens = [23]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// slow is the standard library's answer; a number beyond float32 becomes an infinity.
func slow(text []byte) float32 {
	f, _ := strconv.ParseFloat(string(text), 32) // its only error here is that of the range
	return float32(f)
}
