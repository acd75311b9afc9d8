package host

import (
	"context"
	"fmt"
	"math"

	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// tolerances are how far the answers of the backends whose function is the checkpoint's own may lie from the oracle's,
// relative to the largest element: a hundred times what float32 summation and rounded activations make of it, for 8-bit
// activations five times what they make; one wrong weight row makes far more. A plugin of another name may compute what it
// likes; it is only held to giving the same bits every time.
var tolerances = map[string]float64{"cpu": 1e-2, "ref": 1e-2, "cuda": 1e-2, "int8": 5e-2}

// compareWithOracle asks for one unit and computes it in the host, too.
func (k *knownAnswers) compareWithOracle(ctx context.Context, e computer, tolerance float64) error {
	u := k.spec.Units[0]
	want, err := k.oracle(ctx, u)
	if err != nil {
		return err
	}
	got, err := k.ask(ctx, e, u)
	if err != nil {
		return err
	}
	worst, largest := 0.0, 0.0
	for i := range want {
		worst = max(worst, math.Abs(want[i]-float64(got[i])))
		largest = max(largest, math.Abs(want[i]))
	}
	if !(worst <= tolerance*largest) {
		return fmt.Errorf("layer %d expert %d: differs from the reference by %.3g where the largest value is %.3g: %w",
			u.Layer, u.Expert, worst, largest, sdk.ErrInvalidOutput)
	}
	return nil
}

// oracle is a unit's answer to the known input, by plain loops in float64 over a private copy of the weights: no kernel
// and no layout in common with what it judges.
func (k *knownAnswers) oracle(ctx context.Context, u expert.Unit) ([]float64, error) {
	sh, err := k.shards.open(ctx, k.from, u.Expert)
	if err != nil {
		return nil, err
	}
	var w [3]tensor.View
	for i, name := range unitTensors(u) {
		if w[i], err = sh.read(name); err != nil {
			return nil, fmt.Errorf("read %s of expert %d: %w", name, u.Expert, err)
		}
	}
	x := make([]float64, len(k.input))
	for i, v := range k.input {
		x[i] = float64(v)
	}
	for i, shape := range [3][2]int{{k.shape.Intermediate, k.shape.Hidden}, {k.shape.Intermediate, k.shape.Hidden}, {k.shape.Hidden, k.shape.Intermediate}} {
		d := w[i].DType
		if len(w[i].Shape) != 2 || w[i].Shape[0] != shape[0] || w[i].Shape[1] != shape[1] || d != tensor.F32 && d != tensor.BF16 && d != tensor.F16 {
			return nil, fmt.Errorf("expert %d: matrix %d is %v of shape %v, want a float type of shape %v: %w", u.Expert, i, d, w[i].Shape, shape, sdk.ErrInvalid)
		}
	}
	gate, up := times(w[0], x), times(w[1], x)
	for i, g := range gate {
		gate[i] = activate(k.shape.Activation, g) * up[i]
	}
	return times(w[2], gate), nil
}

// read is one of the shard's tensors, row-major.
func (sh *shard) read(name string) (tensor.View, error) {
	e, ok := sh.extents[name]
	if !ok {
		return tensor.View{}, fmt.Errorf("it is missing: %w", sdk.ErrInvalid)
	}
	v := tensor.View{Packing: e.Packing, DType: e.DType, Shape: e.Shape, Data: make([]byte, e.Length)}
	if _, err := sh.file.ReadAt(v.Data, e.Offset); err != nil {
		return v, err
	}
	if v.Packing == "" {
		return v, nil
	}
	return pack.Unpack(v)
}

// times is w x.
func times(w tensor.View, x []float64) []float64 {
	in := w.Shape[1]
	row, y := make([]float32, in), make([]float64, w.Shape[0])
	for o := range y {
		pack.Widen(row, w.Data[o*in*w.DType.Size():], w.DType)
		var sum [4]float64 // so that an addition need not wait for the one before
		for i, v := range row {
			sum[i&3] += float64(v) * x[i]
		}
		y[o] = sum[0] + sum[1] + sum[2] + sum[3]
	}
	return y
}

func activate(name string, v float64) float64 {
	if name == "gelu_tanh" {
		return v / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
	}
	return v / (1 + math.Exp(-v))
}
