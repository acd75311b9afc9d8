package strictjson

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Tensor reads nested arrays of numbers, three levels deep, as float32 in row-major order. All rows must have one
// length; every number must be finite as float32. More than most numbers are refused before they are kept.
func (v Value) Tensor(most int) (data []float32, shape [3]int, err error) {
	if !v.IsArray() {
		return nil, shape, v.Errorf("an array [batch][sequence][hidden] of numbers")
	}
	t := tensorReader{b: v.raw, path: v.path, most: most, shape: [3]int{-1, -1, -1}}
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
	e := end(t.b, i)
	v := Value{raw: t.b[i:e]}
	if !v.IsNumber() {
		v.path = t.at(3)
		return 0, v.Errorf("a number")
	}
	f, err := strconv.ParseFloat(string(v.raw), 32)
	if err != nil || math.IsInf(f, 0) {
		v.path = t.at(3)
		return 0, v.Errorf("a number that float32 can hold")
	}
	if len(t.data) == t.most {
		return 0, &Error{Path: t.path, Expected: fmt.Sprintf("at most %d numbers", t.most), Got: "more"}
	}
	t.data = append(t.data, float32(f))
	return e, nil
}
