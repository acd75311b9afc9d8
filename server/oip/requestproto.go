package oip

import (
	"fmt"
	"math"
	"strconv"

	"github.com/pimoe/pimoe/server/oip/pb"
	"github.com/pimoe/pimoe/server/strictjson"
)

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
