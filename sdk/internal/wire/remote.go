package wire

import (
	"fmt"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/pb"
)

// RemoteProtocol is the version of the service Remote.
const RemoteProtocol = 1

// maxText bounds a name or digest in a description.
const maxText = 256

// Description packs what a process on another machine says of itself.
func Description(d expert.Description) *pb.DescribeReply {
	p := &pb.DescribeReply{
		Protocol: RemoteProtocol, Info: Info(d.Info), Model: d.Model, ModelDigest: d.ModelDigest, Hidden: uint32(d.Hidden),
		Intermediate: uint32(d.Intermediate), Activation: d.Activation, Shards: map[uint32]string{}, Zone: d.Zone,
		Instance: d.Instance, Program: d.Program,
	}
	for _, u := range d.Units {
		p.Units = append(p.Units, &pb.RemoteUnit{Layer: uint32(u.Layer), Expert: uint32(u.Expert)})
	}
	for e, digest := range d.Shards {
		p.Shards[uint32(e)] = digest
	}
	return p
}

// DescriptionBack unpacks it.
func DescriptionBack(p *pb.DescribeReply) (expert.Description, error) {
	d := expert.Description{
		Info: InfoBack(p.GetInfo()), Model: p.GetModel(), ModelDigest: p.GetModelDigest(), Hidden: int(p.GetHidden()),
		Intermediate: int(p.GetIntermediate()), Activation: p.GetActivation(), Shards: map[int]string{}, Zone: p.GetZone(),
		Instance: p.GetInstance(), Program: p.GetProgram(),
	}
	if p.GetProtocol() != RemoteProtocol {
		return d, fmt.Errorf("describe: protocol %d, this host speaks %d: %w", p.GetProtocol(), RemoteProtocol, sdk.ErrUnsupported)
	}
	for _, text := range []string{d.Model, d.ModelDigest, d.Activation, d.Zone, d.Instance, d.Program, d.Info.Name, d.Info.NumericClass} {
		if len(text) > maxText {
			return d, fmt.Errorf("describe: a text of %d bytes: %w", len(text), sdk.ErrInvalidOutput)
		}
	}
	for _, u := range p.GetUnits() {
		if u.GetLayer() > maxDim || u.GetExpert() > maxDim {
			return d, fmt.Errorf("describe: layer %d expert %d: %w", u.GetLayer(), u.GetExpert(), sdk.ErrInvalidOutput)
		}
		d.Units = append(d.Units, expert.Unit{Layer: int(u.GetLayer()), Expert: int(u.GetExpert())})
	}
	for e, digest := range p.GetShards() {
		if e > maxDim || len(digest) > maxText {
			return d, fmt.Errorf("describe: digest of expert %d: %w", e, sdk.ErrInvalidOutput)
		}
		d.Shards[int(e)] = digest
	}
	return d, nil
}
