package wire

import (
	"fmt"
	"math/bits"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Unit is a unit whose weights are ranges of shards.
type Unit struct {
	expert.Unit
	Gate, Up, Down Range
}

// Range is a tensor in a shard.
type Range struct {
	Shard          int
	Offset, Length int64
	DType          tensor.DType
	Shape          []int
	Packing        string
}

// LoadRequest packs a load. Spec.Units is not looked at.
func LoadRequest(spec expert.Spec, units []Unit) *pb.LoadRequest {
	req := &pb.LoadRequest{
		Hidden: uint32(spec.Hidden), Intermediate: uint32(spec.Intermediate), Activation: spec.Activation,
		NumericClass: spec.NumericClass, Params: spec.Params,
	}
	for _, u := range units {
		req.Units = append(req.Units, &pb.UnitWeights{
			Layer: uint32(u.Layer), Expert: uint32(u.Expert), Gate: u.Gate.pack(), Up: u.Up.pack(), Down: u.Down.pack(),
		})
	}
	return req
}

func (r Range) pack() *pb.ShardTensor {
	p := &pb.ShardTensor{Shard: uint32(r.Shard), Offset: uint64(r.Offset), Length: uint64(r.Length), Dtype: r.DType.String(), Packing: r.Packing}
	for _, d := range r.Shape {
		p.Shape = append(p.Shape, uint64(d))
	}
	return p
}

// SpecOf unpacks a load against the mapped shards.
func SpecOf(req *pb.LoadRequest, shards [][]byte) (expert.Spec, error) {
	if req.GetHidden() < 1 || req.GetHidden() > maxDim || req.GetIntermediate() < 1 || req.GetIntermediate() > maxDim {
		return expert.Spec{}, fmt.Errorf("load: hidden %d, intermediate %d: %w", req.GetHidden(), req.GetIntermediate(), sdk.ErrInvalid)
	}
	spec := expert.Spec{
		Hidden: int(req.GetHidden()), Intermediate: int(req.GetIntermediate()), Activation: req.GetActivation(),
		NumericClass: req.GetNumericClass(), Params: req.GetParams(),
	}
	for _, u := range req.GetUnits() {
		w := expert.UnitWeights{Unit: expert.Unit{Layer: int(u.GetLayer()), Expert: int(u.GetExpert())}}
		for _, t := range []struct {
			name string
			from *pb.ShardTensor
			to   *tensor.View
		}{{"gate", u.GetGate(), &w.Gate}, {"up", u.GetUp(), &w.Up}, {"down", u.GetDown(), &w.Down}} {
			v, err := view(t.from, shards)
			if err != nil {
				return expert.Spec{}, fmt.Errorf("load: layer %d expert %d %s: %w", u.GetLayer(), u.GetExpert(), t.name, err)
			}
			*t.to = v
		}
		spec.Units = append(spec.Units, w)
	}
	return spec, nil
}

// view cuts a tensor out of a shard; no sum or product in it can overflow.
func view(p *pb.ShardTensor, shards [][]byte) (tensor.View, error) {
	if p == nil {
		return tensor.View{}, fmt.Errorf("missing: %w", sdk.ErrInvalid)
	}
	d, err := tensor.ParseDType(p.GetDtype())
	if err != nil {
		return tensor.View{}, fmt.Errorf("%w: %w", err, sdk.ErrUnsupported)
	}
	if uint64(p.GetShard()) >= uint64(len(shards)) {
		return tensor.View{}, fmt.Errorf("shard %d of %d: %w", p.GetShard(), len(shards), sdk.ErrInvalid)
	}
	b := shards[p.GetShard()]
	if p.GetOffset() > uint64(len(b)) || p.GetLength() > uint64(len(b))-p.GetOffset() {
		return tensor.View{}, fmt.Errorf("bytes %d + %d of a shard of %d: %w", p.GetOffset(), p.GetLength(), len(b), sdk.ErrInvalid)
	}
	v := tensor.View{DType: d, Shape: make([]int, len(p.GetShape())), Packing: p.GetPacking()}
	want := uint64(d.Size())
	for i, n := range p.GetShape() {
		hi, lo := bits.Mul64(want, n)
		if n > maxDim || hi != 0 {
			return tensor.View{}, fmt.Errorf("shape %v: %w", p.GetShape(), sdk.ErrInvalid)
		}
		v.Shape[i], want = int(n), lo
	}
	if want != p.GetLength() && v.Packing == "" { // the size of packed ones is for who knows the packing to check
		return tensor.View{}, fmt.Errorf("shape %v of %s needs %d bytes, got %d: %w", p.GetShape(), d, want, p.GetLength(), sdk.ErrInvalid)
	}
	end := p.GetOffset() + p.GetLength()
	v.Data = b[p.GetOffset():end:end]
	return v, nil
}
