// Command expert-swiglu is an expert plugin on one page: SwiGLU feed-forward blocks with float32 weights, written as
// plainly as possible. It shows authors what a plugin needs; plugins/experts/ffn is the one to run models with. It refuses
// other activations and weights than those.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/serve"
	"github.com/pimoe/pimoe/sdk/tensor"
)

func main() { serve.Expert(&swiglu{}) }

type swiglu struct {
	spec  expert.Spec
	units map[expert.Unit]expert.UnitWeights
}

func (s *swiglu) Info() sdk.Info {
	return sdk.Info{Name: "swiglu", Kind: sdk.KindExpert, Version: "1", NumericClass: "f32w-f32"}
}

func (s *swiglu) Load(_ context.Context, spec expert.Spec) error {
	if spec.Activation != "silu" {
		return fmt.Errorf("activation %q: %w", spec.Activation, sdk.ErrUnsupported)
	}
	s.spec, s.units = spec, map[expert.Unit]expert.UnitWeights{}
	for _, u := range spec.Units {
		for name, w := range map[string]tensor.View{"gate": u.Gate, "up": u.Up, "down": u.Down} {
			out, in := spec.Intermediate, spec.Hidden
			if name == "down" {
				out, in = in, out
			}
			if w.DType != tensor.F32 {
				return fmt.Errorf("layer %d expert %d %s: dtype %s: %w", u.Layer, u.Expert, name, w.DType, sdk.ErrUnsupported)
			}
			if len(w.Shape) != 2 || w.Shape[0] != out || w.Shape[1] != in || len(w.Data) != 4*out*in {
				return fmt.Errorf("layer %d expert %d %s: shape %v, want [%d %d]: %w", u.Layer, u.Expert, name, w.Shape, out, in, sdk.ErrInvalid)
			}
		}
		s.units[u.Unit] = u
	}
	return nil
}

func (s *swiglu) Forward(ctx context.Context, c *expert.Call) error {
	row := 0
	for _, seg := range c.Segments {
		u, ok := s.units[expert.Unit{Layer: c.Layer, Expert: seg.Expert}]
		if !ok {
			return fmt.Errorf("layer %d expert %d is not loaded: %w", c.Layer, seg.Expert, sdk.ErrNotFound)
		}
		for end := row + seg.Rows; row < end; row++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			g, up := apply(u.Gate, c.X.Row(row)), apply(u.Up, c.X.Row(row))
			for i, v := range g {
				silu := v / (1 + float32(math.Exp(-float64(v))))
				g[i] = silu * up[i]
			}
			copy(c.Y.Row(row), apply(u.Down, g))
		}
	}
	return nil
}

func (s *swiglu) Close() error { return nil }

// apply is y = W x, with W in the bytes of the shard.
func apply(w tensor.View, x []float32) []float32 {
	y := make([]float32, w.Shape[0])
	for o := range y {
		for i, v := range x {
			b := w.Data[4*(o*len(x)+i):]
			y[o] += float32(math.Float32frombits(binary.LittleEndian.Uint32(b)) * v)
		}
	}
	return y
}
