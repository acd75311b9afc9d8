package tokenizer

import (
	"errors"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/sdk"
)

// FuzzLoad: bytes that claim to be a tokenizer.json make a tokenizer that works or an error of a class, never a panic.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}`))
	f.Add([]byte(`{"added_tokens":[{"id":3,"content":"<s>","special":true,"lstrip":true,"rstrip":true}],"normalizer":{"type":"NFKC"},
		"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(?i:[a-z]+)|\\s++"},"behavior":"MergedWithNext","invert":true},
		"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<s>":{"id":"<s>","ids":[3],"tokens":["<s>"]}}},
		"decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":1}]},
		"model":{"type":"BPE","unk_token":"a","fuse_unk":true,"byte_fallback":true,"vocab":{"a":0,"b":1,"ab":2,"<0x41>":4},"merges":[["a","b"]]}}`))
	f.Add([]byte(`{"pre_tokenizer":{"type":"Metaspace","prepend_scheme":"first"},"decoder":{"type":"Metaspace"},"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["a",-1.5],["\u2581a",-2e3]]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := Parse(b)
		if err != nil {
			if !errors.Is(err, sdk.ErrInvalid) && !errors.Is(err, sdk.ErrUnsupported) {
				t.Errorf("%v is of no class", err)
			}
			return
		}
		if strings.Contains(string(b), "Regex") {
			return // an expression may be slow; its time is bounded, the fuzzer's patience is not
		}
		for _, text := range []string{"", "a ab <s> b\n", "\u4f60 \xff\u0301"} {
			for _, id := range tok.Encode(text, true) {
				if _, ok := tok.Token(id); !ok {
					t.Errorf("no token has id %d", id)
				}
			}
		}
		ids := []int32{0, 1, 2, 3, 4, -1, 1 << 30}
		if text := tok.Decode(ids, false); !utf8.ValidString(text) {
			t.Errorf("text %q", text)
		}
		pieces(tok, ids, true)
	})
}

// FuzzEncodeDecode: a byte-level tokenizer without a normalizer gives every text back, whole and in pieces, and no
// piece holds half a character.
func FuzzEncodeDecode(f *testing.F) {
	for _, s := range []string{"", "Hello, world!", " \u4f60\u597d\n\n\t 1234 <|eot_id|> '\u017f", "\U0001f469\u200d\U0001f4bb e\u0301 \ufffd", "<|im_start|>user\n"} {
		f.Add(s)
	}
	var toks []*Tokenizer
	for _, name := range []string{"llama3", "o200k", "starcoder", "deepseek"} {
		toks = append(toks, load(f, coretest.Golden(f, "tokenizers", name)))
	}
	f.Fuzz(func(t *testing.T, text string) {
		text = lossy(text)
		for i, tok := range toks {
			ids := tok.Encode(text, false)
			if got := tok.Decode(ids, false); got != text {
				t.Errorf("tokenizer %d: got %q, want %q", i, got, text)
			}
			all := pieces(tok, ids, false)
			if got := strings.Join(all, ""); got != text {
				t.Errorf("tokenizer %d: streamed %q, want %q", i, got, text)
			}
			for _, p := range all {
				if !utf8.ValidString(p) {
					t.Errorf("tokenizer %d: piece %q", i, p)
				}
			}
		}
	})
}

// FuzzIDs: whatever ids come, in whatever order, the pieces are the text, but where byte tokens were already given out.
func FuzzIDs(f *testing.F) {
	f.Add([]byte{1, 2, 3, 200, 255, 0})
	var toks []*Tokenizer
	var runs []bool
	for _, name := range []string{"qwen", "neox", "unigram", "llama2"} {
		b, err := os.ReadFile(coretest.Golden(f, "tokenizers", name, "tokenizer.json"))
		if err != nil {
			f.Fatal(err)
		}
		toks, runs = append(toks, load(f, coretest.Golden(f, "tokenizers", name))), append(runs, strings.Contains(string(b), `"ByteFallback"`))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for i, tok := range toks {
			var ids []int32
			for k := 0; k+1 < len(b); k += 2 {
				ids = append(ids, (int32(b[k])<<8|int32(b[k+1]))%int32(tok.Size()+2))
			}
			got, want := strings.Join(pieces(tok, ids, false), ""), tok.Decode(ids, false)
			if got != want && !runs[i] {
				t.Errorf("tokenizer %d: streamed %q, want %q", i, got, want)
			}
			if !utf8.ValidString(got) {
				t.Errorf("tokenizer %d: text %q", i, got)
			}
		}
	})
}
