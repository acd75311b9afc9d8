// Package backends is the seam between what has to be computed and how: a Backend packs weight matrices and multiplies
// rows by them. Package ref is the oracle, cpu the fast one; further backends are packages beside them.
//
// plugins/experts/ffn computes routed experts with a Backend, core/model the trunk. A backend is a library that
// computes; it refuses to know about processes, plugins, models or files.
package backends

import (
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Backend makes linear maps and expert blocks out of weights.
type Backend interface {
	// Name is the short name used in configuration: "ref", "cpu", "int8".
	Name() string
	// Class is the numeric class in which weights of a storage type are computed if asked is that class, empty or
	// "auto", which stand for the backend's default, such as "bf16w-f32" for BF16. sdk.ErrUnsupported for a type or a
	// class that the backend doesn't compute.
	Class(dtype tensor.DType, asked string) (string, error)
	// Packing is the layout, of those of package pack, that a class computes with in place; "" = row-major.
	Packing(class string) string
	// Linear prepares w, [out, in], for multiplication in a class that Class gave. Packed weights are used where they
	// lie if they begin at a multiple of pack.Align: the caller keeps the bytes valid and unchanged as long as the
	// Linear is used. Row-major weights may be copied. bias, [out] and row-major, may have no data.
	Linear(class string, w, bias tensor.View) (Linear, error)
	// FFN prepares an expert's block: gate and up are [intermediate, hidden], down is [hidden, intermediate], under the
	// same conditions as for Linear; activation is "silu" or "gelu_tanh".
	FFN(class, activation string, gate, up, down tensor.View) (FFN, error)
}

// Linear is y = x W^T + b for one prepared matrix. It is immutable and safe for concurrent use.
type Linear interface {
	// Out and In are W's shape.
	Out() int
	In() int
	// Apply computes y[r, o] = sum over i of x[r, i] * w[o, i] in the order that the class defines, then adds the bias.
	// x is [rows, In], y is [rows, Out] and is overwritten. Row r's bits depend on x's row r alone, never on rows or on
	// the team. Wrong shapes panic: they are programming errors.
	Apply(y, x tensor.Matrix, t team.Team)
}

// FFN is y = down(act(gate x) * up x), the block of one expert. It is immutable and safe for concurrent use.
type FFN interface {
	// Hidden is the width of x and y, Intermediate the inner one.
	Hidden() int
	Intermediate() int
	// Apply is like that of a Linear.
	Apply(y, x tensor.Matrix, t team.Team)
}

// Grouped is an optional interface of a Backend, found by assertion: it computes the rows of several experts together, where a
// call costs more than what it computes.
type Grouped interface {
	// ApplyAll is blocks[i].Apply for the next rows[i] rows of x and y, at least one each. The blocks were made by this backend, in
	// one class, with one activation and of one shape. The bits are those of Apply.
	ApplyAll(blocks []FFN, rows []int, y, x tensor.Matrix, t team.Team)
}
