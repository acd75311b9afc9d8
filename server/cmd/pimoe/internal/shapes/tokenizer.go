package shapes

// The special tokens are the last ids.
const (
	special = 2
	eosText = "<|endoftext|>"
	padText = "<|pad|>"
)

func (s Shape) eos() int { return s.Vocab - special }

// tokenizer is byte-level BPE whose words are made of letters: the 256 bytes, all pairs of letters, then a space before
// a letter and a pair, then three and four letters, as many as the vocabulary has room for. So a word of four letters
// is about two tokens, as in a trained vocabulary.
func (s Shape) tokenizer() map[string]any {
	vocab := map[string]int{}
	for _, r := range alphabet() {
		vocab[string(r)] = len(vocab)
	}
	merges := []string{}
	add := func(left, right string) {
		if len(vocab) < s.eos() {
			vocab[left+right] = len(vocab)
			merges = append(merges, left+" "+right)
		}
	}
	var letters, pairs []string
	for r := 'a'; r <= 'z'; r++ {
		letters = append(letters, string(r))
	}
	for _, a := range letters {
		for _, b := range letters {
			pairs = append(pairs, a+b)
			add(a, b)
		}
	}
	for _, words := range [][]string{letters, pairs} {
		for _, w := range words {
			add("Ġ", w)
		}
	}
	for _, tails := range [][]string{letters, pairs} {
		for _, p := range pairs {
			for _, t := range tails {
				add(p, t)
			}
		}
	}
	// A vocabulary larger than all these words has ids that no text becomes.
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	token := func(id int, text string) map[string]any {
		return map[string]any{"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
	}
	return map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil, "normalizer": nil, "post_processor": nil,
		"added_tokens":  []any{token(s.eos(), eosText), token(s.eos()+1, padText)},
		"pre_tokenizer": byteLevel, "decoder": byteLevel,
		"model": map[string]any{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": "", "end_of_word_suffix": "",
			"fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges},
	}
}

// alphabet are the characters that stand for the 256 bytes in byte-level BPE (Radford et al. 2019): printable bytes
// stand for themselves, the others for the code points from 256 on.
func alphabet() []rune {
	out := make([]rune, 0, 256)
	next := rune(256)
	for b := range rune(256) {
		r := b
		if b < '!' || b == 0x7f || b >= 0x80 && b <= 0xa0 || b == 0xad {
			r, next = next, next+1
		}
		out = append(out, r)
	}
	return out
}
