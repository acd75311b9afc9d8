package acceptance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
)

// TestTokenizeCommand holds `pimoe tokenize` against every golden text of every tokenizer, special tokens off and on.
func TestTokenizeCommand(t *testing.T) {
	folders, err := os.ReadDir(coretest.Golden(t, "tokenizers"))
	if err != nil {
		t.Fatal(err)
	}
	store := home(t)
	for _, f := range folders {
		t.Run(f.Name(), func(t *testing.T) {
			dir := coretest.Golden(t, "tokenizers", f.Name())
			var g struct {
				Cases []struct {
					Text        string  `json:"text"`
					IDs         []int32 `json:"ids"`
					Special     []int32 `json:"ids_special"`
					Decode      string  `json:"decode"`
					Skip        string  `json:"decode_skip"`
					SpecialText string  `json:"decode_special"`
					SpecialSkip string  `json:"decode_special_skip"`
				} `json:"cases"`
			}
			coretest.ReadJSON(t, filepath.Join(dir, "golden.json"), &g)
			var texts []string
			for _, c := range g.Cases {
				texts = append(texts, c.Text)
			}
			type result struct {
				IDs     []int32 `json:"ids"`
				Decoded string  `json:"decoded"`
				Skipped string  `json:"decoded_skip_special"`
			}
			in := file(t, texts)
			var plain, special []result
			command(t, store, &plain, "tokenize", "-m", dir, "--texts-file", in, "-o", "json")
			command(t, store, &special, "tokenize", "-m", dir, "--texts-file", in, "--special", "-o", "json")
			for n, c := range g.Cases {
				if r := plain[n]; !slices.Equal(r.IDs, c.IDs) || r.Decoded != c.Decode || r.Skipped != c.Skip {
					t.Errorf("%q: %+v, want %v %q %q", c.Text, r, c.IDs, c.Decode, c.Skip)
				}
				if r := special[n]; !slices.Equal(r.IDs, c.Special) || r.Decoded != c.SpecialText || r.Skipped != c.SpecialSkip {
					t.Errorf("%q with special tokens: %+v, want %v %q %q", c.Text, r, c.Special, c.SpecialText, c.SpecialSkip)
				}
			}
		})
	}
}

// TestChatCommand holds `pimoe tokenize --chat-file` against every golden conversation of every template.
func TestChatCommand(t *testing.T) {
	var g struct {
		Templates []struct {
			Name      string            `json:"name"`
			Source    string            `json:"template"`
			Tokenizer string            `json:"tokenizer"`
			Cases     []json.RawMessage `json:"cases"`
		} `json:"templates"`
	}
	coretest.ReadJSON(t, coretest.Golden(t, "chat", "chat.json"), &g)
	store := home(t)
	for _, tpl := range g.Templates {
		t.Run(tpl.Name, func(t *testing.T) {
			var input []map[string]json.RawMessage
			for _, c := range tpl.Cases {
				var fields map[string]json.RawMessage
				if err := json.Unmarshal(c, &fields); err != nil {
					t.Fatal(err)
				}
				chat := map[string]json.RawMessage{}
				for _, key := range []string{"messages", "tools", "add_generation_prompt", "kwargs"} {
					if v, ok := fields[key]; ok {
						chat[key] = v
					}
				}
				input = append(input, chat)
			}
			source := filepath.Join(t.TempDir(), "template.jinja")
			if err := os.WriteFile(source, []byte(tpl.Source), 0o600); err != nil {
				t.Fatal(err)
			}
			var got []struct {
				Text  *string `json:"text"`
				IDs   []int32 `json:"ids"`
				Error *string `json:"error"`
			}
			command(t, store, &got, "tokenize", "-m", coretest.Golden(t, "tokenizers", tpl.Tokenizer),
				"--chat-file", file(t, input), "--template-file", source, "-o", "json")
			for n, c := range tpl.Cases {
				var want struct {
					Rendered *string `json:"rendered"`
					IDs      []int32 `json:"ids"`
				}
				if err := json.Unmarshal(c, &want); err != nil {
					t.Fatal(err)
				}
				switch {
				case want.Rendered == nil && got[n].Error == nil:
					t.Errorf("case %d: %q, want an error", n, *got[n].Text)
				case want.Rendered != nil && (got[n].Text == nil || *got[n].Text != *want.Rendered || !slices.Equal(got[n].IDs, want.IDs)):
					t.Errorf("case %d: %+v, want %q", n, got[n], *want.Rendered)
				}
			}
		})
	}
}
