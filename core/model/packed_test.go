package model_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/int8"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// zeros is a Block whose experts have nothing to say.
type zeros struct{}

func (zeros) Forward(_ context.Context, in moe.Input, y tensor.Matrix) error {
	if in.Meanwhile != nil {
		in.Meanwhile()
	}
	clear(y.Data)
	return nil
}

// TestPackedTrunk: a packed file computes what the model's own tensors do, to the bit, with every backend, tied or not,
// with biases, shared experts and dense layers.
func TestPackedTrunk(t *testing.T) {
	store, err := weights.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"qwen3_moe", "qwen2_moe", "granitemoe", "mixtral_f16", "llama"} {
		dir := coretest.Golden(t, "models", name)
		cfg, err := model.ReadConfig(dir)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := store.Import(t.Context(), name, dir, cfg.Plan, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, be := range []backends.Backend{cpu.New(), int8.New()} {
			t.Run(name+"/"+be.Name(), func(t *testing.T) { packedTrunk(t, store, stored, cfg, be) })
		}
	}
}

func packedTrunk(t *testing.T, store *weights.Store, stored *weights.Model, cfg *model.Config, be backends.Backend) {
	extents, err := stored.Extents(weights.TrunkFile)
	if err != nil {
		t.Fatal(err)
	}
	list, err := cfg.PackedTrunk(extents, func(d tensor.DType) (string, error) {
		class, err := be.Class(d, "")
		return be.Packing(class), err
	})
	if err != nil {
		t.Fatal(err)
	}
	recipe := weights.Recipe{Name: "trunk-" + be.Name(), Files: map[string][]weights.Packed{weights.TrunkFile: list}}
	variant, err := store.Pack(t.Context(), stored, recipe, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := variant.OpenTrunk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	plain, err := weights.Open(filepath.Join(stored.Dir, weights.TrunkFile))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	var logits []tensor.Matrix
	for _, f := range []*weights.File{plain, packed} {
		trunk, err := model.Load(cfg, f, be, "auto")
		if err != nil {
			t.Fatal(err)
		}
		cache, err := cfg.NewCache(model.CacheSpec{Pages: 2, PageTokens: 16, DType: tensor.F32})
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		span := model.Span{Pages: []int32{1, 0}, Tokens: []int32{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3}, AllLogits: true}
		m, err := trunk.Forward(t.Context(), cache, []model.Span{span}, zeros{}, pair(t))
		if err != nil {
			t.Fatal(err)
		}
		logits = append(logits, copyOf(m[0]))
	}
	sameBits(t, fmt.Sprintf("packed for %s", be.Name()), logits[1], logits[0])
}
