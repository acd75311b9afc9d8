// Package tokenizer reads the tokenizer.json of a model folder and turns text into ids and ids into text, exactly as
// the Hugging Face tokenizers library does with the same file; it also renders the folder's chat template.
//
// The engine, the HTTP server and the command line use it. It covers byte-level BPE, sentencepiece-style BPE with
// byte fallback and Unigram with the normalizers, pre-tokenizers, post-processors and decoders around them. It refuses
// to guess: a component, an option or a regular expression it does not know is sdk.ErrUnsupported by name, a file that
// contradicts itself is sdk.ErrInvalid. It never trains, never downloads, and never truncates or pads (the truncation
// and padding entries of a tokenizer.json are defaults for batches of training text and have no effect here).
//
// A Tokenizer and a Template are safe for concurrent use; a Decoder belongs to one stream of ids.
package tokenizer

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pimoe/pimoe/sdk"
)

// maxFile bounds a tokenizer.json. The largest in public use (256 k tokens with merges as pairs) has about 35 MB;
// more than 256 MiB is a mistake or an attack.
const maxFile = 256 << 20

// Tokenizer is one folder's tokenizer. Make it with Load or Parse.
type Tokenizer struct {
	added  *addedVocab
	norm   normalizer // nil: text stays as it is
	pre    preTokenizer
	model  model
	post   postProcessor
	dec    chain
	tokens []string // by id; meaningful where known is true
	known  []bool
	ids    map[string]int32

	vars     map[string]string // bos_token, eos_token and so on, for the chat template
	template string            // source of the chat template
	hasChat  bool
}

// model turns one pre-token into ids.
type model interface {
	// encode appends the ids of a non-empty text to out.
	encode(text string, out []int32) []int32
}

// Load reads a model folder: tokenizer.json must be there; tokenizer_config.json, special_tokens_map.json,
// chat_template.jinja and chat_template.json may be.
func Load(dir string) (*Tokenizer, error) {
	b, err := readFile(filepath.Join(dir, "tokenizer.json"), maxFile)
	if err != nil {
		return nil, fmt.Errorf("load tokenizer: %w", err)
	}
	t, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("load tokenizer %s: %w", filepath.Join(dir, "tokenizer.json"), err)
	}
	if err := t.readSettings(dir); err != nil {
		return nil, fmt.Errorf("load tokenizer %s: %w", dir, err)
	}
	return t, nil
}

// Encode turns text into ids. With special, the post-processor adds what the file says it adds (such as a
// beginning-of-text token); special tokens inside the text become their ids either way. Bytes that are not UTF-8
// are read as U+FFFD, by the rule Decode uses.
func (t *Tokenizer) Encode(text string, special bool) []int32 {
	text = lossy(text)
	var ids []int32
	for _, p := range t.added.cut(text, t.norm) {
		if p.id >= 0 {
			ids = append(ids, p.id)
			continue
		}
		pieces := []piece{p}
		if t.pre != nil {
			pieces = t.pre.split(pieces)
		}
		for _, q := range pieces {
			ids = t.model.encode(q.text, ids)
		}
	}
	if t.post != nil {
		ids = t.post.process(ids, special)
	}
	return ids
}

// Decode turns ids into text. Ids that no token has are left out, and with skipSpecial the special tokens too.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	tokens := make([]string, 0, len(ids))
	for _, id := range ids {
		if tok, ok := t.shown(id, skipSpecial); ok {
			tokens = append(tokens, tok)
		}
	}
	return t.dec.text(tokens)
}

// shown is the token of an id as the decoder gets it.
func (t *Tokenizer) shown(id int32, skipSpecial bool) (string, bool) {
	tok, ok := t.Token(id)
	if !ok || skipSpecial && t.added.special[tok] {
		return "", false
	}
	if alias, ok := t.added.shown[id]; ok {
		return alias, true
	}
	return tok, true
}

// Size is the highest id that a token has, plus one. A model's vocabulary may be larger.
func (t *Tokenizer) Size() int { return len(t.tokens) }

// ID is the id of a token, written as the file writes it.
func (t *Tokenizer) ID(token string) (int32, bool) {
	id, ok := t.ids[token]
	return id, ok
}

// Token is the token of an id, as the file writes it.
func (t *Tokenizer) Token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(t.tokens) || !t.known[id] {
		return "", false
	}
	return t.tokens[id], true
}

// IsSpecial reports whether skipping special tokens would leave the id out.
func (t *Tokenizer) IsSpecial(id int32) bool {
	tok, ok := t.Token(id)
	return ok && t.added.special[tok]
}

// BOS is the id of the bos_token that tokenizer_config.json or special_tokens_map.json names. That there is one does
// not mean that Encode adds it.
func (t *Tokenizer) BOS() (int32, bool) {
	tok, ok := t.vars["bos_token"]
	if !ok {
		return 0, false
	}
	return t.ID(tok)
}

// readFile reads a whole file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, fmt.Errorf("%s: %w", path, sdk.ErrNotFound)
		}
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: more than %d bytes: %w", path, limit, sdk.ErrInvalid)
	}
	return b, nil
}
