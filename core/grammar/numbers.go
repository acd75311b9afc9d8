package grammar

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

// bounds is an interval; nil = open ended.
type bounds struct {
	lo, hi             *big.Rat
	loStrict, hiStrict bool
}

// atLeast and atMost make an interval narrower.
func (b *bounds) atLeast(r *big.Rat, strict bool) {
	if b.lo == nil || r.Cmp(b.lo) > 0 || r.Cmp(b.lo) == 0 && strict {
		b.lo, b.loStrict = r, strict
	}
}

func (b *bounds) atMost(r *big.Rat, strict bool) {
	if b.hi == nil || r.Cmp(b.hi) < 0 || r.Cmp(b.hi) == 0 && strict {
		b.hi, b.hiStrict = r, strict
	}
}

func (b *bounds) holds(r *big.Rat) bool {
	if b.lo != nil {
		if c := r.Cmp(b.lo); c < 0 || c == 0 && b.loStrict {
			return false
		}
	}
	if b.hi != nil {
		if c := r.Cmp(b.hi); c > 0 || c == 0 && b.hiStrict {
			return false
		}
	}
	return true
}

// scaled are the least and the greatest whole k with k/scale inside, also when k/scale is rounded to float64. A missing
// bound is open = digits nines, or a number of one digit more than the other bound.
func (b *bounds) scaled(scale int64, digits int) (lo, hi *big.Int) {
	s := new(big.Rat).SetInt64(scale)
	rounded := func(k *big.Int) *big.Rat {
		f, _ := new(big.Rat).SetFrac(k, big.NewInt(scale)).Float64()
		if math.IsInf(f, 0) || scale == 1 { // whole numbers are read as they are
			return new(big.Rat).SetFrac(k, big.NewInt(scale))
		}
		return new(big.Rat).SetFloat64(f)
	}
	one := big.NewInt(1)
	if b.lo != nil {
		x := new(big.Rat).Mul(b.lo, s)
		lo = new(big.Int).Neg(floor(new(big.Rat).Neg(x)))
		for n := 0; n < 4 && (b.loStrict && rounded(lo).Cmp(b.lo) <= 0); n++ {
			lo.Add(lo, one)
		}
	}
	if b.hi != nil {
		hi = floor(new(big.Rat).Mul(b.hi, s))
		for n := 0; n < 4 && (b.hiStrict && rounded(hi).Cmp(b.hi) >= 0); n++ {
			hi.Sub(hi, one)
		}
	}
	nines := new(big.Int).Sub(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(digits)), nil), one)
	beyond := func(k *big.Int) *big.Int { // far enough from the other bound
		far := new(big.Int).Mul(new(big.Int).Abs(k), big.NewInt(10))
		if far.Cmp(nines) > 0 {
			return far
		}
		return nines
	}
	switch {
	case lo == nil && hi == nil:
		return new(big.Int).Neg(nines), nines
	case lo == nil:
		lo = new(big.Int).Neg(nines)
		if hi.Sign() <= 0 {
			lo.Neg(beyond(hi))
		}
	case hi == nil:
		hi = nines
		if lo.Sign() >= 0 {
			hi = beyond(lo)
		}
	}
	return lo, hi
}

func floor(r *big.Rat) *big.Int {
	q, m := new(big.Int).DivMod(r.Num(), r.Denom(), new(big.Int))
	_ = m
	return q
}

// wholeNumbers is the automaton of the whole numbers in an interval, without leading zeros and minus zero.
func wholeNumbers(lo, hi *big.Int) (*dfa, error) {
	return bySign(lo, hi, magnitudes)
}

// bySign makes the automaton of an interval from that of magnitudes.
func bySign(lo, hi *big.Int, of func(lo, hi *big.Int) (*dfa, error)) (*dfa, error) {
	out := &dfa{width: 1}
	if lo.Cmp(hi) > 0 {
		return out, nil
	}
	zero, one := new(big.Int), big.NewInt(1)
	if hi.Sign() >= 0 {
		from := lo
		if lo.Sign() < 0 {
			from = zero
		}
		d, err := of(from, hi)
		if err != nil {
			return nil, err
		}
		out = d
	}
	if lo.Sign() < 0 {
		from := one
		if hi.Sign() < 0 {
			from = new(big.Int).Neg(hi)
		}
		d, err := of(from, new(big.Int).Neg(lo))
		if err != nil {
			return nil, err
		}
		if d, err = behind('-', d); err != nil {
			return nil, err
		}
		return union(out, d)
	}
	return out, nil
}

// behind puts a byte before all words.
func behind(b byte, d *dfa) (*dfa, error) {
	if d.empty() {
		return d, nil
	}
	return explore(int32(-1), func(q int32, c byte) (int32, bool) {
		if q < 0 {
			return 0, c == b
		}
		t := d.step(q, c)
		return t, t != dead
	}, func(q int32) bool { return q >= 0 && d.accept[q] })
}

func digit(b byte) bool { return b >= '0' && b <= '9' }

func compare(d, with byte, so int8) int8 {
	switch {
	case so != 0:
		return so
	case d < with:
		return -1
	case d > with:
		return 1
	}
	return 0
}

// digits are those of a whole number so far, and how they compare with as many of two others, a and b.
type digits struct {
	n    int
	zero bool // they are a zero, behind which no digit comes
	x, y int8
}

// add is with one more digit; false if no number up to b begins so.
func (s digits) add(d byte, a, b string) (digits, bool) {
	if !digit(d) || s.zero || s.n >= len(b) {
		return s, false
	}
	s.zero = s.n == 0 && d == '0'
	if s.n < len(a) {
		s.x = compare(d, a[s.n], s.x)
	}
	s.y = compare(d, b[s.n], s.y)
	s.n++
	return s, true
}

// magnitudes is the automaton of the whole numbers from lo to hi, which are not negative.
func magnitudes(lo, hi *big.Int) (*dfa, error) {
	a, b := lo.String(), hi.String()
	return explore(digits{}, func(s digits, d byte) (digits, bool) {
		return s.add(d, a, b)
	}, func(s digits) bool {
		return (s.n > len(a) || s.n == len(a) && s.x >= 0) && s.n > 0 && (s.n < len(b) || s.y <= 0)
	})
}

// places is how many digits a fraction has at most: with nine before the point, fifteen in all, which any float64 holds
// apart.
const places = 6

// fractions is the automaton of numbers k / 10^places for k from lo to hi that are not whole.
func fractions(lo, hi *big.Int) (*dfa, error) {
	return bySign(lo, hi, func(lo, hi *big.Int) (*dfa, error) {
		cut := func(k *big.Int) (string, string) {
			s := k.String()
			if len(s) <= places {
				s = strings.Repeat("0", places+1-len(s)) + s
			}
			return s[:len(s)-places], s[len(s)-places:]
		}
		a, af := cut(lo)
		b, bf := cut(hi)
		type at struct {
			digits // before the point
			f      int
			dot    bool
			last   byte
		}
		return explore(at{}, func(s at, d byte) (at, bool) {
			if s.dot {
				if !digit(d) || s.f >= places {
					return s, false
				}
				s.x, s.y = compare(d, af[s.f], s.x), compare(d, bf[s.f], s.y)
				s.f, s.last = s.f+1, min(d, '1')
				return s, true
			}
			if d == '.' && s.n > 0 {
				side := func(n int, so int8) int8 {
					switch {
					case s.n < n:
						return -1
					case s.n > n:
						return 1
					}
					return so
				}
				s.dot, s.x, s.y = true, side(len(a), s.x), side(len(b), s.y)
				s.n, s.zero = 1, false
				return s, s.x >= 0 && s.y <= 0
			}
			more, ok := s.add(d, a, b)
			s.digits = more
			return s, ok
		}, func(s at) bool {
			if !s.dot || s.last != '1' {
				return false
			}
			return (s.x > 0 || s.x == 0 && strings.Trim(af[s.f:], "0") == "") && s.y <= 0
		})
	})
}

// multiples is the automaton of the whole numbers of which m is a divisor, or is not.
func multiples(m int64, not bool) (*dfa, error) {
	type at struct {
		n    int8 // 0 = nothing, 1 = a minus sign, 2 = digits
		rest int64
	}
	return explore(at{}, func(s at, b byte) (at, bool) {
		if b == '-' {
			return at{n: 1}, s.n == 0
		}
		if !digit(b) {
			return s, false
		}
		return at{2, (s.rest*10 + int64(b-'0')) % m}, true
	}, func(s at) bool { return s.n == 2 && (s.rest == 0) != not })
}

// candidates are numbers near the ends of an interval and multiples of steps, for conditions that no automaton is made
// for; the caller drops those that do not meet them.
func (b *bounds) candidates(steps []*big.Rat) []number {
	var out []number
	seen := map[string]bool{}
	put := func(f float64) {
		if math.IsInf(f, 0) || math.IsNaN(f) {
			return
		}
		s := strconv.FormatFloat(f, 'g', -1, 64)
		if f == math.Trunc(f) && math.Abs(f) < 1e15 {
			s = strconv.FormatInt(int64(f), 10)
		}
		if n, err := parseNumber(s); err == nil && !seen[s] && len(out) < 256 {
			seen[s] = true
			out = append(out, n)
		}
	}
	put(0)
	var ends []float64
	for _, r := range []*big.Rat{b.lo, b.hi} {
		if r != nil {
			f, _ := r.Float64()
			ends = append(ends, f)
		}
	}
	if len(ends) == 2 {
		ends = append(ends, ends[0]+(ends[1]-ends[0])/2)
	}
	for _, f := range append(ends, 0) {
		put(f)
		put(math.Nextafter(f, math.Inf(1)))
		put(math.Nextafter(f, math.Inf(-1)))
		for _, step := range steps {
			m, _ := step.Float64()
			k := math.Round(f / m)
			for i := -24.0; i <= 24; i++ {
				put((k + i) * m)
				// The decimal that people mean: 0.3, not 3 times the float64 nearest to 0.1.
				if v, err := strconv.ParseFloat(strconv.FormatFloat((k+i)*m, 'g', 12, 64), 64); err == nil {
					put(v)
				}
			}
		}
		for p := -9; p <= 15; p++ {
			put(f + math.Pow10(p))
			put(f - math.Pow10(p))
		}
		put(math.Trunc(f))
		put(f * 2)
		put(f / 2)
		put(f + 0.5)
	}
	return out
}

// divides reports whether m is a divisor of r in exact arithmetic and for readers that divide float64.
func divides(m, r *big.Rat) bool {
	if r.Sign() == 0 {
		return true
	}
	if m.IsInt() {
		return new(big.Rat).Quo(r, m).IsInt()
	}
	x, _ := r.Float64()
	y, _ := m.Float64()
	q := x / y
	return q == math.Trunc(q) && !math.IsInf(q, 0)
}
