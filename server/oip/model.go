package oip

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pimoe/pimoe/server/oip/pb"
	"github.com/pimoe/pimoe/server/strictjson"
)

// Type is a datatype of the protocol.
type Type string

// The datatypes that models here have.
const (
	Bool   Type = "BOOL"
	Int32  Type = "INT32"
	Int64  Type = "INT64"
	Uint32 Type = "UINT32"
	Uint64 Type = "UINT64"
	FP32   Type = "FP32"
	Bytes  Type = "BYTES" // texts here, always UTF-8
)

// integers are taken for each other: clients of other servers' models differ in them, and no value is lost.
var integers = []Type{Int32, Int64, Uint32, Uint64}

// Spec is one input or output of a model.
type Spec struct {
	Name     string
	Type     Type
	Shape    []int64 // -1 = any size
	Optional bool
	Most     int // elements of an input
}

// Model is what can be asked.
type Model struct {
	Name, Version   string
	Inputs, Outputs []Spec
	Params          []Spec // a request's parameters, beside the protocol's own
}

// Platform is the name of what runs the models.
const Platform = "pimoe"

// Extensions are the parts of the protocol, beyond its core, that are served.
var Extensions = []string{"binary_tensor_data", "generate", "model_repository"}

type jsonSpec struct {
	Name     string  `json:"name"`
	Datatype Type    `json:"datatype"`
	Shape    []int64 `json:"shape"`
	Optional bool    `json:"optional,omitempty"`
}

// Metadata is the answer to a request for the model's metadata.
func (m Model) Metadata() []byte {
	list := func(specs []Spec) (out []jsonSpec) {
		for _, s := range specs {
			out = append(out, jsonSpec{s.Name, s.Type, s.Shape, s.Optional})
		}
		return out
	}
	return encode(struct {
		Name     string     `json:"name"`
		Versions []string   `json:"versions"`
		Platform string     `json:"platform"`
		Inputs   []jsonSpec `json:"inputs"`
		Outputs  []jsonSpec `json:"outputs"`
	}{m.Name, []string{m.Version}, Platform, list(m.Inputs), list(m.Outputs)})
}

// MetadataProto is the same over gRPC.
func (m Model) MetadataProto() *pb.ModelMetadataResponse {
	list := func(specs []Spec) (out []*pb.ModelMetadataResponse_TensorMetadata) {
		for _, s := range specs {
			out = append(out, &pb.ModelMetadataResponse_TensorMetadata{Name: s.Name, Datatype: string(s.Type), Shape: s.Shape})
		}
		return out
	}
	return &pb.ModelMetadataResponse{Name: m.Name, Versions: []string{m.Version}, Platform: Platform, Inputs: list(m.Inputs), Outputs: list(m.Outputs)}
}

// Names says which models there are, for an error.
func Names(models []Model) string {
	var names []string
	for _, m := range models {
		names = append(names, fmt.Sprintf("%q", m.Name))
	}
	return strings.Join(names, " and ")
}

// Indexed is a model of the repository and whether it answers.
type Indexed struct {
	Model
	Ready  bool
	Reason string // of one that does not
}

func (i Indexed) state() string {
	if i.Ready {
		return "READY"
	}
	return "UNAVAILABLE"
}

// Index is the answer to a request for the repository's index.
func Index(all []Indexed) []byte {
	type entry struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		State   string `json:"state"`
		Reason  string `json:"reason"`
	}
	out := []entry{}
	for _, i := range all {
		out = append(out, entry{i.Name, i.Version, i.state(), i.Reason})
	}
	return encode(out)
}

// IndexProto is the same over gRPC.
func IndexProto(all []Indexed) *pb.RepositoryIndexResponse {
	out := &pb.RepositoryIndexResponse{}
	for _, i := range all {
		out.Models = append(out.Models, &pb.RepositoryIndexResponse_ModelIndex{Name: i.Name, Version: i.Version, State: i.state(), Reason: i.Reason})
	}
	return out
}

// DecodeIndex reads the body of a request for the index, which may be empty: whether only models that are ready are wanted.
func DecodeIndex(body []byte) (ready bool, err error) {
	if len(body) == 0 {
		return false, nil
	}
	members, err := strictjson.ParseObject(body)
	if err != nil {
		return false, err
	}
	for _, m := range members {
		if m.Name != "ready" {
			return false, m.Unknown()
		}
		if ready, err = m.Bool(); err != nil {
			return false, err
		}
	}
	return ready, nil
}

// Error is the body of every failure: the protocol's one field, and beside it the code and the id that all errors here have.
func Error(message, code, request string) []byte {
	return encode(struct {
		Error     string `json:"error"`
		Code      string `json:"code"`
		RequestID string `json:"request_id"`
	}{message, code, request})
}

// find is the spec of a name; nil if there is none.
func find(specs []Spec, name string) *Spec {
	if i := slices.IndexFunc(specs, func(s Spec) bool { return s.Name == name }); i >= 0 {
		return &specs[i]
	}
	return nil
}

// takes reports whether an input of this spec may have a datatype.
func (s *Spec) takes(t Type) bool {
	return t == s.Type || slices.Contains(integers, t) && slices.Contains(integers, s.Type)
}

// count checks a shape and returns how many elements it has. Dimensions of 1 that the spec does not have may come first:
// clients send them for the batch that other servers' models have.
func (s *Spec) count(shape []int64, path string) (int, error) {
	own := shape
	for len(own) > len(s.Shape) && own[0] == 1 {
		own = own[1:]
	}
	bad := &strictjson.Error{Path: path, Expected: fmt.Sprintf("%v, where -1 is any size", s.Shape), Got: short(shape)}
	if len(own) != len(s.Shape) {
		return 0, bad
	}
	n := int64(1)
	for i, d := range own {
		if d < 1 || s.Shape[i] >= 0 && d != s.Shape[i] {
			return 0, bad
		}
		if d > int64(s.Most)/n {
			return 0, &strictjson.Error{Path: path, Expected: fmt.Sprintf("at most %d elements", s.Most), Got: short(shape)}
		}
		n *= d
	}
	return int(n), nil
}

// short shows a shape that may be long.
func short(shape []int64) string {
	if len(shape) > 8 {
		return fmt.Sprintf("%d dimensions", len(shape))
	}
	return fmt.Sprint(shape)
}

// encode makes JSON of own types, which always encode.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("oip: %T can't be encoded: %v", v, err))
	}
	return b
}
