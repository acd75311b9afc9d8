package oip

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/pimoe/pimoe/server/oip/pb"
	"github.com/pimoe/pimoe/server/strictjson"
)

// Tensor is a named array. Its elements are in the one field that fits its datatype, row-major.
type Tensor struct {
	Name   string
	Type   Type
	Shape  []int64
	Floats []float32 // finite
	Ints   []int64
	Bools  []bool
	Texts  []string
}

// size is the bytes of an element; 0 for texts, which differ.
func (t Type) size() int {
	switch t {
	case Bool:
		return 1
	case Int32, Uint32, FP32:
		return 4
	case Int64, Uint64:
		return 8
	}
	return 0
}

// readJSON fills t with count elements of a data array.
func (t *Tensor) readJSON(v strictjson.Value, count int) (err error) {
	if t.Type == FP32 {
		t.Floats, err = v.Floats(count)
		return err
	}
	n := 0
	err = leaves(v, func(v strictjson.Value) error {
		if n++; n > count {
			return &strictjson.Error{Path: v.Path(), Expected: fmt.Sprintf("%d elements for this shape", count), Got: "more"}
		}
		return t.add(v)
	})
	if err == nil && n < count {
		return &strictjson.Error{Path: v.Path(), Expected: fmt.Sprintf("%d elements for this shape", count), Got: strconv.Itoa(n)}
	}
	return err
}

// leaves visits the elements of nested arrays.
func leaves(v strictjson.Value, f func(strictjson.Value) error) error {
	list, err := v.Array()
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.IsArray() {
			err = leaves(e, f)
		} else {
			err = f(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// add takes one element that is no float.
func (t *Tensor) add(v strictjson.Value) error {
	switch t.Type {
	case Bool:
		b, err := v.Bool()
		t.Bools = append(t.Bools, b)
		return err
	case Bytes:
		s, err := v.Text()
		t.Texts = append(t.Texts, s)
		return err
	}
	low, high := t.Type.bounds()
	n, err := v.Int(low, high)
	t.Ints = append(t.Ints, n)
	return err
}

// bounds are the values that an integer type has, as far as an int64 holds them.
func (t Type) bounds() (low, high int64) {
	switch t {
	case Int32:
		return math.MinInt32, math.MaxInt32
	case Uint32:
		return 0, math.MaxUint32
	case Uint64:
		return 0, math.MaxInt64
	}
	return math.MinInt64, math.MaxInt64
}

// readBinary fills t with count elements of little-endian bytes, which must be neither more nor less. Texts have their
// length, 4 bytes, before them.
func (t *Tensor) readBinary(b []byte, count int, path string) error {
	if t.Type == Bytes {
		return t.readTexts(b, count, path)
	}
	if want := count * t.Type.size(); len(b) != want {
		return &strictjson.Error{Path: path, Expected: fmt.Sprintf("%d bytes for this shape", want), Got: strconv.Itoa(len(b))}
	}
	switch t.Type {
	case FP32:
		t.Floats = make([]float32, count)
		for i := range t.Floats {
			t.Floats[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
		return t.finite(path)
	case Bool:
		for i, c := range b {
			if c > 1 {
				return &strictjson.Error{Path: at(path, i), Expected: "0 or 1", Got: strconv.Itoa(int(c))}
			}
			t.Bools = append(t.Bools, c == 1)
		}
		return nil
	}
	for i := range count {
		n, ok := t.Type.integer(b[i*t.Type.size():])
		if !ok {
			return &strictjson.Error{Path: at(path, i), Expected: "a whole number below 2^63", Got: "a larger one"}
		}
		t.Ints = append(t.Ints, n)
	}
	return nil
}

// integer reads one little-endian number; ok is false if an int64 can't hold it.
func (t Type) integer(b []byte) (n int64, ok bool) {
	switch t {
	case Int32:
		return int64(int32(binary.LittleEndian.Uint32(b))), true
	case Uint32:
		return int64(binary.LittleEndian.Uint32(b)), true
	}
	n = int64(binary.LittleEndian.Uint64(b))
	return n, t != Uint64 || n >= 0
}

func (t *Tensor) readTexts(b []byte, count int, path string) error {
	for i := range count {
		if len(b) < 4 {
			return &strictjson.Error{Path: at(path, i), Expected: "4 bytes of its length", Got: strconv.Itoa(len(b))}
		}
		n := int64(binary.LittleEndian.Uint32(b))
		if b = b[4:]; n > int64(len(b)) {
			return &strictjson.Error{Path: at(path, i), Expected: fmt.Sprintf("%d bytes as its length says", n), Got: strconv.Itoa(len(b))}
		}
		if err := t.addText(b[:n], path, i); err != nil {
			return err
		}
		b = b[n:]
	}
	if len(b) > 0 {
		return &strictjson.Error{Path: path, Expected: fmt.Sprintf("%d elements for this shape", count), Got: fmt.Sprintf("%d bytes behind them", len(b))}
	}
	return nil
}

func (t *Tensor) addText(b []byte, path string, i int) error {
	if !utf8.Valid(b) {
		return &strictjson.Error{Path: at(path, i), Expected: "UTF-8 text", Got: "broken bytes"}
	}
	t.Texts = append(t.Texts, string(b))
	return nil
}

// readContents fills t with count elements of a gRPC message's typed fields, of which only its own may have any.
func (t *Tensor) readContents(c *pb.InferTensorContents, count int, path string) error {
	n := 0
	switch t.Type {
	case FP32:
		n, t.Floats = len(c.GetFp32Contents()), c.GetFp32Contents()
	case Bool:
		n, t.Bools = len(c.GetBoolContents()), c.GetBoolContents()
	case Bytes:
		n = len(c.GetBytesContents())
	case Int32:
		n, t.Ints = len(c.GetIntContents()), widen(c.GetIntContents())
	case Int64:
		n, t.Ints = len(c.GetInt64Contents()), c.GetInt64Contents()
	case Uint32:
		n, t.Ints = len(c.GetUintContents()), widen(c.GetUintContents())
	case Uint64:
		n, t.Ints = len(c.GetUint64Contents()), widen(c.GetUint64Contents())
	}
	all := len(c.GetBoolContents()) + len(c.GetIntContents()) + len(c.GetInt64Contents()) + len(c.GetUintContents()) +
		len(c.GetUint64Contents()) + len(c.GetFp32Contents()) + len(c.GetFp64Contents()) + len(c.GetBytesContents())
	if n != count || all != n {
		return &strictjson.Error{Path: path, Expected: fmt.Sprintf("%d elements in the field of %s", count, t.Type), Got: fmt.Sprintf("%d there and %d in others", n, all-n)}
	}
	for i, b := range c.GetBytesContents() {
		if err := t.addText(b, path, i); err != nil {
			return err
		}
	}
	for i, n := range t.Ints {
		if n < 0 && t.Type == Uint64 {
			return &strictjson.Error{Path: at(path, i), Expected: "a whole number below 2^63", Got: "a larger one"}
		}
	}
	return t.finite(path)
}

func widen[T int32 | uint32 | uint64](list []T) []int64 {
	out := make([]int64, len(list))
	for i, n := range list {
		out[i] = int64(n)
	}
	return out
}

// finite refuses NaN and infinities by their index.
func (t *Tensor) finite(path string) error {
	for i, f := range t.Floats {
		if f-f != 0 {
			return &strictjson.Error{Path: at(path, i), Expected: "a finite number", Got: fmt.Sprint(f)}
		}
	}
	return nil
}

func at(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// appendBinary is the tensor as Triton's binary extension and raw contents have it.
func (t *Tensor) appendBinary(b []byte) []byte {
	for _, f := range t.Floats {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	for _, n := range t.Ints {
		if t.Type.size() == 4 {
			b = binary.LittleEndian.AppendUint32(b, uint32(n))
		} else {
			b = binary.LittleEndian.AppendUint64(b, uint64(n))
		}
	}
	for _, v := range t.Bools {
		c := byte(0)
		if v {
			c = 1
		}
		b = append(b, c)
	}
	for _, s := range t.Texts {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}

// binarySize is what appendBinary adds.
func (t *Tensor) binarySize() int {
	n := 4*len(t.Floats) + t.Type.size()*len(t.Ints) + len(t.Bools)
	for _, s := range t.Texts {
		n += 4 + len(s)
	}
	return n
}
