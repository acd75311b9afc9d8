package decimal

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// reference is the standard library's reading; ok is false where JSON has no such number.
func reference(text string) (float32, bool) {
	if !json.Valid([]byte(text)) || strings.Trim(text, "-0123456789.eE+") != "" { // other values, or white space around one
		return 0, false
	}
	f, _ := strconv.ParseFloat(text, 32)
	return float32(f), true
}

func checkParse(t testing.TB, text string) {
	t.Helper()
	f, n := Parse([]byte(text))
	want, ok := reference(text)
	if whole := n > 0 && n == len(text); ok != whole || ok && math.Float32bits(f) != math.Float32bits(want) {
		t.Fatalf("Parse(%q) = %v, %d bytes; want %v, %v", text, f, n, want, ok)
	}
}

func checkAppend(t testing.TB, f float32) {
	t.Helper()
	want, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if got := Append(nil, f); string(got) != string(want) {
		t.Fatalf("Append(%x) = %s, want %s", math.Float32bits(f), got, want)
	}
}

// Every bit pattern is one of a few million that are spread evenly, or next to a power of two or of ten, or denormal.
func TestBothWays(t *testing.T) {
	check := func(bits uint32) {
		f := math.Float32frombits(bits)
		if f-f != 0 {
			return
		}
		checkAppend(t, f)
		got, n := Parse(Append(nil, f))
		if n == 0 || math.Float32bits(got) != bits {
			t.Fatalf("%x becomes %s becomes %x", bits, Append(nil, f), math.Float32bits(got))
		}
	}
	step := uint64(40009) // a prime
	if testing.Short() {
		step = 4000037
	}
	for bits := uint64(0); bits < 1<<32; bits += step {
		check(uint32(bits))
	}
	near := func(bits uint32) {
		for d := range uint32(9) {
			check(bits + d - 4)
			check(bits + d - 4 | 1<<31)
		}
	}
	for e := range uint32(256) {
		near(e << 23)
	}
	for e := -45; e <= 38; e++ {
		near(math.Float32bits(float32(math.Pow10(e))))
	}
	for bits := range uint32(3000) {
		check(bits)
	}
}

// Decimals at and around the middle between two float32, where rounding twice would be wrong, and longer ones than a
// uint64 holds.
func TestParseRoundsOnce(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20000 {
		f := math.Float32frombits(rng.Uint32() &^ (1 << 31) % (0xff << 23))
		next := math.Nextafter32(f, math.MaxFloat32)
		middle := (float64(f) + float64(next)) / 2
		for _, d := range []float64{middle, math.Nextafter(middle, 0), math.Nextafter(middle, math.Inf(1)), float64(f)} {
			for _, format := range []byte{'e', 'f'} {
				for _, digits := range []int{-1, 5, 9, 17, 20} {
					checkParse(t, strconv.FormatFloat(d, format, digits, 64))
				}
			}
		}
	}
}

func TestParseGrammar(t *testing.T) {
	for _, text := range strings.Fields(`0 -0 0.0 -0.0e5 1 10 01 -01 1. .5 -.5 +1 - -- 1e 1e+ 1e- 1e5 1E5 1e+05 1e-05 1.5e3 1e0000000000000000000000001
		1e999 -1e999 1e-999 1e99999999999999999999 0e99999999999999999999 0.00000000000000000000000000000000000000000000000000001e50 100000000000000000000000000000
		3.4028234663852886e38 3.4028235677973366e38 3.4028235e38 1.4e-45 7e-46 7.1e-46 1.17549435e-38 1.1754943e-38 16777217 16777216.5 16777217.000000000000000000001
		NaN Infinity 0x10 1_0 1a e5 `) {
		checkParse(t, text)
	}
	if _, n := Parse(nil); n != 0 {
		t.Errorf("nothing takes %d bytes", n)
	}
	if f, n := Parse([]byte("1.5, 2")); f != 1.5 || n != 3 {
		t.Errorf("with a rest: %v, %d", f, n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-1.25e-3")
	f.Fuzz(func(t *testing.T, text string) { checkParse(t, text) })
}

func FuzzAppend(f *testing.F) {
	f.Add(uint32(1))
	f.Fuzz(func(t *testing.T, bits uint32) {
		if x := math.Float32frombits(bits); x-x == 0 {
			checkAppend(t, x)
		}
	})
}

var numbers = func() (all []float32) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 4096 {
		all = append(all, float32(rng.NormFloat64()))
	}
	return all
}()

func BenchmarkAppend(b *testing.B) {
	var out []byte
	for i := range b.N {
		out = Append(out[:0], numbers[i%len(numbers)])
	}
}

func BenchmarkParse(b *testing.B) {
	for name, bits := range map[string]int{"float32": 32, "float64": 64} { // as Go and as Python write them
		b.Run(name, func(b *testing.B) {
			texts := make([][]byte, len(numbers))
			for i, f := range numbers {
				texts[i] = strconv.AppendFloat(nil, float64(f), 'g', -1, bits)
			}
			for i := range b.N {
				Parse(texts[i%len(texts)])
			}
		})
	}
}
