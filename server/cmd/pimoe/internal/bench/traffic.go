package bench

import (
	"fmt"
	"os"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/weights"
)

// Weights are what a decode step reads: the trunk once, and in each layer every expert that any of its rows needs.
// Keys, values and activations are left out: at the lengths measured here they are a few percent.
type Weights struct {
	Trunk        float64 // weights, not bytes: all matrices but the embedding, of which a step reads rows
	Unit         float64 // weights of one expert of one layer
	Layers       int     // that have experts
	TrunkBytes   float64 // of one weight
	ExpertsBytes float64
}

// WeightsOf reads the shapes of a stored model; the classes are those that compute it.
func WeightsOf(m *weights.Model, c *model.Config, trunkClass, expertClass string) (Weights, error) {
	w := Weights{
		Unit: 3 * float64(c.Hidden) * float64(c.Intermediate), Layers: len(c.SparseLayers()),
		TrunkBytes: BytesPerWeight(trunkClass), ExpertsBytes: BytesPerWeight(expertClass),
	}
	f, err := os.Open(m.TrunkPath())
	if err != nil {
		return w, fmt.Errorf("size of the trunk: %w", err)
	}
	defer f.Close()
	extents, err := weights.Scan(f, weights.TrunkFile)
	if err != nil {
		return w, err
	}
	for name, e := range extents {
		if len(e.Shape) == 2 && (c.Tied || name != "model.embed_tokens.weight") {
			w.Trunk += float64(e.Shape[0]) * float64(e.Shape[1])
		}
	}
	return w, nil
}

// BytesPerWeight is what a numeric class reads for one weight, its scales included; 0 for a class it does not know.
func BytesPerWeight(class string) float64 {
	switch class {
	case "f32":
		return 4
	case "bf16", "bf16w-f32", "f16w-f32":
		return 2
	case "int8g32":
		return 1 + 2./32 // one bf16 scale for 32 weights
	}
	return 0
}

// stored are the same weights with another number of bytes each.
func (w Weights) stored(bytes float64) Weights {
	w.TrunkBytes, w.ExpertsBytes = bytes, bytes
	return w
}

// step is the bytes of one decode step that needs so many distinct experts in each layer; 0 where nothing is known.
func (w Weights) step(experts float64) float64 {
	if w.TrunkBytes == 0 || w.ExpertsBytes == 0 || experts == 0 {
		return 0
	}
	return w.Trunk*w.TrunkBytes + float64(w.Layers)*experts*w.Unit*w.ExpertsBytes
}

// TrunkClass is the numeric class in which a backend computes a model's trunk.
func TrunkClass(m *weights.Model, b backends.Backend, precision string) (string, error) {
	f, err := os.Open(m.TrunkPath())
	if err != nil {
		return "", fmt.Errorf("class of the trunk: %w", err)
	}
	defer f.Close()
	extents, err := weights.Scan(f, weights.TrunkFile)
	if err != nil {
		return "", err
	}
	return b.Class(extents["model.embed_tokens.weight"].DType, precision)
}
