package oip

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/pimoe/pimoe/server/oip/pb"
	"github.com/pimoe/pimoe/server/strictjson"
)

// models are one of texts and one of tensors.
var models = []Model{TextModel("t", "1"), {
	Name: "h", Version: "1", Inputs: []Spec{{Name: "x", Type: FP32, Shape: []int64{-1, 2}, Most: 64}}, Outputs: []Spec{{Name: "x", Type: FP32}},
	Params: []Spec{{Name: "layer", Type: Int64}, {Name: "all", Type: Bool}, {Name: "rate", Type: FP32}, {Name: "word", Type: Bytes}},
}}

// A response in binary, read as a request, has the tensors that were put in, for every datatype and in both forms.
func TestBothWays(t *testing.T) {
	all := []Tensor{
		{Name: "x", Type: FP32, Shape: []int64{1, 2}, Floats: []float32{1.5, -2e-30}}, {Name: "i", Type: Int32, Shape: []int64{2}, Ints: []int64{math.MinInt32, 7}},
		{Name: "l", Type: Int64, Shape: []int64{1}, Ints: []int64{math.MinInt64}}, {Name: "u", Type: Uint32, Shape: []int64{1}, Ints: []int64{math.MaxUint32}},
		{Name: "v", Type: Uint64, Shape: []int64{1}, Ints: []int64{math.MaxInt64}}, {Name: "b", Type: Bool, Shape: []int64{2}, Bools: []bool{true, false}},
		{Name: "s", Type: Bytes, Shape: []int64{2}, Texts: []string{"", "a<\u00e9\n\""}},
	}
	m := Model{Name: "m", Params: []Spec{{Name: "p", Type: Bytes}}}
	for _, x := range all {
		shape := make([]int64, len(x.Shape))
		for i := range shape {
			shape[i] = -1
		}
		m.Inputs = append(m.Inputs, Spec{Name: x.Name, Type: x.Type, Shape: shape, Most: 8})
	}
	m.Outputs = m.Inputs
	r := &Response{Model: "m", Version: "1", ID: "seven", Params: []Param{{"p", "q"}}, Outputs: all}
	for _, asBinary := range []bool{true, false} {
		body, header := r.Encode(&Request{binary: asBinary})
		if asBinary != (header >= 0) {
			t.Fatalf("binary %v: header %d", asBinary, header)
		}
		head := body
		if asBinary {
			head = body[:header]
		}
		head = []byte(strings.Replace(strings.Replace(string(head), `"outputs"`, `"inputs"`, 1), `"model_name":"m","model_version":"1",`, "", 1))
		length := -1
		if asBinary {
			length = len(head)
			head = append(head, body[header:]...)
		}
		q, err := Decode(head, length, m)
		if err != nil {
			t.Fatalf("%v: %s", err, head)
		}
		if d := cmp.Diff(all, q.Inputs); d != "" || q.ID != "seven" || q.Params["p"] != "q" {
			t.Errorf("binary %v: %v %s", asBinary, q, d)
		}
	}
	sent := r.Proto()
	in := &pb.ModelInferRequest{Id: sent.Id, Parameters: sent.Parameters, RawInputContents: sent.RawOutputContents}
	for _, o := range sent.Outputs {
		in.Inputs = append(in.Inputs, &pb.ModelInferRequest_InferInputTensor{Name: o.Name, Datatype: o.Datatype, Shape: o.Shape})
	}
	q, err := FromProto(in, m)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(all, q.Inputs); d != "" {
		t.Errorf("gRPC: %s", d)
	}
}

// check holds a request that was taken to its model, and one that was refused to its kind of error.
func check(t *testing.T, q *Request, err error, m Model) {
	t.Helper()
	var shape *strictjson.Error
	if err != nil {
		if !errors.As(err, &shape) || len(shape.Error()) > 2000 {
			t.Fatalf("%v is no short Error", err)
		}
		return
	}
	for _, in := range q.Inputs {
		spec := find(m.Inputs, in.Name)
		if spec == nil {
			t.Fatalf("input %q is none of the model's", in.Name)
		}
		n, err := spec.count(in.Shape, "")
		if got := len(in.Floats) + len(in.Ints) + len(in.Bools) + len(in.Texts); err != nil || got != n || n > spec.Most {
			t.Fatalf("%d elements for shape %v of %s: %v", got, in.Shape, in.Name, err)
		}
		for _, f := range in.Floats {
			if f-f != 0 {
				t.Fatalf("%v was taken", f)
			}
		}
	}
	if m.Name != "t" {
		return
	}
	settings, err := q.Settings()
	if err != nil {
		check(t, nil, err, m)
		return
	}
	if body, err := settings.Completion("t"); err == nil && !json.Valid(body) {
		t.Fatalf("%s is no JSON", body)
	}
}

func FuzzDecode(f *testing.F) {
	tail := binary.LittleEndian.AppendUint32(nil, math.Float32bits(1))
	for _, head := range []string{
		`{"id":"a","parameters":{"layer":1,"timeout":5,"binary_data_output":true},"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}],"outputs":[{"name":"x","parameters":{"binary_data":false}}]}`,
		`{"inputs":[{"name":"text_input","datatype":"BYTES","shape":[1,1],"parameters":{"binary_data_size":8}},{"name":"seed","datatype":"UINT64","shape":[1],"data":[7]}]}`,
		`{"inputs":[{"name":"x","datatype":"FP32","shape":[4611686018427387904,2],"data":[[1,2]]}]}`,
	} {
		f.Add([]byte(head+string(tail)+string(tail)), len(head))
		f.Add([]byte(head), -1)
	}
	f.Fuzz(func(t *testing.T, body []byte, header int) {
		for _, m := range models {
			q, err := Decode(body, header, m)
			check(t, q, err, m)
		}
	})
}

func FuzzGenerate(f *testing.F) {
	f.Add([]byte(`{"text_input":"a","parameters":{"stop_words":["."],"temperature":0.5},"max_tokens":3,"id":"x"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, settings, err := DecodeGenerate(body, models[0])
		check(t, q, err, Model{})
		if err == nil {
			if _, ok := settings[textInput].(string); !ok {
				t.Fatalf("%v has no text", settings)
			}
		}
	})
}

// Whatever a message says, it becomes a request that fits the model or an error that says why.
func FuzzFromProto(f *testing.F) {
	for _, in := range []*pb.ModelInferRequest{
		{Id: "a", Inputs: []*pb.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{1, 2}, Contents: &pb.InferTensorContents{Fp32Contents: []float32{1, 2}}}}},
		{Inputs: []*pb.ModelInferRequest_InferInputTensor{{Name: "text_input", Datatype: "BYTES", Shape: []int64{1}}}, RawInputContents: [][]byte{{1, 0, 0, 0, 'a'}}},
		{Parameters: map[string]*pb.InferParameter{"layer": {ParameterChoice: &pb.InferParameter_Uint64Param{Uint64Param: 1 << 63}}, "rate": {ParameterChoice: &pb.InferParameter_DoubleParam{DoubleParam: math.NaN()}}}},
	} {
		b, err := proto.Marshal(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in := &pb.ModelInferRequest{}
		if proto.Unmarshal(b, in) != nil {
			return
		}
		for _, m := range models {
			q, err := FromProto(in, m)
			check(t, q, err, m)
		}
	})
}
