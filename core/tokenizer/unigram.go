package tokenizer

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pimoe/pimoe/sdk"
)

// unkPenalty is how far below the lowest score an unknown character lies.
const unkPenalty = 10.0

// unigram finds the cut of a text whose tokens have the highest sum of scores (Kudo 2018, arXiv 1804.10959).
type unigram struct {
	nodes   []unigramNode
	ids     map[string]int32
	scores  []float64
	unk     int32 // -1: none
	low     float64
	fuseUnk bool
	bytes   *[256]int32
}

// unigramNode is a trie over bytes; its children are a sorted list.
type unigramNode struct {
	keys []byte
	next []int32
	id   int32 // of the token that ends here, or -1
}

func parseUnigram(f *fields) (model, []word, error) {
	u := &unigram{nodes: []unigramNode{{id: -1}}, ids: map[string]int32{}, unk: -1, low: math.Inf(1)}
	var vocab []json.RawMessage
	f.need("vocab", &vocab)
	f.into("unk_id", &u.unk)
	u.fuseUnk = f.flag("fuse_unk", true)
	useBytes := f.flag("byte_fallback", false)
	words := make([]word, 0, len(vocab))
	for i, raw := range vocab {
		var entry []json.RawMessage
		var text string
		if json.Unmarshal(raw, &entry) != nil || len(entry) != 2 || json.Unmarshal(entry[0], &text) != nil || !isNumber(entry[1]) {
			f.fail("vocab[%d] is not [token, score]: %w", i, sdk.ErrInvalid)
			break
		}
		if _, ok := u.ids[text]; ok || text == "" {
			f.fail("vocab[%d]: %q is empty or there twice: %w", i, text, sdk.ErrInvalid)
			break
		}
		score := scoreOf(string(entry[1]))
		u.ids[text] = int32(i)
		u.scores = append(u.scores, score)
		u.low = min(u.low, score)
		u.insert(text, int32(i))
		words = append(words, word{text, int32(i)})
	}
	if u.unk < -1 || int(u.unk) >= len(vocab) {
		f.fail("unk_id %d with %d tokens: %w", u.unk, len(vocab), sdk.ErrInvalid)
	}
	if u.unk < 0 {
		f.fail("no unk_id: %w", sdk.ErrUnsupported)
	}
	if useBytes {
		u.bytes = byteTokens(u.ids)
	}
	return u, words, f.end()
}

func isNumber(raw json.RawMessage) bool {
	var f float64
	return json.Unmarshal(raw, &f) == nil && !isNull(raw)
}

// scoreOf reads a JSON number the way the reference does: digits as an integer, then one division by a power of ten. The
// result can be one unit in the last place beside the nearest float64, and that decides between cuts of equal sum.
func scoreOf(s string) float64 {
	s, negative := strings.CutPrefix(strings.TrimSpace(s), "-")
	var digits uint64
	exp, full, fraction := 0, false, false
	i := 0
	for ; i < len(s) && s[i] != 'e' && s[i] != 'E'; i++ {
		if s[i] == '.' {
			fraction = true
			continue
		}
		d := uint64(s[i] - '0')
		full = full || digits > (math.MaxUint64-d)/10
		if !full {
			digits = digits*10 + d
		}
		if fraction != full { // a digit behind the point that counts, or one before it that does not
			if fraction {
				exp--
			} else {
				exp++
			}
		}
	}
	if i < len(s) {
		n, err := strconv.Atoi(s[i+1:])
		if err != nil {
			n = 0 // json has checked the syntax: beyond int, where the score is 0 or infinite anyway
		}
		exp += n
	}
	f := float64(digits)
	for ; exp < -308 && f != 0; exp += 308 {
		f /= 1e308
	}
	if exp < 0 {
		f /= math.Pow10(-exp)
	} else {
		f *= math.Pow10(exp)
	}
	if negative {
		return -f
	}
	return f
}

func (u *unigram) insert(text string, id int32) {
	at := int32(0)
	for i := 0; i < len(text); i++ {
		k, ok := slices.BinarySearch(u.nodes[at].keys, text[i])
		if !ok {
			n := int32(len(u.nodes))
			u.nodes = append(u.nodes, unigramNode{id: -1})
			node := &u.nodes[at]
			node.keys = slices.Insert(node.keys, k, text[i])
			node.next = slices.Insert(node.next, k, n)
		}
		at = u.nodes[at].next[k]
	}
	u.nodes[at].id = id
}

// best is the best way to reach a place of the text.
type best struct {
	score float64
	start int32 // of the last token; -1: not reached
	id    int32
}

func (u *unigram) encode(text string, out []int32) []int32 {
	ends := make([]best, len(text)+1)
	for i := range ends {
		ends[i].start = -1
	}
	reach := func(from, to int, score float64, id int32) {
		if score += ends[from].score; ends[to].start < 0 || score > ends[to].score {
			ends[to] = best{score, int32(from), id}
		}
	}
	for at := 0; at < len(text); {
		_, size := utf8.DecodeRuneInString(text[at:])
		single := false // a token covers this character alone
		node := int32(0)
		for i := at; i < len(text); i++ {
			k, ok := slices.BinarySearch(u.nodes[node].keys, text[i])
			if !ok {
				break
			}
			node = u.nodes[node].next[k]
			if id := u.nodes[node].id; id >= 0 {
				reach(at, i+1, u.scores[id], id)
				single = single || i+1-at == size
			}
		}
		if !single {
			reach(at, at+size, u.low-unkPenalty, u.unk)
		}
		at += size
	}
	return u.path(text, ends, out)
}

// path walks back from the end and writes the tokens in order.
func (u *unigram) path(text string, ends []best, out []int32) []int32 {
	var cuts []span // match: unknown
	for end := len(text); end > 0; {
		b := ends[end]
		s := span{int(b.start), end, b.id == u.unk}
		if n := len(cuts); u.fuseUnk && s.match && n > 0 && cuts[n-1].match {
			cuts[n-1].start = s.start
		} else {
			cuts = append(cuts, s)
		}
		end = int(b.start)
	}
	for _, s := range slices.Backward(cuts) {
		if id, ok := u.ids[text[s.start:s.end]]; ok {
			out = append(out, id)
			continue
		}
		if !fallback(u.bytes, text[s.start:s.end], func(id int32) { out = append(out, id) }) {
			out = append(out, u.unk)
		}
	}
	return out
}
