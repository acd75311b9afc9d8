package oip

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/pimoe/pimoe/server/strictjson"
)

// Request asks a model. It shares no memory with what it was read from.
type Request struct {
	ID      string
	Inputs  []Tensor       // each of the model's at most once
	Params  map[string]any // of Model.Params: bool, int64, float64 or string
	Timeout time.Duration  // 0 = none
	Final   bool           // a stream ends with a response without outputs that says so
	outputs []output       // empty = all
	binary  bool           // outputs are binary unless they say otherwise
}

// output is one that was asked for.
type output struct {
	name   string
	binary *bool // nil = as the request says
}

// Input is an input by name; nil if it was not given.
func (q *Request) Input(name string) *Tensor {
	if i := slices.IndexFunc(q.Inputs, func(t Tensor) bool { return t.Name == name }); i >= 0 {
		return &q.Inputs[i]
	}
	return nil
}

// Wants reports whether an output is part of the answer.
func (q *Request) Wants(name string) bool {
	return len(q.outputs) == 0 || slices.ContainsFunc(q.outputs, func(o output) bool { return o.name == name })
}

// Binary reports whether an output goes as bytes behind the JSON.
func (q *Request) Binary(name string) bool {
	for _, o := range q.outputs {
		if o.name == name && o.binary != nil {
			return *o.binary
		}
	}
	return q.binary
}

// longestID bounds an id, which comes back with the answer.
const longestID = 256

// Decode reads a body of JSON, which with header >= 0 is the first so many bytes; binary inputs follow it, in their order.
// Errors are *strictjson.Error.
func Decode(body []byte, header int, m Model) (*Request, error) {
	head, tail := body, []byte(nil)
	if header >= 0 {
		if header > len(body) {
			return nil, &strictjson.Error{Path: "Inference-Header-Content-Length", Expected: fmt.Sprintf("at most the %d bytes of the body", len(body)), Got: strconv.Itoa(header)}
		}
		head, tail = body[:header], body[header:]
	}
	members, err := strictjson.ParseObject(head)
	if err != nil {
		return nil, err
	}
	q := &Request{}
	for _, f := range members {
		switch f.Name {
		case "id":
			q.ID, err = readID(f.Value)
		case "parameters":
			err = q.readParams(f.Value, m)
		case "inputs":
			tail, err = q.readInputs(f.Value, tail, m)
		case "outputs":
			err = q.readOutputs(f.Value, m)
		default:
			err = f.Unknown()
		}
		if err != nil {
			return nil, err
		}
	}
	if len(tail) > 0 {
		return nil, &strictjson.Error{Path: "binary_data_size", Expected: "sizes that sum up to the bytes behind the JSON", Got: fmt.Sprintf("%d bytes that belong to no input", len(tail))}
	}
	return q, q.complete(m)
}

func readID(v strictjson.Value) (string, error) {
	id, err := v.Text()
	if err == nil && len(id) > longestID {
		err = v.Errorf("at most %d bytes", longestID)
	}
	return id, err
}

// complete refuses a request without an input that the model needs.
func (q *Request) complete(m Model) error {
	for _, s := range m.Inputs {
		if !s.Optional && q.Input(s.Name) == nil {
			return strictjson.Missing("inputs", "an input "+s.Name)
		}
	}
	return nil
}

// readInputs reads the inputs, and those that are binary from the tail; it returns what of it is left.
func (q *Request) readInputs(v strictjson.Value, tail []byte, m Model) ([]byte, error) {
	inputs, err := v.Array()
	if err != nil {
		return nil, err
	}
	for _, in := range inputs {
		if tail, err = q.readInput(in, tail, m); err != nil {
			return nil, err
		}
	}
	return tail, nil
}

func (q *Request) readInput(v strictjson.Value, tail []byte, m Model) ([]byte, error) {
	members, err := v.Object()
	if err != nil {
		return nil, err
	}
	t := Tensor{}
	var data, shape strictjson.Value
	size := int64(-1)
	for _, f := range members {
		switch f.Name {
		case "name":
			t.Name, err = f.Text()
		case "datatype":
			var s string
			s, err = f.Text()
			t.Type = Type(s)
		case "shape":
			shape = f.Value
		case "data":
			data = f.Value
		case "parameters":
			size, err = readSize(f.Value)
		default:
			err = f.Unknown()
		}
		if err != nil {
			return nil, err
		}
	}
	if !shape.Exists() {
		return nil, strictjson.Missing(v.Path()+".shape", "the input's dimensions")
	}
	if t.Shape, err = readShape(shape); err != nil {
		return nil, err
	}
	count, err := q.admit(&t, v.Path(), m)
	if err != nil {
		return nil, err
	}
	if (size >= 0) == data.Exists() {
		return nil, &strictjson.Error{Path: v.Path() + ".data", Expected: "either data or parameters.binary_data_size", Got: map[bool]string{true: "both", false: "neither"}[size >= 0]}
	}
	if size < 0 {
		err = t.readJSON(data, count)
	} else if size > int64(len(tail)) {
		err = &strictjson.Error{Path: v.Path() + ".parameters.binary_data_size", Expected: fmt.Sprintf("at most the %d bytes that are left behind the JSON", len(tail)), Got: strconv.FormatInt(size, 10)}
	} else {
		err = t.readBinary(tail[:size], count, v.Path())
		tail = tail[size:]
	}
	q.Inputs = append(q.Inputs, t)
	return tail, err
}

// admit checks an input's name, datatype and shape, and returns how many elements it must have.
func (q *Request) admit(t *Tensor, path string, m Model) (int, error) {
	s := find(m.Inputs, t.Name)
	switch {
	case s == nil:
		return 0, unknown(path+".name", t.Name, "an input of this model: "+list(m.Inputs))
	case q.Input(t.Name) != nil:
		return 0, &strictjson.Error{Code: strictjson.DuplicateField, Path: path + ".name", Expected: "each input once", Got: t.Name}
	case !s.takes(t.Type):
		return 0, &strictjson.Error{Path: path + ".datatype", Expected: string(s.Type), Got: fmt.Sprintf("%.32q", string(t.Type))}
	}
	return s.count(t.Shape, path+".shape")
}

// maxDimensions is more than any input has.
const maxDimensions = 16

func readShape(v strictjson.Value) ([]int64, error) {
	dims, err := v.Array()
	if err != nil {
		return nil, err
	}
	if len(dims) > maxDimensions {
		return nil, v.Errorf("at most %d dimensions", maxDimensions)
	}
	out := make([]int64, len(dims))
	for i, d := range dims {
		if out[i], err = d.Int(0, math.MaxInt64); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// readSize reads an input's parameters, of which there is one.
func readSize(v strictjson.Value) (size int64, err error) {
	members, err := v.Object()
	if err != nil {
		return 0, err
	}
	size = -1
	for _, p := range members {
		if p.Name != "binary_data_size" {
			return 0, p.Unknown()
		}
		if size, err = p.Int(0, math.MaxInt64); err != nil {
			return 0, err
		}
	}
	return size, nil
}

func (q *Request) readOutputs(v strictjson.Value, m Model) error {
	list, err := v.Array()
	if err != nil {
		return err
	}
	for _, e := range list {
		members, err := e.Object()
		if err != nil {
			return err
		}
		o := output{}
		for _, f := range members {
			switch f.Name {
			case "name":
				o.name, err = f.Text()
			case "parameters":
				err = o.readParams(f.Value)
			default:
				err = f.Unknown()
			}
			if err != nil {
				return err
			}
		}
		if err := q.ask(o, e.Path(), m); err != nil {
			return err
		}
	}
	return nil
}

func (o *output) readParams(v strictjson.Value) error { return eachParam(v, o.set) }

// set takes a parameter of an output.
func (o *output) set(name string, value any, path string) error {
	switch name {
	case "binary_data":
		b, ok := value.(bool)
		if o.binary = &b; !ok {
			return &strictjson.Error{Path: path, Expected: "true or false", Got: fmt.Sprintf("%.32v", value)}
		}
	case "classification":
		if value != int64(0) {
			return &strictjson.Error{Code: strictjson.UnsupportedValue, Path: path, Expected: "0: no output here is a classification", Got: fmt.Sprintf("%.32v", value)}
		}
	default:
		return unknown(path, name, "binary_data or no such parameter")
	}
	return nil
}

// ask adds an output to those that are wanted.
func (q *Request) ask(o output, path string, m Model) error {
	if find(m.Outputs, o.name) == nil {
		return unknown(path+".name", o.name, "an output of this model: "+list(m.Outputs))
	}
	if len(q.outputs) > 0 && q.Wants(o.name) {
		return &strictjson.Error{Code: strictjson.DuplicateField, Path: path + ".name", Expected: "each output once", Got: o.name}
	}
	q.outputs = append(q.outputs, o)
	return nil
}
