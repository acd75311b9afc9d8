package grammar_test

import (
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pimoe/pimoe/core/grammar"
	"github.com/pimoe/pimoe/core/tokenizer"
)

// tiny is the vocabulary of the embedded model.
var tiny = sync.OnceValues(func() (*grammar.Vocabulary, error) {
	dir := filepath.Join("..", "weights", "embedded", "pimoe-tiny")
	t, err := tokenizer.Load(dir)
	if err != nil {
		return nil, err
	}
	return grammar.NewVocabulary(t.Size(), func(id int32) []byte { b, _ := t.Writes(id); return b }, []int32{2, 0}, nil)
})

var texts = sync.OnceValue(func() [][]byte {
	t, err := tokenizer.Load(filepath.Join("..", "weights", "embedded", "pimoe-tiny"))
	if err != nil {
		panic(err)
	}
	out := make([][]byte, t.Size())
	for id := range out {
		out[id], _ = t.Writes(int32(id))
	}
	return out
})

// walk writes a text of at most most tokens, each drawn from what the mask allows. Some draws prefer long tokens, as a
// model does.
func walk(t testing.TB, g *grammar.Grammar, most int, rng *rand.Rand) string {
	t.Helper()
	m := g.Matcher()
	var out []byte
	for left := most; ; left-- {
		if m.Done() {
			return string(out)
		}
		if left == 0 {
			if m.Complete() {
				return string(out)
			}
			t.Fatalf("%d tokens are not enough: %q", most, out)
		}
		bits := m.Mask(left)
		id := draw(bits, rng)
		if id < 0 {
			t.Fatalf("no token may come behind %q with %d left", out, left)
		}
		if !m.Accept(id) {
			t.Fatalf("behind %q the mask allows %d %q, which is not accepted", out, id, texts()[id])
		}
		if id == 0 || id == 2 {
			return string(out)
		}
		out = append(out, texts()[id]...)
	}
}

func draw(bits []uint64, rng *rand.Rand) int32 {
	var ids []int32
	for i, w := range bits {
		for b := range 64 {
			if w>>b&1 != 0 {
				ids = append(ids, int32(i*64+b))
			}
		}
	}
	if len(ids) == 0 {
		return -1
	}
	return ids[rng.IntN(len(ids))]
}
