package server

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/sdk/tensor"
	"github.com/pimoe/pimoe/server/decimal"
	"github.com/pimoe/pimoe/server/strictjson"
)

// form is how a tensor came, and how the answer goes.
type form int

const (
	formNested form = iota // nested JSON arrays
	formBase64             // base64 of little-endian float32, with a shape
	formBytes              // little-endian float32 as the body
)

// states are hidden states [batch, sequence, hidden], one row for each position.
type states struct {
	shape [3]int
	rows  tensor.Matrix
	used  []int // rows that the mask leaves, ascending
	form  form
}

// readStates reads input_tensor in both JSON forms, and the mask.
func (s *Server) readStates(data, shape, mask strictjson.Value) (*states, error) {
	var given [3]int
	if shape.Exists() {
		list, err := shape.Array()
		if err != nil || len(list) != 3 {
			return nil, shape.Errorf("[batch, sequence, hidden]")
		}
		for i, v := range list {
			n, err := v.Int(1, math.MaxInt32)
			if err != nil {
				return nil, err
			}
			given[i] = int(n)
		}
		if err := s.checkShape(given, "shape"); err != nil {
			return nil, err
		}
	}
	var st *states
	var err error
	if data.IsString() {
		st, err = readBase64(data, shape.Exists(), given)
	} else {
		st, err = s.readNested(data, shape.Exists(), given)
	}
	if err != nil {
		return nil, err
	}
	return st, st.mask(mask)
}

func (s *Server) readNested(data strictjson.Value, hasShape bool, given [3]int) (*states, error) {
	most := s.cfg.Limits.MaxBatchSize * s.cfg.Limits.MaxSequenceLength * s.service.hidden
	floats, dims, err := data.Tensor(most)
	if err != nil {
		return nil, err
	}
	if hasShape && dims != given {
		return nil, &strictjson.Error{Path: "shape", Expected: fmt.Sprint(dims), Got: fmt.Sprint(given)}
	}
	if err := s.checkShape(dims, "input_tensor"); err != nil {
		return nil, err
	}
	return statesOf(dims, floats, formNested), nil
}

func readBase64(data strictjson.Value, hasShape bool, dims [3]int) (*states, error) {
	if !hasShape {
		return nil, strictjson.Missing("shape", "[batch, sequence, hidden] of the base64 data")
	}
	bytes := dims[0] * dims[1] * dims[2] * 4
	if got, want := len(data.Raw())-2, base64.StdEncoding.EncodedLen(bytes); got != want {
		return nil, &strictjson.Error{Path: "input_tensor", Expected: fmt.Sprintf("%d characters of base64 for this shape", want), Got: strconv.Itoa(got)}
	}
	text, err := data.Text()
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, data.Errorf("standard base64 with padding")
	}
	return newStates(dims, b, formBase64, "input_tensor")
}

// newStates reads little-endian floats of a checked shape. Floats that are not finite are refused by their index.
func newStates(dims [3]int, b []byte, f form, name string) (*states, error) {
	n := dims[0] * dims[1] * dims[2]
	if len(b) != n*4 {
		return nil, &strictjson.Error{Path: name, Expected: fmt.Sprintf("%d bytes for this shape", n*4), Got: strconv.Itoa(len(b))}
	}
	floats := make([]float32, n)
	for i := range floats {
		floats[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	if i := firstNonFinite(floats); i >= 0 {
		at := fmt.Sprintf("%s[%d][%d][%d]", name, i/(dims[1]*dims[2]), i/dims[2]%dims[1], i%dims[2])
		return nil, &strictjson.Error{Path: at, Expected: "a finite number", Got: fmt.Sprint(floats[i])}
	}
	return statesOf(dims, floats, f), nil
}

func statesOf(dims [3]int, floats []float32, f form) *states {
	st := &states{shape: dims, rows: tensor.MatrixOf(dims[0]*dims[1], dims[2], floats), form: f}
	for r := range st.rows.Rows {
		st.used = append(st.used, r)
	}
	return st
}

// checkShape compares a shape with the model and the limits, before anything of that size is allocated.
func (s *Server) checkShape(dims [3]int, path string) error {
	for i, most := range []int{s.cfg.Limits.MaxBatchSize, s.cfg.Limits.MaxSequenceLength} {
		if dims[i] < 1 || dims[i] > most {
			name := [2]string{"batch", "sequence"}[i]
			return &strictjson.Error{Path: path, Expected: fmt.Sprintf("a %s of 1 to %d", name, most), Got: strconv.Itoa(dims[i])}
		}
	}
	if dims[2] != s.service.hidden {
		return &strictjson.Error{Path: path, Expected: fmt.Sprintf("%d numbers for each position: the model's hidden size", s.service.hidden), Got: strconv.Itoa(dims[2])}
	}
	return nil
}

// parseShape reads "1,2,256".
func parseShape(text string) (dims [3]int, err error) {
	bad := &strictjson.Error{Path: "shape", Expected: "batch,sequence,hidden in the query or the header X-Tensor-Shape", Got: "another text"}
	if text == "" {
		return dims, strictjson.Missing("shape", bad.Expected)
	}
	parts := strings.Split(text, ",")
	if len(parts) != 3 {
		return dims, bad
	}
	for i, p := range parts {
		n, err := strconv.ParseInt(strings.TrimSpace(p), 10, 32)
		if err != nil {
			return dims, bad
		}
		dims[i] = int(n)
	}
	return dims, nil
}

// mask reads attention_mask [batch][sequence] of 0 and 1 and keeps the rows that have 1.
func (st *states) mask(v strictjson.Value) error {
	if !v.Exists() {
		return nil
	}
	batch, err := v.Array()
	if err != nil {
		return err
	}
	if len(batch) != st.shape[0] {
		return &strictjson.Error{Path: v.Path(), Expected: fmt.Sprintf("%d rows as in input_tensor", st.shape[0]), Got: strconv.Itoa(len(batch))}
	}
	st.used = st.used[:0]
	for b, rowValue := range batch {
		row, err := rowValue.Array()
		if err != nil {
			return err
		}
		if len(row) != st.shape[1] {
			return &strictjson.Error{Path: rowValue.Path(), Expected: fmt.Sprintf("%d numbers as in input_tensor", st.shape[1]), Got: strconv.Itoa(len(row))}
		}
		for i, bit := range row {
			n, err := bit.Int(0, 1)
			if err != nil {
				return err
			}
			if n == 1 {
				st.used = append(st.used, b*st.shape[1]+i)
			}
		}
	}
	return nil
}

func (st *states) shapeText() string {
	return fmt.Sprintf("%d,%d,%d", st.shape[0], st.shape[1], st.shape[2])
}

// appendNested writes a tensor of finite numbers as nested JSON arrays.
func appendNested(b []byte, shape [3]int, y tensor.Matrix) []byte {
	b = append(b, '[')
	for batch := range shape[0] {
		b = append(b, '[')
		for i := range shape[1] {
			b = append(b, '[')
			for _, f := range y.Row(batch*shape[1] + i) {
				b = append(decimal.Append(b, f), ',')
			}
			b = append(b[:len(b)-1], ']', ',')
		}
		b = append(b[:len(b)-1], ']', ',')
	}
	return append(b[:len(b)-1], ']')
}

func littleEndian(y tensor.Matrix) []byte {
	out := make([]byte, 0, y.Rows*y.Cols*4)
	for r := range y.Rows {
		for _, f := range y.Row(r) {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(f))
		}
	}
	return out
}

// firstNonFinite is the index of the first NaN or infinity, -1 if there is none.
func firstNonFinite(x []float32) int {
	for i, f := range x {
		if f-f != 0 {
			return i
		}
	}
	return -1
}
