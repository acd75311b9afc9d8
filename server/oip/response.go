package oip

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/pimoe/pimoe/server/decimal"
	"github.com/pimoe/pimoe/server/oip/pb"
)

// Param is a parameter of an answer: bool, int64, float64 or string.
type Param struct {
	Name  string
	Value any
}

// Response is an answer, or one of the answers of a stream.
type Response struct {
	Model, Version, ID string
	Params             []Param
	Outputs            []Tensor // those that the request wants
}

// Encode is the answer's body: JSON, and behind it the outputs that the request wants as bytes. header is the length of the
// JSON, -1 if nothing follows it.
func (r *Response) Encode(q *Request) (body []byte, header int) {
	size := 512
	for i := range r.Outputs {
		size += 128 + 3*r.Outputs[i].binarySize() // a float of four bytes takes some eleven as text
	}
	b := append(make([]byte, 0, size), `{"model_name":`...)
	b = appendText(b, r.Model)
	b = appendText(append(b, `,"model_version":`...), r.Version)
	if r.ID != "" {
		b = appendText(append(b, `,"id":`...), r.ID)
	}
	b = appendParams(append(b, `,"parameters":`...), r.Params)
	b = append(b, `,"outputs":[`...)
	binary := false
	for i := range r.Outputs {
		if i > 0 {
			b = append(b, ',')
		}
		t := &r.Outputs[i]
		b = t.appendHead(b)
		if q.Binary(t.Name) {
			binary = true
			b = append(b, `,"parameters":{"binary_data_size":`...)
			b = append(strconv.AppendInt(b, int64(t.binarySize()), 10), "}}"...)
		} else {
			b = append(t.appendJSON(append(b, `,"data":[`...)), "]}"...)
		}
	}
	b = append(b, "]}"...)
	if !binary {
		return b, -1
	}
	header = len(b)
	for i := range r.Outputs {
		if t := &r.Outputs[i]; q.Binary(t.Name) {
			b = t.appendBinary(b)
		}
	}
	return b, header
}

func (t *Tensor) appendHead(b []byte) []byte {
	b = appendText(append(b, `{"name":`...), t.Name)
	b = appendText(append(b, `,"datatype":`...), string(t.Type))
	b = append(b, `,"shape":[`...)
	for i, d := range t.Shape {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, d, 10)
	}
	return append(b, ']')
}

// appendJSON is the elements, separated by commas.
func (t *Tensor) appendJSON(b []byte) []byte {
	start := len(b)
	for _, f := range t.Floats {
		b = append(decimal.Append(b, f), ',')
	}
	for _, n := range t.Ints {
		b = append(strconv.AppendInt(b, n, 10), ',')
	}
	for _, v := range t.Bools {
		b = append(strconv.AppendBool(b, v), ',')
	}
	for _, s := range t.Texts {
		b = append(appendText(b, s), ',')
	}
	if len(b) > start {
		b = b[:len(b)-1]
	}
	return b
}

func appendParams(b []byte, params []Param) []byte {
	b = append(b, '{')
	for i, p := range params {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendText(b, p.Name), ':')
		b = append(b, encode(p.Value)...)
	}
	return append(b, '}')
}

// appendText is a JSON string, with the characters of HTML as they are.
func appendText(b []byte, s string) []byte {
	out := bytes.NewBuffer(b)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic("oip: text does not become JSON")
	}
	return out.Bytes()[:out.Len()-1] // without the line's end
}

// Generated is the answer in the shape of Triton's generate extension: one member for each output, which has one element.
func (r *Response) Generated() []byte {
	b := appendText([]byte(`{"model_name":`), r.Model)
	b = appendText(append(b, `,"model_version":`...), r.Version)
	if r.ID != "" {
		b = appendText(append(b, `,"id":`...), r.ID)
	}
	for i := range r.Outputs {
		b = append(appendText(append(b, ','), r.Outputs[i].Name), ':')
		b = r.Outputs[i].appendJSON(b)
	}
	b = appendParams(append(b, `,"parameters":`...), r.Params)
	return append(b, '}')
}

// Proto is the answer over gRPC, its outputs as raw contents.
func (r *Response) Proto() *pb.ModelInferResponse {
	out := &pb.ModelInferResponse{ModelName: r.Model, ModelVersion: r.Version, Id: r.ID, Parameters: map[string]*pb.InferParameter{}}
	for _, p := range r.Params {
		out.Parameters[p.Name] = paramProto(p.Value)
	}
	for i := range r.Outputs {
		t := &r.Outputs[i]
		out.Outputs = append(out.Outputs, &pb.ModelInferResponse_InferOutputTensor{Name: t.Name, Datatype: string(t.Type), Shape: t.Shape})
		out.RawOutputContents = append(out.RawOutputContents, t.appendBinary(make([]byte, 0, t.binarySize())))
	}
	return out
}

func paramProto(value any) *pb.InferParameter {
	switch v := value.(type) {
	case bool:
		return &pb.InferParameter{ParameterChoice: &pb.InferParameter_BoolParam{BoolParam: v}}
	case int64:
		return &pb.InferParameter{ParameterChoice: &pb.InferParameter_Int64Param{Int64Param: v}}
	case float64:
		return &pb.InferParameter{ParameterChoice: &pb.InferParameter_DoubleParam{DoubleParam: v}}
	case string:
		return &pb.InferParameter{ParameterChoice: &pb.InferParameter_StringParam{StringParam: v}}
	}
	panic("oip: a parameter of an answer has a type that the protocol has not")
}
