package strictjson

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/server/decimal"
)

// Tensor reads nested arrays of numbers, three levels deep, as float32 in row-major order. All rows must have one
// length; every number must be finite as float32. More than most numbers are refused before they are kept.
func (v Value) Tensor(most int) (data []float32, shape [3]int, err error) {
	if !v.IsArray() {
		return nil, shape, v.Errorf("an array [batch][sequence][hidden] of numbers")
	}
	t := tensorReader{b: v.raw, path: v.Path(), most: most, shape: [3]int{-1, -1, -1}}
	// A number takes two bytes at least, with what separates it; most write ten and more.
	t.data = make([]float32, 0, min(most, len(v.raw)/8))
	if _, err := t.level(0, 0); err != nil {
		return nil, shape, err
	}
	return t.data, t.shape, nil
}

type tensorReader struct {
	b     []byte
	path  string
	most  int
	shape [3]int
	index [3]int
	data  []float32
}

// at names the element that is being read, up to a level.
func (t *tensorReader) at(level int) string {
	var b strings.Builder
	b.WriteString(t.path)
	for _, i := range t.index[:level] {
		b.WriteString("[" + strconv.Itoa(i) + "]")
	}
	return b.String()
}

// level reads one array that begins at i and returns the index behind it.
func (t *tensorReader) level(i, depth int) (int, error) {
	if t.b[i] != '[' {
		return 0, Value{raw: t.b[i:end(t.b, i)], path: t.at(depth)}.Errorf("an array")
	}
	n := 0
	for i = skipSpace(t.b, i+1); t.b[i] != ']'; n++ {
		t.index[depth] = n
		var err error
		if depth < 2 {
			i, err = t.level(i, depth+1)
		} else {
			i, err = t.number(i)
		}
		if err != nil {
			return 0, err
		}
		i = skipComma(t.b, i)
	}
	if n == 0 {
		return 0, &Error{Path: t.at(depth), Expected: "at least one element", Got: "an empty array"}
	}
	if t.shape[depth] >= 0 && t.shape[depth] != n {
		return 0, &Error{Path: t.at(depth), Expected: fmt.Sprintf("%d elements as in its neighbours", t.shape[depth]), Got: strconv.Itoa(n)}
	}
	t.shape[depth] = n
	return i + 1, nil
}

func (t *tensorReader) number(i int) (int, error) {
	f, n := decimal.Parse(t.b[i:])
	switch {
	case n == 0:
		return 0, Value{raw: t.b[i:end(t.b, i)], path: t.at(3)}.Errorf("a number")
	case f-f != 0:
		return 0, Value{raw: t.b[i : i+n], path: t.at(3)}.Errorf("a number that float32 can hold")
	case len(t.data) == t.most:
		return 0, &Error{Path: t.path, Expected: fmt.Sprintf("at most %d numbers", t.most), Got: "more"}
	}
	t.data = append(t.data, f)
	return i + n, nil
}

// Floats reads count numbers as float32: flat, or nested to any depth, as long as they are that many. Each must be finite.
func (v Value) Floats(count int) ([]float32, error) {
	if !v.IsArray() {
		return nil, v.Errorf("an array of %d numbers", count)
	}
	data := make([]float32, 0, min(count, len(v.raw)/2)) // a number takes two bytes at least, with what separates it
	for i := 0; i < len(v.raw); {
		switch v.raw[i] {
		case '[', ']', ',', ' ', '\n', '\r', '\t':
			i++
			continue
		}
		at := func() string { return v.Path() + "[" + strconv.Itoa(len(data)) + "]" }
		f, n := decimal.Parse(v.raw[i:])
		switch {
		case n == 0:
			return nil, Value{raw: v.raw[i:end(v.raw, i)], path: at()}.Errorf("a number")
		case f-f != 0:
			return nil, Value{raw: v.raw[i : i+n], path: at()}.Errorf("a number that float32 can hold")
		case len(data) == count:
			return nil, &Error{Path: v.Path(), Expected: fmt.Sprintf("%d numbers for this shape", count), Got: "more"}
		}
		data = append(data, f)
		i += n
	}
	if len(data) != count {
		return nil, &Error{Path: v.Path(), Expected: fmt.Sprintf("%d numbers for this shape", count), Got: strconv.Itoa(len(data))}
	}
	return data, nil
}
