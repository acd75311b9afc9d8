package shapes

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
)

// TestWrite: what is written is a model that the readers take whole.
func TestWrite(t *testing.T) {
	s, err := ByName("tiny")
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := t.TempDir(), t.TempDir(), t.TempDir()
	for dir, seed := range map[string]uint64{a: 1, b: 1, c: 2} {
		if err := Write(dir, s, seed); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := model.ReadConfig(a)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Hidden != s.Hidden || cfg.Experts != s.Experts || cfg.TopK != s.TopK || cfg.Intermediate != s.Intermediate || len(cfg.SparseLayers()) != s.Layers {
		t.Errorf("config %+v is not the shape %+v", cfg, s)
	}
	ck, err := weights.OpenCheckpoint(a)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	if _, err := cfg.Plan(ck); err != nil {
		t.Error(err)
	}
	tok, err := tokenizer.Load(a)
	if err != nil {
		t.Fatal(err)
	}
	const text = "fox & \u00e9\n\x00 1"
	if ids := tok.Encode(text, true); len(ids) != len(text) || tok.Decode(ids, false) != text {
		t.Errorf("%q becomes %v and back %q", text, ids, tok.Decode(ids, false))
	}
	read := func(dir string) string {
		b, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if read(a) != read(b) || read(a) == read(c) {
		t.Error("the weights are not a function of the seed")
	}
}

func TestNames(t *testing.T) {
	for _, n := range Names() {
		s, err := ByName(n)
		if err != nil || s.TopK > s.Experts || s.Heads%s.KVHeads != 0 || s.Vocab <= eos {
			t.Errorf("%s: %+v %v", n, s, err)
		}
	}
	if _, err := ByName("huge"); !errors.Is(err, sdk.ErrInvalid) {
		t.Error(err)
	}
}
