package model

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// wanted is a tensor that a checkpoint of this shape must have.
type wanted struct {
	name  string
	shape []int
}

// trunkTensors lists what stays in the trunk, in the order of the computation.
func (c *Config) trunkTensors() []wanted {
	list := []wanted{{embedName, []int{c.Vocab, c.Hidden}}}
	for l := range c.Layers {
		list = c.attentionTensors(list, l)
		add := func(name string, shape ...int) { list = append(list, wanted{in(l, name), shape}) }
		add(ffnNorm, c.Hidden)
		ffn := func(names layout, width int) {
			add(names.gate, width, c.Hidden)
			add(names.up, width, c.Hidden)
			add(names.down, c.Hidden, width)
		}
		switch {
		case !c.sparse[l]:
			ffn(denseFFN, c.denseWidth)
		case !c.Dense():
			add(c.arch.gate, c.Experts, c.Hidden)
			if c.sharedWidth > 0 {
				ffn(sharedFFN, c.sharedWidth)
				add(sharedGate, 1, c.Hidden)
			}
		}
	}
	list = append(list, wanted{normName, []int{c.Hidden}})
	if !c.Tied {
		list = append(list, wanted{headName, []int{c.Vocab, c.Hidden}})
	}
	return list
}

func (c *Config) attentionTensors(list []wanted, l int) []wanted {
	add := func(name string, shape ...int) { list = append(list, wanted{in(l, name), shape}) }
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	add(attnNorm, c.Hidden)
	for _, p := range []struct {
		name    string
		out, in int
		bias    bool
	}{
		{"self_attn.q_proj", q, c.Hidden, c.qkvBias}, {"self_attn.k_proj", kv, c.Hidden, c.qkvBias},
		{"self_attn.v_proj", kv, c.Hidden, c.qkvBias}, {"self_attn.o_proj", c.Hidden, q, c.outBias},
	} {
		add(p.name+".weight", p.out, p.in)
		if p.bias {
			add(p.name+".bias", p.out)
		}
	}
	switch c.arch.qkNorm {
	case headNorm:
		add("self_attn.q_norm.weight", c.HeadDim)
		add("self_attn.k_norm.weight", c.HeadDim)
	case fullNorm:
		add("self_attn.q_norm.weight", q)
		add("self_attn.k_norm.weight", kv)
	}
	return list
}

// source is where one matrix of an expert lies in the checkpoint: tensor t, from the element at offset.
type source struct {
	t      wanted
	offset int
}

// expertSources lists gate, up and down of one unit. Several units may name the same tensor.
func (c *Config) expertSources(from layout, layer, expert int) [3]source {
	h, i, e := c.Hidden, c.Intermediate, c.Experts
	if from.gateUp != "" {
		both := wanted{in(layer, from.gateUp), []int{e, 2 * i, h}}
		down := wanted{in(layer, from.down), []int{e, h, i}}
		return [3]source{{both, expert * 2 * i * h}, {both, (expert*2 + 1) * i * h}, {down, expert * h * i}}
	}
	one := func(pattern string, shape ...int) source {
		return source{t: wanted{in(layer, of(expert, pattern)), shape}}
	}
	return [3]source{one(from.gate, i, h), one(from.up, i, h), one(from.down, h, i)}
}

// Plan says how a checkpoint splits into trunk and experts. It checks that every tensor that this configuration needs
// is there with the right shape and a dtype that can be computed with, and that no other is there.
func (c *Config) Plan(ck *weights.Checkpoint) (weights.Plan, error) {
	check := checker{ck: ck, known: map[string]bool{}}
	plan := weights.Plan{ModelType: c.ModelType, Experts: make([][]weights.Piece, c.Experts)}
	for _, t := range c.trunkTensors() {
		check.tensor(t)
		plan.Trunk = append(plan.Trunk, weights.Piece{Name: t.name, Source: t.name, Shape: t.shape})
	}
	for _, l := range c.SparseLayers() {
		from := c.layoutOf(ck, l)
		for e := range c.Experts {
			sources := c.expertSources(from, l, e)
			for i, name := range [3]string{"gate", "up", "down"} {
				s := sources[i]
				check.tensor(s.t)
				shape := []int{c.Intermediate, c.Hidden}
				if name == "down" {
					shape = []int{c.Hidden, c.Intermediate}
				}
				plan.Experts[e] = append(plan.Experts[e], weights.Piece{
					Name: "layers." + strconv.Itoa(l) + "." + name, Source: s.t.name, Offset: s.offset, Shape: shape,
				})
			}
		}
	}
	check.extra(c)
	if err := check.err(); err != nil {
		return weights.Plan{}, fmt.Errorf("plan %s checkpoint: %w", c.ModelType, err)
	}
	return plan, nil
}

// layoutOf is the way in which a layer's experts are stored: the first of the architecture's layouts that has its down
// projection there, or simply the first, so that what is missing is named in the usual form.
func (c *Config) layoutOf(ck *weights.Checkpoint, layer int) layout {
	for _, l := range c.arch.layouts {
		if _, ok := ck.Tensor(in(layer, of(0, l.down))); ok {
			return l
		}
	}
	return c.arch.layouts[0]
}

// checker compares a checkpoint with what is wanted and collects what is wrong, up to a number that still helps.
type checker struct {
	ck       *weights.Checkpoint
	known    map[string]bool
	problems []error
	more     int
}

const problemsShown = 20

func (k *checker) fail(class error, format string, args ...any) {
	if len(k.problems) == problemsShown {
		k.more++
		return
	}
	k.problems = append(k.problems, fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), class))
}

func (k *checker) err() error {
	if k.more > 0 {
		k.problems = append(k.problems, fmt.Errorf("and %d more", k.more))
	}
	return errors.Join(k.problems...)
}

func (k *checker) tensor(t wanted) {
	if k.known[t.name] {
		return
	}
	k.known[t.name] = true
	v, ok := k.ck.Tensor(t.name)
	if !ok {
		k.fail(sdk.ErrInvalid, "tensor %s %v is missing", t.name, t.shape)
		return
	}
	checkView(t, v, k.fail)
}

// checkView reports a wrong shape or a dtype that nothing here computes with.
func checkView(t wanted, v tensor.View, fail func(class error, format string, args ...any)) {
	switch v.DType {
	case tensor.F32, tensor.F16, tensor.BF16:
	default:
		fail(sdk.ErrUnsupported, "tensor %s has dtype %s, want F32, F16 or BF16", t.name, v.DType)
		return
	}
	checkShape(t, v, fail)
}

func checkShape(t wanted, v tensor.View, fail func(class error, format string, args ...any)) {
	if !slices.Equal(v.Shape, t.shape) {
		fail(sdk.ErrInvalid, "tensor %s has shape %v, want %v", t.name, v.Shape, t.shape)
	}
}

// extra refuses tensors that the configuration has no use for, but for three kinds that are known to be surplus.
func (k *checker) extra(c *Config) {
	names := slices.Clone(k.ck.Names())
	slices.Sort(names)
	for _, name := range names {
		switch {
		case k.known[name]:
		case strings.HasSuffix(name, "rotary_emb.inv_freq"): // a buffer that old versions saved; rope_theta says the same
		case k.beyond(name, c.Layers):
		case name == headName && c.Tied:
			k.tiedHead()
		default:
			v, _ := k.ck.Tensor(name)
			k.fail(sdk.ErrUnsupported, "tensor %s %v is unknown to %s", name, v.Shape, c.ModelType)
		}
	}
}

// beyond reports whether a tensor belongs to a multi-token-prediction layer: one behind the last, with the projection
// that joins hidden state and embedding. A plain layer there means that config and checkpoint disagree.
func (k *checker) beyond(name string, layers int) bool {
	rest, ok := strings.CutPrefix(name, layerName)
	number, _, dot := strings.Cut(rest, ".")
	l, err := strconv.Atoi(number)
	if !ok || !dot || err != nil || l < layers {
		return false
	}
	_, mtp := k.ck.Tensor(in(l, "eh_proj.weight"))
	return mtp
}

// tiedHead allows a head beside tied embeddings only if it is the same bytes.
func (k *checker) tiedHead() {
	head, _ := k.ck.Tensor(headName)
	embed, ok := k.ck.Tensor(embedName)
	if ok && (head.DType != embed.DType || !slices.Equal(head.Shape, embed.Shape) || !bytes.Equal(head.Data, embed.Data)) {
		k.fail(sdk.ErrInvalid, "tensor %s differs from %s, although tie_word_embeddings is true", headName, embedName)
	}
}
