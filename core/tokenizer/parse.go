package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pimoe/pimoe/sdk"
)

// Parse reads the bytes of a tokenizer.json. The result has no chat template and no special token variables; Load
// adds them from the other files of a folder.
func Parse(b []byte) (*Tokenizer, error) {
	if !json.Valid(b) {
		return nil, fmt.Errorf("not JSON: %w", sdk.ErrInvalid)
	}
	f := newFields("tokenizer.json", b)
	f.str("version", "1.0")
	f.take("truncation")
	f.take("padding")
	added := f.list("added_tokens")
	normRaw, hasNorm := f.take("normalizer")
	preRaw, hasPre := f.take("pre_tokenizer")
	postRaw, hasPost := f.take("post_processor")
	decRaw, hasDec := f.take("decoder")
	modelRaw, hasModel := f.take("model")
	if !hasModel {
		f.fail("model is missing: %w", sdk.ErrInvalid)
	}
	if err := f.end(); err != nil {
		return nil, err
	}

	t := &Tokenizer{}
	var err error
	var words []word
	if t.model, words, err = parseModel(modelRaw); err != nil {
		return nil, err
	}
	if hasNorm {
		if t.norm, err = parseNormalizer("normalizer", normRaw, 0); err != nil {
			return nil, err
		}
	}
	tokens, err := parseAdded(added)
	if err != nil {
		return nil, err
	}
	if err := t.index(words, tokens); err != nil {
		return nil, err
	}
	if t.added, err = newAddedVocab(tokens, t.norm); err != nil {
		return nil, err
	}
	if hasPre {
		if t.pre, err = parsePreTokenizer("pre_tokenizer", preRaw, 0); err != nil {
			return nil, err
		}
		if err := checkPieces(t.norm, t.pre); err != nil {
			return nil, err
		}
	}
	if hasPost {
		if t.post, err = parsePost("post_processor", postRaw, t.Token, 0); err != nil {
			return nil, err
		}
	}
	if hasDec {
		if t.dec.stages, err = parseDecoder("decoder", decRaw, 0); err != nil {
			return nil, err
		}
	} else {
		t.dec.join = true
	}
	return t, nil
}

// maxNesting bounds Sequences inside Sequences.
const maxNesting = 16

// kind reads the type of a component.
func kind(path string, raw json.RawMessage, depth int) (*fields, string, error) {
	if depth > maxNesting {
		return nil, "", fmt.Errorf("%s: more than %d levels: %w", path, maxNesting, sdk.ErrInvalid)
	}
	f := newFields(path, raw)
	if f.err != nil {
		return nil, "", f.err
	}
	var typ string
	f.need("type", &typ)
	return f, typ, f.err
}

func unknown(path, typ string) error {
	return fmt.Errorf("%s: type %q: %w", path, typ, sdk.ErrUnsupported)
}

// word is one entry of a model's vocabulary.
type word struct {
	text string
	id   int32
}

// index builds both directions between tokens and ids and refuses contradictions.
func (t *Tokenizer) index(words []word, added []addedToken) error {
	all := slices.Clone(words)
	for _, a := range added {
		all = append(all, word{a.content, a.id})
	}
	if len(all) == 0 {
		return fmt.Errorf("tokenizer.json: no token at all: %w", sdk.ErrInvalid)
	}
	top := int32(0)
	for _, w := range all {
		if w.id < 0 {
			return fmt.Errorf("tokenizer.json: token %q has id %d: %w", w.text, w.id, sdk.ErrInvalid)
		}
		top = max(top, w.id)
	}
	// Real files have a few holes. Four ids per token plus some room is far more, and keeps a small hostile file from
	// asking for a table of two thousand million entries.
	if int64(top) > 4*int64(len(all))+(1<<16) {
		return fmt.Errorf("tokenizer.json: id %d with %d tokens: %w", top, len(all), sdk.ErrInvalid)
	}
	t.tokens, t.known = make([]string, top+1), make([]bool, top+1)
	t.ids = make(map[string]int32, len(all))
	for _, w := range all {
		if t.known[w.id] && t.tokens[w.id] != w.text {
			return fmt.Errorf("tokenizer.json: id %d is both %q and %q: %w", w.id, t.tokens[w.id], w.text, sdk.ErrInvalid)
		}
		if id, ok := t.ids[w.text]; ok && id != w.id {
			return fmt.Errorf("tokenizer.json: token %q has ids %d and %d: %w", w.text, id, w.id, sdk.ErrInvalid)
		}
		t.tokens[w.id], t.known[w.id], t.ids[w.text] = w.text, true, w.id
	}
	return nil
}

func parseModel(raw json.RawMessage) (model, []word, error) {
	f := newFields("model", raw)
	if f.err != nil {
		return nil, nil, f.err
	}
	// The oldest files name no type; then the merges tell BPE.
	typ := ""
	if _, ok := f.raw["merges"]; ok {
		typ = "BPE"
	}
	typ = f.str("type", typ)
	switch typ {
	case "BPE":
		return parseBPE(f)
	case "Unigram":
		return parseUnigram(f)
	}
	return nil, nil, unknown("model", typ)
}

// parseVocab reads a vocabulary written as an object from token to id.
func parseVocab(f *fields) (map[string]int32, []word) {
	vocab := map[string]int32{}
	f.need("vocab", &vocab)
	words := make([]word, 0, len(vocab))
	for text, id := range vocab {
		words = append(words, word{text, id})
	}
	slices.SortFunc(words, func(a, b word) int {
		if a.id != b.id {
			return int(a.id) - int(b.id)
		}
		return strings.Compare(a.text, b.text)
	})
	return vocab, words
}
