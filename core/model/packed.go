package model

import (
	"fmt"

	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// PackedTrunk says how a trunk file with those tensors is packed: projections, dense and shared FFNs and the head as
// packing says for the storage type of each ("" = as they are), everything else as it is. The tensors keep their names, and
// tied embeddings are there twice: as they are for the lookup, and packed as the head. The matrices come first, in the order
// of the computation, so that a layer's q, k and v lie one behind the other and can be used as one.
func (c *Config) PackedTrunk(have map[string]weights.Extent, packing func(tensor.DType) (string, error)) ([]weights.Packed, error) {
	large := c.trunkMatrices()
	var list, small []weights.Packed
	add := func(name, source string, matrix bool) error {
		e, ok := have[source]
		if !ok {
			return fmt.Errorf("trunk: tensor %s is missing: %w", source, sdk.ErrInvalid)
		}
		p := weights.Packed{Name: name, Source: source}
		if !matrix {
			small = append(small, p)
			return nil
		}
		var err error
		if p.Packing, err = packing(e.DType); err != nil {
			return fmt.Errorf("trunk: tensor %s: %w", source, err)
		}
		list = append(list, p)
		return nil
	}
	for _, t := range c.trunkTensors() {
		if err := add(t.name, t.name, large[t.name]); err != nil {
			return nil, err
		}
	}
	if c.Tied {
		if err := add(headName, embedName, true); err != nil {
			return nil, err
		}
	}
	return append(list, small...), nil
}

// trunkMatrices are the trunk's matrices that a backend computes with.
func (c *Config) trunkMatrices() map[string]bool {
	large := map[string]bool{headName: true}
	for l := range c.Layers {
		for _, name := range []string{
			"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight",
			denseFFN.gate, denseFFN.up, denseFFN.down, sharedFFN.gate, sharedFFN.up, sharedFFN.down,
		} {
			large[in(l, name)] = true
		}
	}
	return large
}
