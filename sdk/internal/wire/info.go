package wire

import (
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/pb"
)

// Info packs a plugin's description.
func Info(i sdk.Info) *pb.InfoReply {
	return &pb.InfoReply{
		Name: i.Name, Kind: string(i.Kind), Version: i.Version, NumericClass: i.NumericClass, Capabilities: i.Capabilities,
	}
}

// InfoBack unpacks it.
func InfoBack(p *pb.InfoReply) sdk.Info {
	return sdk.Info{
		Name: p.GetName(), Kind: sdk.Kind(p.GetKind()), Version: p.GetVersion(), NumericClass: p.GetNumericClass(),
		Capabilities: p.GetCapabilities(),
	}
}
