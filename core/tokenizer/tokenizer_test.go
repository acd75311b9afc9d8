package tokenizer

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/sdk"
)

const smallModel = `{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}`

// TestParseRefuses: what is wrong or unknown is named, with its place.
func TestParseRefuses(t *testing.T) {
	with := func(rest string) string { return `{"model":` + smallModel + `,` + rest + `}` }
	for name, c := range map[string]struct {
		file  string
		class error
		want  string
	}{
		"nothing":              {``, sdk.ErrInvalid, "not JSON"},
		"cut off":              {`{"model":`, sdk.ErrInvalid, "not JSON"},
		"a list":               {`[]`, sdk.ErrInvalid, "not an object"},
		"null":                 {`null`, sdk.ErrInvalid, "null"},
		"no model":             {`{}`, sdk.ErrInvalid, "model is missing"},
		"unknown key":          {with(`"extra":1`), sdk.ErrUnsupported, "unknown option extra"},
		"WordPiece":            {`{"model":{"type":"WordPiece","vocab":{}}}`, sdk.ErrUnsupported, `type "WordPiece"`},
		"no type":              {`{"model":{"vocab":{}}}`, sdk.ErrUnsupported, `type ""`},
		"model option":         {`{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"new_option":1}}`, sdk.ErrUnsupported, "model: unknown option new_option"},
		"dropout":              {`{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"dropout":0.1}}`, sdk.ErrUnsupported, "dropout 0.1"},
		"no merges":            {`{"model":{"type":"BPE","vocab":{"a":0}}}`, sdk.ErrInvalid, "merges is missing"},
		"merge of three":       {`{"model":{"type":"BPE","vocab":{"a":0},"merges":["a a a"]}}`, sdk.ErrInvalid, "merges[0]"},
		"merge of one":         {`{"model":{"type":"BPE","vocab":{"a":0},"merges":[["a"]]}}`, sdk.ErrInvalid, "merges[0]"},
		"merge of strangers":   {`{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}`, sdk.ErrInvalid, `"a" and "b" are not both`},
		"merge to a stranger":  {`{"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]}}`, sdk.ErrInvalid, `lacks "ab"`},
		"empty vocabulary":     {`{"model":{"type":"BPE","vocab":{},"merges":[]}}`, sdk.ErrInvalid, "no token at all"},
		"huge id":              {`{"model":{"type":"BPE","vocab":{"a":2000000000},"merges":[]}}`, sdk.ErrInvalid, "id 2000000000"},
		"negative id":          {`{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}`, sdk.ErrInvalid, "id -1"},
		"id beyond 32 bits":    {`{"model":{"type":"BPE","vocab":{"a":5000000000},"merges":[]}}`, sdk.ErrInvalid, "vocab"},
		"id twice":             {`{"model":{"type":"BPE","vocab":{"a":0,"b":0},"merges":[]}}`, sdk.ErrInvalid, "id 0 is both"},
		"unk token":            {`{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"unk_token":"<unk>"}}`, sdk.ErrInvalid, `"<unk>" is not in the vocabulary`},
		"unigram entry":        {`{"model":{"type":"Unigram","unk_id":0,"vocab":[["a"]]}}`, sdk.ErrInvalid, "vocab[0]"},
		"unigram twice":        {`{"model":{"type":"Unigram","unk_id":0,"vocab":[["a",0],["a",1]]}}`, sdk.ErrInvalid, "vocab[1]"},
		"unigram without unk":  {`{"model":{"type":"Unigram","vocab":[["a",0]]}}`, sdk.ErrUnsupported, "unk_id"},
		"unigram unk too high": {`{"model":{"type":"Unigram","unk_id":9,"vocab":[["a",0]]}}`, sdk.ErrInvalid, "unk_id 9"},
		"added clash":          {with(`"added_tokens":[{"id":1,"content":"x"}]`), sdk.ErrInvalid, "id 1 is both"},
		"added elsewhere":      {with(`"added_tokens":[{"id":7,"content":"ab"}]`), sdk.ErrInvalid, "has ids"},
		"added empty":          {with(`"added_tokens":[{"id":7,"content":""}]`), sdk.ErrInvalid, "added_tokens[0]"},
		"added option":         {with(`"added_tokens":[{"id":7,"content":"x","glow":true}]`), sdk.ErrUnsupported, "glow"},
		"added normalized off": {with(`"normalizer":{"type":"Strip"},"added_tokens":[{"id":7,"content":" ","normalized":true}]`), sdk.ErrUnsupported, "leaves nothing"},
		"normalizer":           {with(`"normalizer":{"type":"Precompiled","precompiled_charsmap":""}`), sdk.ErrUnsupported, `normalizer: type "Precompiled"`},
		"normalizer inside":    {with(`"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Nmt"}]}`), sdk.ErrUnsupported, `normalizer.normalizers[1]: type "Nmt"`},
		"pre-tokenizer":        {with(`"pre_tokenizer":{"type":"UnicodeScripts"}`), sdk.ErrUnsupported, `pre_tokenizer: type "UnicodeScripts"`},
		"behavior":             {with(`"pre_tokenizer":{"type":"Split","pattern":{"String":"a"},"behavior":"Odd","invert":false}`), sdk.ErrUnsupported, `"Odd"`},
		"no pattern":           {with(`"pre_tokenizer":{"type":"Split","behavior":"Isolated","invert":false}`), sdk.ErrInvalid, "pattern is missing"},
		"named group":          {with(`"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(?<n>a)"},"behavior":"Isolated"}`), sdk.ErrUnsupported, "named group"},
		"property":             {with(`"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\p{Nope}"},"behavior":"Isolated"}`), sdk.ErrUnsupported, "Nope"},
		"back reference":       {with(`"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a)\\1"},"behavior":"Isolated"}`), sdk.ErrUnsupported, `\1`},
		"folding pair":         {with(`"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(?i:ss)"},"behavior":"Isolated"}`), sdk.ErrUnsupported, "fold"},
		"unbalanced":           {with(`"pre_tokenizer":{"type":"Split","pattern":{"Regex":"a)"},"behavior":"Isolated"}`), sdk.ErrUnsupported, "unbalanced"},
		"metaspace sign":       {with(`"pre_tokenizer":{"type":"Metaspace","replacement":"__"}`), sdk.ErrInvalid, "one character"},
		"lost start":           {with(`"normalizer":{"type":"Strip"},"pre_tokenizer":{"type":"Metaspace","prepend_scheme":"first"}`), sdk.ErrUnsupported, "Metaspace"},
		"decoder":              {with(`"decoder":{"type":"CTC"}`), sdk.ErrUnsupported, `decoder: type "CTC"`},
		"decoder strip":        {with(`"decoder":{"type":"Strip","content":" ","start":-1,"stop":0}`), sdk.ErrInvalid, "start -1"},
		"post-processor":       {with(`"post_processor":{"type":"Odd"}`), sdk.ErrUnsupported, `post_processor: type "Odd"`},
		"template token":       {with(`"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}},{"Sequence":{"id":"A","type_id":0}}]}`), sdk.ErrInvalid, `"x" is not in special_tokens`},
		"template id":          {with(`"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"x":{"id":"x","ids":[99],"tokens":["x"]}}}`), sdk.ErrInvalid, "no token has id 99"},
		"template twice":       {with(`"post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"A","type_id":0}}]}`), sdk.ErrUnsupported, "2 times"},
		"deep":                 {with(`"pre_tokenizer":` + strings.Repeat(`{"type":"Sequence","pretokenizers":[`, 50) + strings.Repeat(`]}`, 50)), sdk.ErrInvalid, "levels"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.file))
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %v: %q", err, c.class, c.want)
			}
		})
	}
}

// TestLoadSettings: which file says what, and who wins.
func TestLoadSettings(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	chat := func() string {
		t.Helper()
		p, err := load(t, dir).Chat()
		if err != nil {
			t.Fatal(err)
		}
		text, err := p.Render(context.Background(), ChatInput{Messages: json.RawMessage(`[]`)})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if _, err := Load(dir); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("empty folder: %v", err)
	}
	put("tokenizer.json", `{"model":`+smallModel+`,"added_tokens":[{"id":3,"content":"<s>","special":true},{"id":9,"content":"<t>"}]}`)
	tok := load(t, dir)
	if _, err := tok.Chat(); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("no template: %v", err)
	}
	if _, ok := tok.BOS(); ok {
		t.Error("a BOS out of nowhere")
	}
	put("special_tokens_map.json", `{"bos_token":{"content":"<s>","lstrip":false},"eos_token":"</s>"}`)
	put("tokenizer_config.json", `{"eos_token":"<t>","chat_template":[{"name":"tool_use","template":"no"},{"name":"default","template":"{{ bos_token }}1{{ eos_token }}"}]}`)
	tok = load(t, dir)
	if id, ok := tok.BOS(); !ok || id != 3 {
		t.Errorf("BOS %d, %v", id, ok)
	}
	if got := chat(); got != "<s>1<t>" {
		t.Errorf("chat %q", got)
	}
	put("chat_template.json", `{"chat_template":"2"}`)
	if got := chat(); got != "2" {
		t.Errorf("chat %q", got)
	}
	put("chat_template.jinja", "3")
	if got := chat(); got != "3" {
		t.Errorf("chat %q", got)
	}
	if tok.Size() != 10 || !tok.IsSpecial(3) || tok.IsSpecial(9) || tok.IsSpecial(5) || tok.IsSpecial(-1) {
		t.Errorf("size %d", tok.Size())
	}
	if _, ok := tok.Token(5); ok {
		t.Error("a token in a hole")
	}
	if id, ok := tok.ID("ab"); !ok || id != 2 {
		t.Errorf("id %d", id)
	}
	put("tokenizer_config.json", `{"bos_token":5}`)
	if _, err := Load(dir); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), "bos_token") {
		t.Errorf("bad bos_token: %v", err)
	}
	put("tokenizer_config.json", `[`)
	if _, err := Load(dir); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("bad tokenizer_config.json: %v", err)
	}
}

// TestChatInput: what a client may send.
func TestChatInput(t *testing.T) {
	p, err := ParseTemplate("{{ messages | tojson }}{{ tools | tojson }}{{ add_generation_prompt }}{{ bos_token }}{{ x }}", map[string]string{"bos_token": "<s>"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Render(context.Background(), ChatInput{
		Messages: json.RawMessage(`[{"z":null,"role":"user","b":{"y":null,"a":1.0,"c":12345678901234567890}}]`), Tools: json.RawMessage(`[{"b":1,"a":2}]`),
		AddGenerationPrompt: true, Kwargs: json.RawMessage(`{"x":"\u00e9<","bos_token":"[B]"}`),
	})
	want := `[{"role": "user", "b": {"y": null, "a": 1.0, "c": 12345678901234567890}}][{"b": 1, "a": 2}]True[B]` + "\u00e9<"
	if err != nil || got != want {
		t.Errorf("got %q, %v\nwant %q", got, err, want)
	}
	for _, in := range []ChatInput{
		{}, {Messages: json.RawMessage(`null`)}, {Messages: json.RawMessage(`{}`)}, {Messages: json.RawMessage(`[1]`)}, {Messages: json.RawMessage(`[`)},
		{Messages: json.RawMessage(`[] x`)}, {Messages: json.RawMessage(strings.Repeat("[", 100000))},
		{Messages: json.RawMessage(`[]`), Tools: json.RawMessage(`{}`)}, {Messages: json.RawMessage(`[]`), Kwargs: json.RawMessage(`[]`)},
		{Messages: json.RawMessage(`[]`), Kwargs: json.RawMessage(`{"messages":[]}`)},
	} {
		if got, err := p.Render(context.Background(), in); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%.60s: got %q, %v", in.Messages, got, err)
		}
	}
}

// TestMergesEqualTheDefinition compares the heap with the plain rule: merge the lowest rank, leftmost first.
func TestMergesEqualTheDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		b := &bpe{vocab: map[string]int32{}, merges: map[pair]merge{}, chars: map[rune]int32{}}
		words := []string{"a", "b", "c", "d"}
		for i, w := range words {
			b.vocab[w], b.chars[rune(w[0])] = int32(i), int32(i)
		}
		for rank := int32(0); rank < 12; rank++ {
			left, right := words[r.IntN(len(words))], words[r.IntN(len(words))]
			if _, ok := b.vocab[left+right]; !ok {
				b.vocab[left+right] = int32(len(words))
				words = append(words, left+right)
			}
			if _, ok := b.merges[pair{b.vocab[left], b.vocab[right]}]; !ok {
				if err := b.addMerge(rank, left, right); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 50 {
			text := ""
			for range 1 + r.IntN(30) {
				text += words[r.IntN(4)]
			}
			var want []int32
			for _, c := range text {
				want = append(want, b.chars[c])
			}
			for {
				at, best := -1, merge{rank: 1 << 30}
				for i := 0; i+1 < len(want); i++ {
					if m, ok := b.merges[pair{want[i], want[i+1]}]; ok && m.rank < best.rank {
						at, best = i, m
					}
				}
				if at < 0 {
					break
				}
				want = slices.Replace(want, at, at+2, best.id)
			}
			if got := b.encode(text, nil); !slices.Equal(got, want) {
				t.Fatalf("%q: got %v, want %v", text, got, want)
			}
		}
	}
}

// TestLongWords: a word of millions of characters is no attack. Quadratic merging would take hours here.
func TestLongWords(t *testing.T) {
	for _, name := range []string{"qwen", "llama2", "unigram", "deepseek"} {
		tok := load(t, coretest.Golden(t, "tokenizers", name))
		for _, unit := range []string{"a", "the", " ", "\n", "\u4f60", "1", "'s", "!", "e\u0301", "\u0301"} {
			text := strings.Repeat(unit, 200_000/len(unit))
			begin := time.Now()
			ids := tok.Encode(text, false)
			if len(ids) == 0 || time.Since(begin) > time.Minute {
				t.Errorf("%s: %q: %d ids in %v", name, unit, len(ids), time.Since(begin))
			}
		}
	}
}

// TestConcurrentUse shares one tokenizer between goroutines; the race detector watches.
func TestConcurrentUse(t *testing.T) {
	tok := load(t, coretest.Golden(t, "tokenizers", "qwen"))
	var g goldenTokenizer
	coretest.ReadJSON(t, coretest.Golden(t, "tokenizers", "qwen", "golden.json"), &g)
	var wg sync.WaitGroup
	defer wg.Wait()
	for range 4 {
		wg.Go(func() {
			for i, c := range g.Cases {
				if got := tok.Encode(*c.Text, false); !slices.Equal(got, c.IDs) {
					t.Errorf("case %d: %v", i, got)
				}
				if got := strings.Join(pieces(tok, c.IDs, false), ""); got != c.Decode {
					t.Errorf("case %d: %q", i, got)
				}
			}
		})
	}
}

// TestWordCacheIsBounded: the cache forgets.
func TestWordCacheIsBounded(t *testing.T) {
	var c wordCache
	for i := range 5 * cacheWords {
		c.put(strings.Repeat("x", i%50)+string(rune(0x4e00+i)), []int32{int32(i)})
	}
	if n := len(c.young) + len(c.old); n > 2*cacheWords {
		t.Errorf("%d words", n)
	}
	c.put(strings.Repeat("x", cacheText+1), nil)
	if _, ok := c.get(strings.Repeat("x", cacheText+1)); ok {
		t.Error("a long word was kept")
	}
}

// TestInvalidText: bytes that are not UTF-8 count as U+FFFD by Unicode's rule, in and out.
func TestInvalidText(t *testing.T) {
	for in, want := range map[string]string{
		"a\xe4\xbdb": "a\ufffdb", "\xff\xfe": "\ufffd\ufffd", "\xf0\x9f\x98": "\ufffd", "\xed\xa0\x80": "\ufffd\ufffd\ufffd", "\xc0\x80": "\ufffd\ufffd",
		"\xe4\xe4\xbd\xa0": "\ufffd\u4f60", "\xf4\x90\x80\x80": "\ufffd\ufffd\ufffd\ufffd", "ok": "ok", "\xf0\x9f\xff\x98": "\ufffd\ufffd\ufffd",
	} {
		if got := lossy(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	tok := load(t, coretest.Golden(t, "tokenizers", "llama3"))
	if got := tok.Decode(tok.Encode("a\xe4\xbdb", false), false); got != "a\ufffdb" {
		t.Errorf("got %q", got)
	}
}

// TestStreamNeverGivesHalfACharacter, and never more than what Decode would.
func TestStreamNeverGivesHalfACharacter(t *testing.T) {
	for _, name := range subfolders(t, "tokenizers") {
		tok := load(t, coretest.Golden(t, "tokenizers", name))
		d := tok.Stream(false)
		text := "\U0001f469\u200d\U0001f4bb \u4f60\u597d caf\u00e9 \u0939\u093f\u0928\u094d\u0926\u0940 \U00020bb7"
		for round := range 2 { // Flush makes the Decoder as new
			ids, so := tok.Encode(text, false), ""
			for i, id := range ids {
				p := d.Push(id)
				so += p
				if !utf8.ValidString(p) || !strings.HasPrefix(tok.Decode(ids, false), so) {
					t.Errorf("%s round %d: id %d gave %q", name, round, i, p)
				}
			}
			if so += d.Flush(); so != tok.Decode(ids, false) {
				t.Errorf("%s round %d: %q", name, round, so)
			}
		}
	}
}

// TestByteRunTurnsBad: byte tokens that were valid and given out, and then go on badly, are not taken back.
func TestByteRunTurnsBad(t *testing.T) {
	tok := load(t, coretest.Golden(t, "tokenizers", "llama2"))
	var ids []int32
	for _, b := range []string{"<0x41>", "<0xE4>", "<0xBD>", "<0xA0>", "<0xFF>", "\u2581the"} {
		id, ok := tok.ID(b)
		if !ok {
			t.Fatalf("no token %s", b)
		}
		ids = append(ids, id)
	}
	if got, want := pieces(tok, ids, false), []string{"A", "", "", "\u4f60", "", "\ufffd the", ""}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := tok.Decode(ids, false), strings.Repeat("\ufffd", 5)+" the"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestNormalFormsOfLongRuns: runs of marks that the library would break up equal the definition; short ones the library.
func TestNormalFormsOfLongRuns(t *testing.T) {
	long := "a" + strings.Repeat("\u0323\u0301", 40)
	if got := unicodeForm(norm.NFC).apply(long); strings.Contains(got, "\u034f") || !strings.HasPrefix(got, "\u1ea1\u0323") || utf8.RuneCountInString(got) != 80 {
		t.Errorf("NFC of a long run: %+q", got)
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 20000 {
		text := oddText(r) + string(rune(0x300+r.IntN(0x70))) + string(rune(0xac00+r.IntN(11172))) + "\u1100\u1161\u11a8\u0344\u0958\ufb2c\u2126"
		for _, f := range []norm.Form{norm.NFC, norm.NFD, norm.NFKC, norm.NFKD} {
			if got, want := unicodeForm(f).slow(text), f.String(text); got != want {
				t.Fatalf("form %d of %+q: got %+q, want %+q", f, text, got, want)
			}
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	prose := strings.Repeat("The quick brown fox jumps over 13 lazy dogs; it's 4:30 pm, and \u4f60\u597d means hello. func main() { return }\n", 400)
	for _, name := range []string{"qwen", "o200k", "deepseek", "llama2", "unigram"} {
		tok := load(b, coretest.Golden(b, "tokenizers", name))
		for kind, text := range map[string]string{"prose": prose, "one-word": strings.Repeat("ab", len(prose)/2)} {
			b.Run(name+"/"+kind, func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					tok.Encode(text, false)
				}
			})
		}
	}
}

func BenchmarkStream(b *testing.B) {
	for _, name := range []string{"qwen", "llama2"} {
		tok := load(b, coretest.Golden(b, "tokenizers", name))
		ids := tok.Encode(strings.Repeat("The quick brown fox, \u4f60\u597d. ", 100), false)
		d := tok.Stream(false)
		b.Run(name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				d.Push(ids[i%len(ids)])
			}
		})
	}
}
