package backends

import (
	"fmt"

	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

var floatClasses = map[tensor.DType]string{tensor.F32: "f32", tensor.BF16: "bf16w-f32", tensor.F16: "f16w-f32"}

// FloatClass is the numeric class of float32 arithmetic on weights of a storage type: "f32", "bf16w-f32" or
// "f16w-f32". In all three a weight is converted to float32 exactly; each output has one accumulator, which starts at
// +0; the input dimension ascends; a product and its addition are one fused multiply-add, rounded once; the bias comes
// last. Backends that promise one of these names agree to the bit. Other types are sdk.ErrUnsupported.
func FloatClass(dtype tensor.DType, asked string) (string, error) {
	if class, ok := floatClasses[dtype]; ok {
		if asked != "" && asked != "auto" && asked != class {
			return "", fmt.Errorf("%w: numeric class %s for weights of type %v, which are computed in %s", sdk.ErrUnsupported, asked, dtype, class)
		}
		return class, nil
	}
	return "", fmt.Errorf("%w: weights of type %v in float32 arithmetic", sdk.ErrUnsupported, dtype)
}

// BF16Class is the numeric class of products of bfloat16, for weights stored so, as AMX computes them (TDPBF16PS):
// activations are rounded to bfloat16, to nearest, ties to even. Inputs go in blocks of 32, with a zero beside an odd last
// one. In a block there are two sums, of the even and of the odd inputs, which start at +0; the inputs ascend; each is one
// fused multiply-add. At the block's end both are added to one another, and that to the output's accumulator, which starts
// at +0. Subnormal numbers that come in and tiny results are zeros of their sign, see fma.Flushed. The bias comes last, and
// is added as usual.
const BF16Class = "bf16"

// BF16DotClass is the numeric class of products of bfloat16 as AVX512_BF16 computes them (VDPBF16PS), for weights stored so:
// activations are rounded as in BF16Class. Each output has one accumulator, which starts at +0; inputs ascend in pairs, with
// a zero beside an odd last one; of a pair the odd input comes first; each is one fused multiply-add. Subnormal numbers that
// come in and tiny results are zeros of their sign. The bias comes last, and is added as usual.
const BF16DotClass = "bf16dot"

// HalfClass is FloatClass for backends that also compute in BF16Class and BF16DotClass if they are asked for and the weights
// are BF16.
func HalfClass(dtype tensor.DType, asked string) (string, error) {
	if dtype == tensor.BF16 && (asked == BF16Class || asked == BF16DotClass) {
		return asked, nil
	}
	return FloatClass(dtype, asked)
}

// CheckLinear is what Backend.Linear verifies before it reads a byte: w is [out, in] and bias, unless it has no data,
// is [out]; row-major views are of a type that FloatClass knows; all have exactly as many bytes as their shape and
// packing need.
func CheckLinear(w, bias tensor.View) error {
	if err := checkWeight(w); err != nil {
		return err
	}
	if len(bias.Data) == 0 {
		return nil
	}
	if err := checkView("bias", bias, 1); err != nil {
		return err
	}
	if bias.Shape[0] != w.Shape[0] {
		return fmt.Errorf("%w: bias has %d values for %d outputs", sdk.ErrInvalid, bias.Shape[0], w.Shape[0])
	}
	return nil
}

// CheckBlock is the same for Backend.FFN, whose three matrices also have to fit together.
func CheckBlock(gate, up, down tensor.View) error {
	for _, m := range []struct {
		name string
		w    tensor.View
	}{{"gate", gate}, {"up", up}, {"down", down}} {
		if err := checkWeight(m.w); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	out, in := gate.Shape[0], gate.Shape[1]
	if up.Shape[0] != out || up.Shape[1] != in || down.Shape[0] != in || down.Shape[1] != out {
		return fmt.Errorf("%w: gate %v, up %v and down %v are no block", sdk.ErrInvalid, gate.Shape, up.Shape, down.Shape)
	}
	return nil
}

func checkWeight(w tensor.View) error {
	if w.Packing == "" {
		return checkView("weight", w, 2)
	}
	return pack.Check(w)
}

func checkView(what string, v tensor.View, dims int) error {
	if _, err := FloatClass(v.DType, ""); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if len(v.Shape) != dims {
		return fmt.Errorf("%w: %s has shape %v, want %d dimensions", sdk.ErrInvalid, what, v.Shape, dims)
	}
	// The length is divided by the shape, not the shape multiplied, so that a hostile shape can't overflow.
	rest, exact := len(v.Data)/v.DType.Size(), len(v.Data)%v.DType.Size() == 0
	for _, d := range v.Shape {
		if d < 1 {
			return fmt.Errorf("%w: %s has shape %v", sdk.ErrInvalid, what, v.Shape)
		}
		exact = exact && rest%d == 0
		rest /= d
	}
	if !exact || rest != 1 {
		return fmt.Errorf("%w: %s has %d bytes for shape %v of %v", sdk.ErrInvalid, what, len(v.Data), v.Shape, v.DType)
	}
	return nil
}

// The panics of Linear.Apply: each is a programming error of the caller.
const (
	panicRows   = "backends: x and y differ in rows"
	panicIn     = "backends: x does not have In columns"
	panicOut    = "backends: y does not have Out columns"
	panicStride = "backends: rows of a matrix overlap"
	panicShort  = "backends: a matrix is shorter than its shape"
)

// CheckApply panics unless y and x fit l, as Linear.Apply promises.
func CheckApply(l Linear, y, x tensor.Matrix) { checkApply(l.Out(), l.In(), y, x) }

// CheckFFN panics unless y and x fit f, as FFN.Apply promises.
func CheckFFN(f FFN, y, x tensor.Matrix) { checkApply(f.Hidden(), f.Hidden(), y, x) }

func checkApply(out, in int, y, x tensor.Matrix) {
	switch {
	case x.Rows != y.Rows:
		panic(panicRows)
	case x.Cols != in:
		panic(panicIn)
	case y.Cols != out:
		panic(panicOut)
	case x.Rows > 1 && (x.Stride < x.Cols || y.Stride < y.Cols):
		panic(panicStride)
	case short(x) || short(y):
		panic(panicShort)
	}
}

func short(m tensor.Matrix) bool {
	return m.Rows < 0 || m.Rows > 0 && len(m.Data) < (m.Rows-1)*m.Stride+m.Cols
}
