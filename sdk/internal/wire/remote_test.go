package wire

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/pb"
)

// TestDescription: what a process says of itself arrives, and what no honest one says is refused.
func TestDescription(t *testing.T) {
	d := expert.Description{
		Info: sdk.Info{Name: "cpu", Kind: sdk.KindExpert, NumericClass: "f32"}, Model: "m", ModelDigest: "sha256:1", Hidden: 4, Intermediate: 8,
		Activation: "silu", Units: []expert.Unit{{Layer: 1, Expert: 2}}, Shards: map[int]string{2: "ab"}, Zone: "z", Instance: "i", Program: "sha256:2",
	}
	if got, err := DescriptionBack(Description(d)); err != nil || !reflect.DeepEqual(got, d) {
		t.Errorf("%+v %v", got, err)
	}
	for what, change := range map[string]func(*pb.DescribeReply){
		"zone":     func(p *pb.DescribeReply) { p.Zone = strings.Repeat("z", maxText+1) },
		"class":    func(p *pb.DescribeReply) { p.Info.NumericClass = strings.Repeat("z", maxText+1) },
		"unit":     func(p *pb.DescribeReply) { p.Units[0].Layer = maxDim + 1 },
		"shard":    func(p *pb.DescribeReply) { p.Shards[maxDim+1] = "" },
		"digest":   func(p *pb.DescribeReply) { p.Shards[2] = strings.Repeat("z", maxText+1) },
		"protocol": func(p *pb.DescribeReply) { p.Protocol = 2 },
	} {
		p := Description(d)
		change(p)
		if _, err := DescriptionBack(p); !errors.Is(err, sdk.ErrInvalidOutput) && !errors.Is(err, sdk.ErrUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := DescriptionBack(&pb.DescribeReply{}); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("nothing: %v", err)
	}
}
