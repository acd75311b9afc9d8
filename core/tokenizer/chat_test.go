package tokenizer

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/sdk"
)

// chatGolden is chat/chat.json.
type chatGolden struct {
	Templates []struct {
		Name, Template, Tokenizer string
		BOS                       *string `json:"bos_token"`
		EOS                       *string `json:"eos_token"`
		Cases                     []struct {
			Messages, Tools, Kwargs json.RawMessage
			AddGenerationPrompt     bool `json:"add_generation_prompt"`
			Rendered, Error         *string
			IDs                     []int32
		}
	}
}

func TestGoldenChat(t *testing.T) {
	var g chatGolden
	coretest.ReadJSON(t, coretest.Golden(t, "chat", "chat.json"), &g)
	rendered, failed, raised := 0, 0, 0
	for _, tpl := range g.Templates {
		vars := map[string]string{}
		if tpl.BOS != nil {
			vars["bos_token"] = *tpl.BOS
		}
		if tpl.EOS != nil {
			vars["eos_token"] = *tpl.EOS
		}
		p, err := ParseTemplate(tpl.Template, vars)
		if err != nil {
			t.Errorf("%s: %v", tpl.Name, err)
			continue
		}
		tok := load(t, coretest.Golden(t, "tokenizers", tpl.Tokenizer))
		for i, c := range tpl.Cases {
			got, err := p.Render(context.Background(), ChatInput{Messages: c.Messages, Tools: c.Tools, AddGenerationPrompt: c.AddGenerationPrompt, Kwargs: c.Kwargs})
			if c.Error != nil {
				failed++
				if !errors.Is(err, sdk.ErrInvalid) {
					t.Errorf("%s case %d: got %q, %v, want error %q", tpl.Name, i, got, err, *c.Error)
					continue
				}
				if text, ok := strings.CutPrefix(*c.Error, "TemplateError: "); ok {
					raised++
					if !strings.Contains(err.Error(), text) {
						t.Errorf("%s case %d: error %q, want %q", tpl.Name, i, err, text)
					}
				}
				continue
			}
			rendered++
			if err != nil {
				t.Errorf("%s case %d: %v", tpl.Name, i, err)
				continue
			}
			if got != *c.Rendered {
				t.Errorf("%s case %d:\n got %q\nwant %q", tpl.Name, i, got, *c.Rendered)
			}
			if ids := tok.Encode(got, false); !slices.Equal(ids, c.IDs) {
				t.Errorf("%s case %d: ids\n got %v\nwant %v", tpl.Name, i, ids, c.IDs)
			}
		}
	}
	if rendered < 400 || failed < 60 || raised < 20 {
		t.Errorf("only %d rendered, %d failed, %d raised", rendered, failed, raised)
	}
	t.Logf("%d templates: %d rendered with ids, %d errors, %d of them raised with their text", len(g.Templates), rendered, failed, raised)
}
