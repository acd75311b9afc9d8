package model

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// loader turns tensors into prepared weights and collects what goes wrong.
type loader struct {
	cfg       *Config
	file      *weights.File
	backend   backends.Backend
	precision string
	gate      backends.Backend
	large     map[string]bool // trunkMatrices
	problems  []error
}

func (l *loader) fail(class error, format string, args ...any) {
	l.problems = append(l.problems, fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), class))
}

func (l *loader) check(t wanted) {
	v, ok := l.file.Tensor(t.name)
	switch {
	case !ok:
		l.fail(sdk.ErrInvalid, "tensor %s is missing", t.name)
	case v.Packing == "":
		checkView(t, v, l.fail)
	case !l.large[t.name]:
		l.fail(sdk.ErrInvalid, "tensor %s is packed as %s, want it row by row", t.name, v.Packing)
	default:
		checkShape(t, v, l.fail)
		if err := pack.Check(v); err != nil {
			l.problems = append(l.problems, fmt.Errorf("tensor %s: %w", t.name, err))
		}
	}
}

func (l *loader) view(name string) tensor.View {
	v, _ := l.file.Tensor(name)
	return v
}

// vector converts a norm's weights to float32; nil if there are none.
func (l *loader) vector(name string) []float32 {
	v, ok := l.file.Tensor(name)
	if !ok {
		return nil
	}
	f := make([]float32, v.Elems())
	toFloats(f, v, 0)
	return f
}

// linear prepares a matrix that the file has; bias may be empty.
func (l *loader) linear(name string, w, bias tensor.View) backends.Linear {
	be, precision := l.backend, l.precision
	if !l.large[name] {
		be, precision = l.gate, ""
	}
	class, err := be.Class(w.DType, precision)
	if err == nil {
		var m backends.Linear
		if m, err = be.Linear(class, w, bias); err == nil {
			return m
		}
	}
	l.problems = append(l.problems, fmt.Errorf("tensor %s: %w", name, err))
	return nil
}

// head is the packed head of a tied embedding, the head, or the embedding.
func (l *loader) head() backends.Linear {
	name := headName
	if v, ok := l.file.Tensor(headName); l.cfg.Tied && !(ok && v.Packing != "") {
		name = embedName
	} else if l.cfg.Tied {
		l.check(wanted{headName, []int{l.cfg.Vocab, l.cfg.Hidden}})
	}
	return l.linear(headName, l.view(name), tensor.View{})
}

func (l *loader) projection(i int, name string, bias bool) (w, b tensor.View) {
	w = l.view(in(i, name+".weight"))
	if bias {
		b = l.view(in(i, name+".bias"))
	}
	return w, b
}

func (l *loader) ffn(i int, names layout) backends.FFN {
	gate, up, down := l.view(in(i, names.gate)), l.view(in(i, names.up)), l.view(in(i, names.down))
	class, err := l.backend.Class(gate.DType, l.precision)
	if err == nil {
		var f backends.FFN
		if f, err = l.backend.FFN(class, l.cfg.Activation, gate, up, down); err == nil {
			return f
		}
	}
	l.problems = append(l.problems, fmt.Errorf("tensor %s and the others of its FFN: %w", in(i, names.gate), err))
	return nil
}

func (l *loader) layer(i int) layer {
	c := l.cfg
	ow, ob := l.projection(i, "self_attn.o_proj", c.outBias)
	y := layer{
		attnNorm: l.vector(in(i, attnNorm)), ffnNorm: l.vector(in(i, ffnNorm)),
		qkv: l.projections(i), o: l.linear(in(i, "self_attn.o_proj.weight"), ow, ob),
	}
	if c.arch.qkNorm != noNorm {
		y.qNorm, y.kNorm = l.vector(in(i, "self_attn.q_norm.weight")), l.vector(in(i, "self_attn.k_norm.weight"))
	}
	switch {
	case !c.sparse[i]:
		y.dense = l.ffn(i, denseFFN)
	case !c.Dense():
		name := in(i, c.arch.gate)
		y.gate = l.linear(name, l.view(name), tensor.View{})
		if c.sharedWidth > 0 {
			name := in(i, sharedGate)
			y.shared, y.sharedGate = l.ffn(i, sharedFFN), l.linear(name, l.view(name), tensor.View{})
		}
	}
	return y
}

// projections are q, k and v: one matrix if they can be joined, so that they are one task for the team.
type projections []backends.Linear

// apply fills y with all projections of x, side by side.
func (p projections) apply(y, x tensor.Matrix, t team.Team) {
	at := 0
	for _, m := range p {
		m.Apply(columns(y, at, at+m.Out()), x, t)
		at += m.Out()
	}
}

func (l *loader) projections(i int) projections {
	var names, ws, bs = []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, [3]tensor.View{}, [3]tensor.View{}
	for j, name := range names {
		ws[j], bs[j] = l.projection(i, name, l.cfg.qkvBias)
	}
	name := func(j int) string { return in(i, names[j]+".weight") }
	if w, ok := joined(ws[:]); ok {
		if b, ok := joined(bs[:]); ok {
			return projections{l.linear(name(0), w, b)}
		}
	}
	var p projections
	for j := range names {
		if m := l.linear(name(j), ws[j], bs[j]); m != nil {
			p = append(p, m)
		}
	}
	return p
}

// joined is several matrices or vectors over the same inputs as one, output after output. Where they lie one behind
// the other they stay there, else it is a copy. Matrices whose outputs end within a panel, or which are of different
// kinds, can't be joined. Views without data join to one without.
func joined(views []tensor.View) (tensor.View, bool) {
	all := views[0]
	outs, size := 0, 0
	for i, v := range views {
		if v.DType != all.DType || v.Packing != all.Packing || len(v.Shape) != len(all.Shape) || len(v.Shape) == 2 && v.Shape[1] != all.Shape[1] {
			return all, false
		}
		if len(v.Data) == 0 {
			continue
		}
		if i+1 < len(views) && v.Packing != "" && v.Shape[0]%pack.Panel != 0 {
			return all, false
		}
		outs, size = outs+v.Shape[0], size+len(v.Data)
	}
	if size == 0 {
		return tensor.View{}, true
	}
	all.Shape = append([]int{outs}, all.Shape[1:]...)
	if adjacent(views) {
		all.Data = unsafe.Slice(unsafe.SliceData(all.Data), size)
		return all, true
	}
	all.Data = pack.Aligned(size)[:0]
	for _, v := range views {
		all.Data = append(all.Data, v.Data...)
	}
	return all, true
}

// adjacent says whether views lie one behind the other in the same file, so that together they are one slice of it.
func adjacent(views []tensor.View) bool {
	for i := 1; i < len(views); i++ {
		before, v := views[i-1].Data, views[i].Data
		end := uintptr(unsafe.Pointer(unsafe.SliceData(before))) + uintptr(len(before))
		if len(v) == 0 || cap(before) <= len(before) || uintptr(unsafe.Pointer(unsafe.SliceData(v))) != end {
			return false
		}
	}
	return true
}

// toFloats fills dst with elements of a row-major v from element at on.
func toFloats(dst []float32, v tensor.View, at int) {
	size := v.DType.Size()
	b := v.Data[at*size : (at+len(dst))*size]
	if v.DType == tensor.F32 {
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
		return
	}
	var half [512]uint16
	for len(dst) > 0 {
		n := min(len(dst), len(half))
		for i := range n {
			half[i] = binary.LittleEndian.Uint16(b[2*i:])
		}
		if v.DType == tensor.BF16 {
			vec.FromBF16(dst[:n], half[:n])
		} else {
			vec.FromF16(dst[:n], half[:n])
		}
		dst, b = dst[n:], b[2*n:]
	}
}
