// Package backends is the seam between what has to be computed and how: a Backend packs weight matrices and multiplies
// rows by them. Package ref is the oracle, cpu the fast one; further backends are packages beside them.
//
// plugins/experts/ffn computes routed experts with a Backend, core/model the trunk. A backend is a library that
// computes; it refuses to know about processes, plugins, models or files.
package backends

import "github.com/pimoe/pimoe/sdk/tensor"

// Backend makes linear maps out of weights.
type Backend interface {
	// Name is the short name used in configuration: "ref", "cpu".
	Name() string
	// Class is the numeric class in which weights of a storage type are computed, such as "bf16w-f32" for BF16;
	// sdk.ErrUnsupported for a type the backend can't take.
	Class(dtype tensor.DType) (string, error)
	// Linear prepares w, [out, in] row-major, for multiplication. It may keep w.Data instead of copying it: the caller
	// keeps the bytes valid and unchanged as long as the Linear is used. bias, [out], may have no data.
	Linear(w, bias tensor.View) (Linear, error)
}

// Linear is y = x W^T + b for one prepared matrix. It is immutable and safe for concurrent use.
type Linear interface {
	// Out and In are W's shape.
	Out() int
	In() int
	// Apply computes y[r, o] = sum over i ascending of x[r, i] * w[o, i], then adds the bias. x is [rows, In], y is
	// [rows, Out] and is overwritten. threads >= 1 bounds the parallelism. Row r's bits depend on x's row r alone,
	// never on rows or threads. Wrong shapes panic: they are programming errors.
	Apply(y, x tensor.Matrix, threads int)
}
