package ffn_test

import (
	"context"
	"encoding/binary"
	"math"
	"testing"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/ref"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// golden is the part of experts.json that speaks of expert_ffn.safetensors.
type golden struct {
	ExpertFFN struct {
		Cases []struct {
			Name         string
			Hidden       int
			Intermediate int
			Rows         int
			Weights      string
			Seeds        map[string]uint64
			FirstWeights map[string][]float32 `json:"first_weights"`
			Tolerance    float64              `json:"tolerance_abs"`
		}
	} `json:"expert_ffn"`
}

func TestGolden(t *testing.T) {
	var g golden
	coretest.ReadJSON(t, coretest.Golden(t, "experts", "experts.json"), &g)
	file, err := weights.Open(coretest.Golden(t, "experts", "expert_ffn.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if len(g.ExpertFFN.Cases) < 7 {
		t.Fatalf("%d cases, the golden data has 7", len(g.ExpertFFN.Cases))
	}
	for _, c := range g.ExpertFFN.Cases {
		shapes := map[string][]int{"w_gate": {c.Intermediate, c.Hidden}, "w_up": {c.Intermediate, c.Hidden}, "w_down": {c.Hidden, c.Intermediate}}
		w := map[string]tensor.View{}
		for name, shape := range shapes {
			if c.Weights == "stored" {
				w[name] = mustTensor(t, file, c.Name+"."+name)
				continue
			}
			w[name] = generated(shape, c.Seeds[name])
			for i, want := range c.FirstWeights[name] {
				at := i
				if i == len(c.FirstWeights[name])-1 {
					at = w[name].Elems() - 1
				}
				if got := math.Float32frombits(binary.LittleEndian.Uint32(w[name].Data[4*at:])); got != want {
					t.Fatalf("%s: generated %s[%d] = %g, want %g", c.Name, name, at, got, want)
				}
			}
		}
		x := matrix(t, mustTensor(t, file, c.Name+".x"))
		for _, act := range []string{"silu", "gelu_tanh"} {
			want := matrix(t, mustTensor(t, file, c.Name+".y_"+act))
			for _, be := range []backends.Backend{ref.New(), cpu.New()} {
				t.Run(c.Name+"/"+act+"/"+be.Name(), func(t *testing.T) {
					e := loaded(t, be, expert.Spec{Hidden: c.Hidden, Intermediate: c.Intermediate, Activation: act, NumericClass: "f32",
						Units: []expert.UnitWeights{{Unit: expert.Unit{Layer: 3, Expert: 1}, Gate: w["w_gate"], Up: w["w_up"], Down: w["w_down"]}}})
					y := tensor.NewMatrix(c.Rows, c.Hidden)
					call := &expert.Call{Layer: 3, Threads: 2, Segments: []expert.Segment{{Expert: 1, Rows: c.Rows}}, X: x, Y: y}
					if err := e.Forward(t.Context(), call); err != nil {
						t.Fatal(err)
					}
					worst := 0.0
					for i, v := range y.Data {
						worst = max(worst, math.Abs(float64(v)-float64(want.Data[i])))
					}
					if !(worst <= c.Tolerance) {
						t.Errorf("differs by %g, tolerance %g", worst, c.Tolerance)
					}
				})
			}
		}
	}
}

// generated makes the weights of the large cases, which the golden data gives by a formula (splitmix64).
func generated(shape []int, seed uint64) tensor.View {
	v := tensor.View{DType: tensor.F32, Shape: shape}
	for i := range v.Elems() {
		z := (seed + uint64(i) + 1) * 0x9E3779B97F4A7C15
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		z ^= z >> 31
		w := float32(int64(z>>40)-1<<23) / (1 << 23) / 16
		v.Data = binary.LittleEndian.AppendUint32(v.Data, math.Float32bits(w))
	}
	return v
}

// halved stores the values of a F32 view in another type, cut to its precision.
func halved(v tensor.View, d tensor.DType) tensor.View {
	out := tensor.View{DType: d, Shape: v.Shape}
	for i := range v.Elems() {
		bits := binary.LittleEndian.Uint32(v.Data[4*i:])
		h := uint16(bits >> 16)
		if d == tensor.F16 { // the values are below 1/16 in size; those below 2^-14 become 0
			h = uint16(bits >> 31 << 15)
			if e := int(bits>>23&255) - 112; e > 0 {
				h |= uint16(e)<<10 | uint16(bits>>13&1023)
			}
		}
		out.Data = binary.LittleEndian.AppendUint16(out.Data, h)
	}
	return out
}

func mustTensor(t *testing.T, f *weights.File, name string) tensor.View {
	t.Helper()
	v, ok := f.Tensor(name)
	if !ok {
		t.Fatalf("no tensor %s", name)
	}
	return v
}

func matrix(t *testing.T, v tensor.View) tensor.Matrix {
	t.Helper()
	if v.DType != tensor.F32 || len(v.Shape) != 2 {
		t.Fatalf("not a float32 matrix: %v %v", v.DType, v.Shape)
	}
	m := tensor.NewMatrix(v.Shape[0], v.Shape[1])
	for i := range m.Data {
		m.Data[i] = math.Float32frombits(binary.LittleEndian.Uint32(v.Data[4*i:]))
	}
	return m
}

// loaded is an expert that the test closes.
func loaded(t testing.TB, be backends.Backend, spec expert.Spec) *ffn.Expert {
	t.Helper()
	e := ffn.New(be, ffn.Options{})
	if err := e.Load(context.Background(), spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}
