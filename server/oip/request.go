package oip

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pimoe/pimoe/server/oip/pb"
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
	members, err := object(head)
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

// scalar is a parameter's value as Go's own type.
func scalar(v strictjson.Value) (any, error) {
	switch {
	case v.IsString():
		return v.Text()
	case v.IsNumber():
		if n, err := v.Int(math.MinInt64, math.MaxInt64); err == nil {
			return n, nil
		}
		return v.Float(math.Inf(-1), math.Inf(1))
	case v.Null() || v.IsArray() || v.IsObject():
		return nil, v.Errorf("a string, a number or a boolean")
	}
	return v.Bool()
}

func (q *Request) readParams(v strictjson.Value, m Model) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	for _, p := range members {
		value, err := scalar(p.Value)
		if err != nil {
			return err
		}
		if err := q.setParam(p.Name, value, m); err != nil {
			return err
		}
	}
	return nil
}

// maxTimeout bounds the parameter timeout, which a server's own limit bounds further.
const maxTimeout = 1000 * time.Hour

// setParam takes a parameter of the request: one of the protocol's own, or one that the model lists.
func (q *Request) setParam(name string, value any, m Model) error {
	path := "parameters." + name
	want := func(expected string) error {
		return &strictjson.Error{Path: path, Expected: expected, Got: fmt.Sprintf("%.32v", value)}
	}
	n, whole := value.(int64)
	flag, boolean := value.(bool)
	switch name {
	case "timeout":
		if !whole || n < 1 {
			return want("microseconds, a whole number above 0")
		}
		q.Timeout = time.Duration(min(n, maxTimeout.Microseconds())) * time.Microsecond
	case "binary_data_output":
		if q.binary = flag; !boolean {
			return want("true or false")
		}
	case "triton_enable_empty_final_response":
		if q.Final = flag; !boolean {
			return want("true or false")
		}
	case "priority", "sequence_id":
		if value != int64(0) && value != "" {
			return &strictjson.Error{Code: strictjson.UnsupportedValue, Path: path, Expected: "0: requests here have neither priorities nor sequences", Got: fmt.Sprintf("%.32v", value)}
		}
	case "sequence_start", "sequence_end":
		if value != false {
			return &strictjson.Error{Code: strictjson.UnsupportedValue, Path: path, Expected: "false: requests here are in no sequence", Got: fmt.Sprintf("%.32v", value)}
		}
	default:
		s := find(m.Params, name)
		if s == nil {
			return unknown("parameters", name, "a parameter of this model: "+list(m.Params))
		}
		value, err := s.fit(value, path)
		if err != nil {
			return err
		}
		if q.Params == nil {
			q.Params = map[string]any{}
		}
		q.Params[name] = value
	}
	return nil
}

// fit is a parameter's value in the type of its spec.
func (s *Spec) fit(value any, path string) (any, error) {
	ok := false
	switch s.Type {
	case FP32:
		if n, whole := value.(int64); whole {
			value = float64(n)
		}
		var f float64
		f, ok = value.(float64)
		ok = ok && f-f == 0
	case Bool:
		_, ok = value.(bool)
	case Bytes:
		_, ok = value.(string)
	default:
		_, ok = value.(int64)
	}
	if !ok {
		return nil, &strictjson.Error{Path: path, Expected: "a value of " + string(s.Type), Got: fmt.Sprintf("%.32v", value)}
	}
	return value, nil
}

func unknown(path, name, expected string) error {
	return &strictjson.Error{Code: strictjson.UnknownField, Path: path, Expected: expected, Got: fmt.Sprintf("%.64q", name)}
}

// list names specs for an error.
func list(specs []Spec) string {
	var names []string
	for _, s := range specs {
		names = append(names, s.Name)
	}
	if names == nil {
		return "there are none"
	}
	return strings.Join(names, ", ")
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

func (o *output) readParams(v strictjson.Value) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	for _, p := range members {
		value, err := scalar(p.Value)
		if err != nil {
			return err
		}
		if err := o.set(p.Name, value, p.Path()); err != nil {
			return err
		}
	}
	return nil
}

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

// FromProto reads a gRPC request. Errors are *strictjson.Error.
func FromProto(in *pb.ModelInferRequest, m Model) (*Request, error) {
	q := &Request{ID: in.GetId(), binary: true}
	if len(q.ID) > longestID {
		return nil, &strictjson.Error{Path: "id", Expected: fmt.Sprintf("at most %d bytes", longestID), Got: strconv.Itoa(len(q.ID))}
	}
	for name, p := range in.GetParameters() {
		value, err := protoScalar(p, "parameters."+name)
		if err != nil {
			return nil, err
		}
		if err := q.setParam(name, value, m); err != nil {
			return nil, err
		}
	}
	raw := in.GetRawInputContents()
	if len(raw) > 0 && len(raw) != len(in.GetInputs()) {
		return nil, &strictjson.Error{Path: "raw_input_contents", Expected: fmt.Sprintf("none, or one for each of %d inputs", len(in.GetInputs())), Got: strconv.Itoa(len(raw))}
	}
	for i, t := range in.GetInputs() {
		var bytes []byte
		if len(raw) > 0 {
			bytes = raw[i]
		}
		if err := q.addProto(t, bytes, len(raw) > 0, at("inputs", i), m); err != nil {
			return nil, err
		}
	}
	for i, o := range in.GetOutputs() {
		path, out := at("outputs", i), output{name: o.GetName()}
		for name, p := range o.GetParameters() {
			value, err := protoScalar(p, path+".parameters."+name)
			if err == nil {
				err = out.set(name, value, path+".parameters."+name)
			}
			if err != nil {
				return nil, err
			}
		}
		if err := q.ask(out, path, m); err != nil {
			return nil, err
		}
	}
	return q, q.complete(m)
}

func (q *Request) addProto(in *pb.ModelInferRequest_InferInputTensor, raw []byte, isRaw bool, path string, m Model) error {
	t := Tensor{Name: in.GetName(), Type: Type(in.GetDatatype()), Shape: in.GetShape()}
	for name := range in.GetParameters() {
		return unknown(path+".parameters", name, "no parameters: tensors are in the message")
	}
	count, err := q.admit(&t, path, m)
	switch {
	case err != nil:
		return err
	case isRaw && in.Contents != nil:
		return &strictjson.Error{Path: path + ".contents", Expected: "none beside raw_input_contents", Got: "some"}
	case isRaw:
		err = t.readBinary(raw, count, path)
	default:
		err = t.readContents(in.GetContents(), count, path+".contents")
	}
	q.Inputs = append(q.Inputs, t)
	return err
}

// protoScalar is a gRPC parameter as Go's own type.
func protoScalar(p *pb.InferParameter, path string) (any, error) {
	switch v := p.GetParameterChoice().(type) {
	case *pb.InferParameter_BoolParam:
		return v.BoolParam, nil
	case *pb.InferParameter_Int64Param:
		return v.Int64Param, nil
	case *pb.InferParameter_StringParam:
		return v.StringParam, nil
	case *pb.InferParameter_DoubleParam:
		return v.DoubleParam, nil
	case *pb.InferParameter_Uint64Param:
		if v.Uint64Param <= math.MaxInt64 {
			return int64(v.Uint64Param), nil
		}
	}
	return nil, &strictjson.Error{Path: path, Expected: "a string, a number below 2^63 or a boolean", Got: "another value"}
}
