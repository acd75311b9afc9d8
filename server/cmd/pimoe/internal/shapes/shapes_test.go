package shapes

import (
	"context"
	"errors"
	"math"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
)

// TestWrite: what is written is a model that the readers take whole, for both architectures.
func TestWrite(t *testing.T) {
	_, tiny, err := Find("tiny")
	if err != nil {
		t.Fatal(err)
	}
	other := tiny
	other.Type, other.KVHeads = olmoe, 2
	for _, s := range []Shape{tiny, other} {
		t.Run(s.Type, func(t *testing.T) {
			a, b, c := t.TempDir(), t.TempDir(), t.TempDir()
			var last [2]int64
			for dir, seed := range map[string]uint64{a: 1, b: 1, c: 2} {
				if err := Write(t.Context(), dir, s, seed, func(done, total int64) { last = [2]int64{done, total} }); err != nil {
					t.Fatal(err)
				}
			}
			if last[0] != last[1] || last[0] == 0 {
				t.Errorf("progress ended with %v", last)
			}
			cfg, err := model.ReadConfig(a)
			if err != nil {
				t.Fatal(err)
			}
			if cfg.ModelType != s.Type || cfg.Hidden != s.Hidden || cfg.Experts != s.Experts || cfg.TopK != s.TopK || cfg.Intermediate != s.Intermediate ||
				len(cfg.SparseLayers()) != s.Layers || cfg.Vocab != s.Vocab || cfg.Tied {
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
			checkSpread(t, ck)
			for i := range s.Layers + 1 {
				name := shardName(i, s.Layers+1)
				if read(t, a, name) != read(t, b, name) || read(t, a, name) == read(t, c, name) {
					t.Errorf("%s is not a function of the seed", name)
				}
			}
		})
	}
}

// checkSpread: the weights of a matrix have mean 0 and standard deviation 0.02.
func checkSpread(t *testing.T, ck *weights.Checkpoint) {
	t.Helper()
	v, ok := ck.Tensor("lm_head.weight")
	if !ok {
		t.Fatal("no head")
	}
	var sum, squares float64
	n := len(v.Data) / 2
	for i := range n {
		x := float64(math.Float32frombits(uint32(v.Data[2*i])<<16 | uint32(v.Data[2*i+1])<<24))
		sum, squares = sum+x, squares+x*x
	}
	if mean, dev := sum/float64(n), math.Sqrt(squares/float64(n)); math.Abs(mean) > 0.001 || math.Abs(dev-0.02) > 0.0005 {
		t.Errorf("mean %g, standard deviation %g", mean, dev)
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestTokens: every text survives, and a word of four letters is two or three tokens where there is room for pairs.
func TestTokens(t *testing.T) {
	_, s, err := Find("tiny")
	if err != nil {
		t.Fatal(err)
	}
	s.Vocab = 8192
	dir := t.TempDir()
	if err := Write(t.Context(), dir, s, 1, nil); err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	const text = "fox & \u00e9\n\x00 1"
	if got := tok.Decode(tok.Encode(text, true), false); got != text {
		t.Errorf("%q becomes %q", text, got)
	}
	rng := rand.New(rand.NewSource(1))
	var words []string
	for range 62 {
		words = append(words, string([]byte{byte('a' + rng.Intn(26)), byte('a' + rng.Intn(26)), byte('a' + rng.Intn(26)), byte('a' + rng.Intn(26))}))
	}
	if n := len(tok.Encode(strings.Join(words, " "), true)); n < 2*62-1 || n > 3*62 {
		t.Errorf("62 words are %d tokens", n)
	}
	if ids := tok.Encode(eosText, true); len(ids) != 1 || int(ids[0]) != s.eos() {
		t.Errorf("the end of text is %v", ids)
	}
}

func TestFind(t *testing.T) {
	for _, n := range Names() {
		name, s, err := Find(n)
		if err != nil || name != n || s.check() != nil {
			t.Errorf("%s: %+v %v", n, s, err)
		}
	}
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	want := Shape{Type: qwen3, Hidden: 64, Layers: 1, Experts: 2, TopK: 1, Intermediate: 32, Heads: 4, KVHeads: 4, HeadDim: 16, Vocab: 300, Positions: 4096}
	name, s, err := Find(file("My shape_2.yaml", "hidden: 64\nlayers: 1\nexperts: 2\ntop_k: 1\nintermediate: 32\nheads: 4\nvocab: 300\n"))
	if err != nil || name != "my-shape-2" || s != want {
		t.Errorf("%s %+v %v", name, s, err)
	}
	_, again, err := Find(file("b.json", `{"hidden":64,"layers":1,"experts":2,"top_k":1,"intermediate":32,"heads":4,"vocab":300}`))
	if err != nil || again != want || again.ModelName("x", 1) != s.ModelName("x", 1) || s.ModelName("x", 1) == s.ModelName("x", 2) {
		t.Errorf("%+v %v", again, err)
	}
	for text, class := range map[string]error{
		"huge": sdk.ErrInvalid, "nowhere.yaml": sdk.ErrNotFound, file("a.yaml", "hiden: 1"): sdk.ErrInvalid, file("b.yaml", "hidden: 64"): sdk.ErrInvalid,
		file("c.yaml", "{hidden: 64, layers: 1, experts: 2, top_k: 3, intermediate: 32, heads: 4, vocab: 300}"):              sdk.ErrInvalid,
		file("d.yaml", "{hidden: 64, layers: 1, experts: 2, top_k: 1, intermediate: 32, heads: 4, vocab: 257}"):              sdk.ErrInvalid,
		file("e.yaml", "{type: gpt, hidden: 64, layers: 1, experts: 2, top_k: 1, intermediate: 32, heads: 4, vocab: 300}"):   sdk.ErrInvalid,
		file("f.yaml", "{type: olmoe, hidden: 65, layers: 1, experts: 2, top_k: 1, intermediate: 32, heads: 4, vocab: 300}"): sdk.ErrInvalid,
	} {
		if _, _, err := Find(text); !errors.Is(err, class) {
			t.Errorf("%s: %v, want %v", text, err, class)
		}
	}
}

func TestWriteEnds(t *testing.T) {
	_, s, err := Find("tiny")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Write(ctx, t.TempDir(), s, 1, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.Experts = 0
	if err := Write(t.Context(), t.TempDir(), s, 1, nil); !errors.Is(err, sdk.ErrInvalid) {
		t.Error(err)
	}
}
