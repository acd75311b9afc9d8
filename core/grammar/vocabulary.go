package grammar

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/pimoe/pimoe/sdk"
)

// Vocabulary is what the tokens of a model write, as a trie. It is safe for concurrent use.
type Vocabulary struct {
	size    int
	eos     []int32
	bytes   [][]byte // by id; nil = never inside of a form
	lead    []int32  // tokens that write something else at the very beginning of a text
	single  [256]bool
	longest int
	trie    []trieNode
	tokens  []int32 // of all branches, in their order
}

// trieNode is a node of the trie, in the order of depth first.
type trieNode struct {
	b      byte
	depth  int16 // of the first byte: 0
	skip   int32 // the next trieNode that is not below this one
	tokens int32 // Vocabulary.tokens[tokens:end] are written by the bytes up to here
	end    int32
}

// maxToken is the longest token that is used: some vocabularies have runs of spaces that are longer, and nobody misses
// those here.
const maxToken = 256

// NewVocabulary makes the vocabulary of size ids. text says what a token writes in the middle of a text, or nothing for
// tokens that write nothing there or that are special. eos are the ids that end a text. lead are ids that write
// something else at the very beginning.
func NewVocabulary(size int, text func(id int32) []byte, eos, lead []int32) (*Vocabulary, error) {
	v := &Vocabulary{size: size, bytes: make([][]byte, size), lead: lead}
	for _, id := range eos {
		if id >= 0 && int(id) < size {
			v.eos = append(v.eos, id)
		}
	}
	if len(v.eos) == 0 {
		return nil, fmt.Errorf("the vocabulary has no token that ends a text: %w", sdk.ErrUnsupported)
	}
	var ids []int32
	for id := range int32(size) {
		if slices.Contains(v.eos, id) {
			continue
		}
		b := text(id)
		if len(b) == 0 || len(b) > maxToken {
			continue
		}
		v.bytes[id] = b
		v.longest = max(v.longest, len(b))
		if len(b) == 1 {
			v.single[b[0]] = true
		}
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b int32) int {
		return cmp.Or(slices.Compare(v.bytes[a], v.bytes[b]), cmp.Compare(a, b))
	})
	v.build(ids)
	return v, nil
}

// build makes the trie of ids that are sorted by their bytes.
func (v *Vocabulary) build(ids []int32) {
	var path []int32 // branches of the last token
	var last []byte
	closeTo := func(depth int) {
		for len(path) > depth {
			v.trie[path[len(path)-1]].skip = int32(len(v.trie))
			path = path[:len(path)-1]
		}
	}
	for _, id := range ids {
		b := v.bytes[id]
		common := 0
		for common < min(len(b), len(last)) && b[common] == last[common] {
			common++
		}
		closeTo(common)
		for d := common; d < len(b); d++ {
			path = append(path, int32(len(v.trie)))
			v.trie = append(v.trie, trieNode{b: b[d], depth: int16(d), tokens: int32(len(v.tokens)), end: int32(len(v.tokens))})
		}
		v.tokens = append(v.tokens, id)
		v.trie[path[len(path)-1]].end = int32(len(v.tokens))
		last = b
	}
	closeTo(0)
}

// segments is the least number of tokens for the rest of a word from each of its bytes, and 0 for its end.
func (v *Vocabulary) segments(w string) []int32 {
	out := make([]int32, len(w)+1)
	for i := len(w) - 1; i >= 0; i-- {
		out[i] = inf
		v.prefixes(w[i:], func(n int, _ []int32) { out[i] = min(out[i], add(out[i+n], 1)) })
	}
	return out
}

// along calls f for each token that w begins with.
func (v *Vocabulary) along(w string, f func(id int32)) {
	v.prefixes(w, func(_ int, tokens []int32) {
		for _, id := range tokens {
			f(id)
		}
	})
}

// prefixes calls f for the length of each start of w that is a token, and these tokens.
func (v *Vocabulary) prefixes(w string, f func(n int, tokens []int32)) {
	for at, depth := int32(0), 0; int(at) < len(v.trie) && depth < len(w); {
		br := &v.trie[at]
		if int(br.depth) < depth {
			return
		}
		if br.b != w[depth] {
			at = br.skip
			continue
		}
		depth++
		if br.end > br.tokens {
			f(depth, v.tokens[br.tokens:br.end])
		}
		at++
	}
}
