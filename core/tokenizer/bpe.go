package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/pimoe/pimoe/sdk"
)

// bpe is byte pair encoding: a word starts as its characters and the pair with the lowest rank is merged, from the
// left, until no pair has one.
type bpe struct {
	vocab     map[string]int32
	chars     map[rune]int32 // the tokens of one character
	merges    map[pair]merge
	prefix    string // of every character but the first of a word
	suffix    string // of the last character of a word
	unk       int32  // -1: unknown characters vanish
	fuseUnk   bool   // neighbouring unknown characters become one
	bytes     *[256]int32
	wholeWord bool // ignore_merges: a word that is a token is taken as it is
	cache     wordCache
}

type pair struct{ left, right int32 }

type merge struct{ rank, id int32 }

func parseBPE(f *fields) (model, []word, error) {
	vocab, words := parseVocab(f)
	b := &bpe{vocab: vocab, unk: -1}
	var dropout float64
	if f.into("dropout", &dropout) && dropout != 0 {
		f.fail("dropout %v: %w", dropout, sdk.ErrUnsupported)
	}
	b.prefix = f.str("continuing_subword_prefix", "")
	b.suffix = f.str("end_of_word_suffix", "")
	b.fuseUnk = f.flag("fuse_unk", false)
	b.wholeWord = f.flag("ignore_merges", false)
	if f.flag("byte_fallback", false) {
		b.bytes = byteTokens(vocab)
	}
	if unk := f.str("unk_token", ""); unk != "" {
		id, ok := vocab[unk]
		if !ok {
			f.fail("unk_token %q is not in the vocabulary: %w", unk, sdk.ErrInvalid)
		}
		b.unk = id
	}
	b.readMerges(f)
	if err := f.end(); err != nil {
		return nil, nil, err
	}
	b.chars = make(map[rune]int32)
	for text, id := range vocab {
		if r, n := utf8.DecodeRuneInString(text); n == len(text) && n > 0 {
			b.chars[r] = id
		}
	}
	return b, words, nil
}

// readMerges reads "a b" strings or ["a","b"] pairs.
func (b *bpe) readMerges(f *fields) {
	raw, ok := f.take("merges")
	if !ok {
		f.fail("merges is missing: %w", sdk.ErrInvalid)
		return
	}
	var pairs [][]string
	var lines []string
	if json.Unmarshal(raw, &lines) != nil {
		if err := json.Unmarshal(raw, &pairs); err != nil {
			f.fail("merges: neither strings nor pairs: %w", sdk.ErrInvalid)
			return
		}
		lines = nil
	}
	n := len(lines) + len(pairs)
	b.merges = make(map[pair]merge, n)
	for rank := range n {
		var left, right string
		if lines != nil {
			var ok bool
			if left, right, ok = strings.Cut(lines[rank], " "); !ok || strings.Contains(right, " ") {
				f.fail("merges[%d]: %q is not two tokens: %w", rank, lines[rank], sdk.ErrInvalid)
				return
			}
		} else {
			if len(pairs[rank]) != 2 {
				f.fail("merges[%d]: %d tokens: %w", rank, len(pairs[rank]), sdk.ErrInvalid)
				return
			}
			left, right = pairs[rank][0], pairs[rank][1]
		}
		if err := b.addMerge(int32(rank), left, right); err != nil {
			f.fail("merges[%d]: %w", rank, err)
			return
		}
	}
}

func (b *bpe) addMerge(rank int32, left, right string) error {
	l, okL := b.vocab[left]
	r, okR := b.vocab[right]
	if len(right) < len(b.prefix) {
		okR = false
	}
	if !okL || !okR {
		return fmt.Errorf("%q and %q are not both in the vocabulary: %w", left, right, sdk.ErrInvalid)
	}
	id, ok := b.vocab[left+right[len(b.prefix):]]
	if !ok {
		return fmt.Errorf("the vocabulary lacks %q, of %q and %q: %w", left+right[len(b.prefix):], left, right, sdk.ErrInvalid)
	}
	b.merges[pair{l, r}] = merge{rank, id}
	return nil
}

// byteTokens are the ids of <0x00> to <0xFF>; -1 where there is none.
func byteTokens(vocab map[string]int32) *[256]int32 {
	var t [256]int32
	for i := range t {
		id, ok := vocab[fmt.Sprintf("<0x%02X>", i)]
		if !ok {
			id = -1
		}
		t[i] = id
	}
	return &t
}

// fallback appends the byte tokens of s if all are there.
func fallback(table *[256]int32, s string, add func(int32)) bool {
	if table == nil {
		return false
	}
	for i := 0; i < len(s); i++ {
		if table[s[i]] < 0 {
			return false
		}
	}
	for i := 0; i < len(s); i++ {
		add(table[s[i]])
	}
	return true
}

func (b *bpe) encode(text string, out []int32) []int32 {
	if b.wholeWord {
		if id, ok := b.vocab[text]; ok {
			return append(out, id)
		}
	}
	if ids, ok := b.cache.get(text); ok {
		return append(out, ids...)
	}
	start := len(out)
	w := wordPool.Get().(*symbols)
	w.reset()
	b.characters(text, w)
	w.merge(b.merges)
	for i := int32(0); i < int32(len(w.ids)) && i >= 0; i = w.next[i] {
		out = append(out, w.ids[i])
	}
	wordPool.Put(w)
	b.cache.put(text, out[start:])
	return out
}

// characters is the word before any merge.
func (b *bpe) characters(text string, w *symbols) {
	unknown := false // an unknown character waits for its neighbours
	for i, r := range text {
		n := utf8.RuneLen(r)
		id, ok := b.character(text, i, n, r)
		if ok {
			if unknown {
				w.add(b.unk)
				unknown = false
			}
			w.add(id)
			continue
		}
		if fallback(b.bytes, b.decorated(text, i, n), w.add) {
			continue
		}
		if b.unk >= 0 {
			if unknown && !b.fuseUnk {
				w.add(b.unk)
			}
			unknown = true
		}
	}
	if unknown {
		w.add(b.unk)
	}
}

func (b *bpe) character(text string, i, n int, r rune) (int32, bool) {
	if b.prefix == "" && b.suffix == "" {
		id, ok := b.chars[r]
		return id, ok
	}
	id, ok := b.vocab[b.decorated(text, i, n)]
	return id, ok
}

// decorated is a character as the vocabulary writes it at its place in the word.
func (b *bpe) decorated(text string, i, n int) string {
	s := text[i : i+n]
	if i > 0 {
		s = b.prefix + s
	}
	if i+n == len(text) {
		s += b.suffix
	}
	return s
}

// symbols is a word while it is merged: a list of ids linked in both directions, and the candidate merges as a heap
// ordered by rank, then place.
type symbols struct {
	ids        []int32 // -1: swallowed by the symbol before
	prev, next []int32 // next is len(ids) at the end
	heap       []candidate
}

type candidate struct{ rank, at, id int32 }

func (c candidate) less(d candidate) bool {
	if c.rank != d.rank {
		return c.rank < d.rank
	}
	return c.at < d.at
}

var wordPool = sync.Pool{New: func() any { return new(symbols) }}

func (w *symbols) reset() {
	if cap(w.ids) > 1<<16 { // a giant's memory is not worth keeping
		*w = symbols{}
	}
	w.ids, w.prev, w.next, w.heap = w.ids[:0], w.prev[:0], w.next[:0], w.heap[:0]
}

func (w *symbols) add(id int32) {
	n := int32(len(w.ids))
	w.ids, w.prev, w.next = append(w.ids, id), append(w.prev, n-1), append(w.next, n+1)
}

// merge runs in n log n of the word's length.
func (w *symbols) merge(merges map[pair]merge) {
	end := int32(len(w.ids))
	for i := int32(0); i+1 < end; i++ {
		w.offer(merges, i)
	}
	for len(w.heap) > 0 {
		c := w.pop()
		if w.ids[c.at] < 0 || w.next[c.at] == end {
			continue
		}
		right := w.next[c.at]
		// The pair may have changed since it was offered.
		if m, ok := merges[pair{w.ids[c.at], w.ids[right]}]; !ok || m.id != c.id {
			continue
		}
		w.ids[c.at], w.ids[right] = c.id, -1
		after := w.next[right]
		w.next[c.at] = after
		if after < end {
			w.prev[after] = c.at
			w.offer(merges, c.at)
		}
		if before := w.prev[c.at]; before >= 0 {
			w.offer(merges, before)
		}
	}
}

// offer puts the pair that starts at i on the heap if it has a merge.
func (w *symbols) offer(merges map[pair]merge, i int32) {
	m, ok := merges[pair{w.ids[i], w.ids[w.next[i]]}]
	if !ok {
		return
	}
	w.heap = append(w.heap, candidate{m.rank, i, m.id})
	for k := len(w.heap) - 1; k > 0; {
		parent := (k - 1) / 2
		if !w.heap[k].less(w.heap[parent]) {
			break
		}
		w.heap[k], w.heap[parent] = w.heap[parent], w.heap[k]
		k = parent
	}
}

func (w *symbols) pop() candidate {
	top := w.heap[0]
	last := len(w.heap) - 1
	w.heap[0] = w.heap[last]
	w.heap = w.heap[:last]
	for k := 0; ; {
		child := 2*k + 1
		if child >= last {
			break
		}
		if child+1 < last && w.heap[child+1].less(w.heap[child]) {
			child++
		}
		if !w.heap[child].less(w.heap[k]) {
			break
		}
		w.heap[k], w.heap[child] = w.heap[child], w.heap[k]
		k = child
	}
	return top
}

// The word cache keeps at most two generations of cacheWords words of at most cacheText bytes: a few MiB. Most text
// repeats a few thousand words; long ones rarely come again.
const (
	cacheWords = 8192
	cacheText  = 64
)

// wordCache remembers the ids of recent words. When the young generation is full it becomes the old one.
type wordCache struct {
	mu         sync.RWMutex
	young, old map[string][]int32
}

func (c *wordCache) get(text string) ([]int32, bool) {
	if len(text) > cacheText {
		return nil, false
	}
	c.mu.RLock()
	ids, ok := c.young[text]
	if ok {
		c.mu.RUnlock()
		return ids, true
	}
	ids, ok = c.old[text]
	c.mu.RUnlock()
	if ok {
		c.put(text, ids)
	}
	return ids, ok
}

func (c *wordCache) put(text string, ids []int32) {
	if len(text) > cacheText {
		return
	}
	// Copies: the text is a part of a whole prompt, and ids are the caller's.
	text, ids = strings.Clone(text), append([]int32(nil), ids...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.young) >= cacheWords {
		c.old, c.young = c.young, nil
	}
	if c.young == nil {
		c.young = make(map[string][]int32)
	}
	c.young[text] = ids
}
