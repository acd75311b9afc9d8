package tokenizer

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
)

// goldenCase is a text or a list of ids with what the reference library makes of it.
type goldenCase struct {
	Text              *string `json:"text"`
	IDs               []int32 `json:"ids"`
	IDsSpecial        []int32 `json:"ids_special"`
	Decode            string  `json:"decode"`
	DecodeSkip        string  `json:"decode_skip"`
	DecodeSpecial     string  `json:"decode_special"`
	DecodeSpecialSkip string  `json:"decode_special_skip"`

	RawStream     *[]string `json:"stream"`
	RawStreamSkip *[]string `json:"stream_skip"`
}

type goldenTokenizer struct {
	VocabSize int          `json:"vocab_size"`
	Cases     []goldenCase `json:"cases"`
	IDCases   []goldenCase `json:"id_cases"`
}

// subfolders lists the folders of a golden folder.
func subfolders(t testing.TB, elem ...string) []string {
	t.Helper()
	entries, err := os.ReadDir(coretest.Golden(t, elem...))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		t.Fatal("no golden folders")
	}
	return names
}

func load(t testing.TB, dir string) *Tokenizer {
	t.Helper()
	tok, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestGoldenTokenizers(t *testing.T) {
	for _, name := range subfolders(t, "tokenizers") {
		t.Run(name, func(t *testing.T) {
			tok := load(t, coretest.Golden(t, "tokenizers", name))
			var g goldenTokenizer
			coretest.ReadJSON(t, coretest.Golden(t, "tokenizers", name, "golden.json"), &g)
			if tok.Size() != g.VocabSize {
				t.Errorf("size %d, want %d", tok.Size(), g.VocabSize)
			}
			checks, streams := 0, 0
			for i, c := range g.Cases {
				equalIDs(t, "ids", i, tok.Encode(*c.Text, false), c.IDs)
				equalIDs(t, "ids_special", i, tok.Encode(*c.Text, true), c.IDsSpecial)
				equalText(t, "decode_special", i, tok.Decode(c.IDsSpecial, false), c.DecodeSpecial)
				equalText(t, "decode_special_skip", i, tok.Decode(c.IDsSpecial, true), c.DecodeSpecialSkip)
				checks += 4
			}
			for i, c := range append(g.Cases, g.IDCases...) {
				equalText(t, "decode", i, tok.Decode(c.IDs, false), c.Decode)
				equalText(t, "decode_skip", i, tok.Decode(c.IDs, true), c.DecodeSkip)
				checks += 2
				for _, skip := range []bool{false, true} {
					want := c.RawStream
					if skip {
						want = c.RawStreamSkip
					}
					if want == nil {
						continue
					}
					got := pieces(tok, c.IDs, skip)
					if !slices.Equal(got, *want) {
						t.Errorf("case %d: stream (skip %v)\n got %q\nwant %q", i, skip, got, *want)
					}
					streams++
				}
			}
			if len(g.Cases) < 200 || len(g.IDCases) < 20 || streams < 400 {
				t.Errorf("only %d cases, %d id cases, %d streams", len(g.Cases), len(g.IDCases), streams)
			}
			t.Logf("%d texts, %d id lists: %d encodings and decodings, %d streams", len(g.Cases), len(g.IDCases), checks, streams)
		})
	}
}

// pieces is what a Decoder gives out after each id, and at last.
func pieces(tok *Tokenizer, ids []int32, skip bool) []string {
	d := tok.Stream(skip)
	var out []string
	for _, id := range ids {
		out = append(out, d.Push(id))
	}
	return append(out, d.Flush())
}

func equalIDs(t *testing.T, what string, i int, got, want []int32) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("case %d: %s\n got %v\nwant %v", i, what, got, want)
	}
}

func equalText(t *testing.T, what string, i int, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("case %d: %s\n got %q\nwant %q", i, what, got, want)
	}
}

// TestGoldenModels encodes the text of each golden model with the tokenizer in its own folder.
func TestGoldenModels(t *testing.T) {
	names := subfolders(t, "models")
	for _, name := range names {
		dir := coretest.Golden(t, "models", name)
		var g struct {
			Sequences []struct {
				Length int
				Text   *string
			}
		}
		coretest.ReadJSON(t, filepath.Join(dir, "golden.json"), &g)
		tok := load(t, dir)
		texts := 0
		for _, s := range g.Sequences {
			if s.Text == nil {
				continue
			}
			want := readInt32(t, filepath.Join(dir, "golden.safetensors"), fmt.Sprintf("seq%d.input_ids", s.Length))
			equalIDs(t, name, s.Length, tok.Encode(*s.Text, true), want)
			texts++
		}
		if texts != 1 {
			t.Errorf("%s: %d texts", name, texts)
		}
	}
	t.Logf("%d models", len(names))
}

// readInt32 reads one int32 tensor of a safetensors file.
func readInt32(t *testing.T, path, name string) []int32 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := binary.LittleEndian.Uint64(b)
	var header map[string]json.RawMessage
	var entry struct {
		DType   string
		Offsets [2]int `json:"data_offsets"`
	}
	if err := json.Unmarshal(b[8:8+size], &header); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(header[name], &entry); err != nil || entry.DType != "I32" {
		t.Fatalf("%s: %s: %v, dtype %q", path, name, err, entry.DType)
	}
	data := b[8+int(size):][entry.Offsets[0]:entry.Offsets[1]]
	ids := make([]int32, len(data)/4)
	for i := range ids {
		ids[i] = int32(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return ids
}

// TestPimoeTiny encodes the prompts of the embedded model.
func TestPimoeTiny(t *testing.T) {
	dir := coretest.PimoeTiny(t)
	tok := load(t, dir)
	var g struct {
		Prompts []struct {
			Messages  json.RawMessage
			Text      string  `json:"text"`
			InputIDs  []int32 `json:"input_ids"`
			GreedyIDs []int32 `json:"greedy_ids"`
			Greedy    string  `json:"greedy_text"`
			FirstEOS  *int    `json:"greedy_first_eos"`
		} `json:"prompts"`
	}
	coretest.ReadJSON(t, filepath.Join(dir, "golden.json"), &g)
	chat, err := tok.Chat()
	if err != nil {
		t.Fatal(err)
	}
	chats := 0
	for i, p := range g.Prompts {
		if p.Messages != nil {
			text, err := chat.Render(context.Background(), ChatInput{Messages: p.Messages, AddGenerationPrompt: true})
			if err != nil {
				t.Errorf("prompt %d: %v", i, err)
			}
			equalText(t, "chat", i, text, p.Text)
			chats++
		}
		equalIDs(t, "input_ids", i, tok.Encode(p.Text, true), p.InputIDs)
		if p.FirstEOS != nil {
			p.GreedyIDs = p.GreedyIDs[:*p.FirstEOS]
		}
		equalText(t, "greedy_text", i, tok.Decode(p.GreedyIDs, true), p.Greedy)
	}
	if len(g.Prompts) == 0 || chats == 0 {
		t.Errorf("%d prompts, %d of them chats", len(g.Prompts), chats)
	}
	t.Logf("%d prompts, %d of them chats", len(g.Prompts), chats)
}
