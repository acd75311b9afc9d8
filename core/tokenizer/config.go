package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/pimoe/pimoe/sdk"
)

// specialKeys are the special tokens that a chat template may name.
var specialKeys = []string{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}

// maxSettings bounds tokenizer_config.json and its like. The largest in use has a few MB of added tokens.
const maxSettings = 32 << 20

// readSettings reads what lies beside tokenizer.json: the names of the special tokens and the chat template. The file
// tokenizer_config.json comes before special_tokens_map.json, and chat_template.jinja and .json before both.
func (t *Tokenizer) readSettings(dir string) error {
	t.vars = map[string]string{}
	for _, name := range []string{"tokenizer_config.json", "special_tokens_map.json"} {
		settings, err := readObject(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		for _, key := range specialKeys {
			if _, ok := t.vars[key]; ok || isNull(settings[key]) {
				continue
			}
			if t.vars[key], err = tokenText(settings[key]); err != nil {
				return fmt.Errorf("%s: %s: %w", name, key, err)
			}
		}
		if !t.hasChat && !isNull(settings["chat_template"]) {
			if t.template, t.hasChat, err = templateText(settings["chat_template"]); err != nil {
				return fmt.Errorf("%s: chat_template: %w", name, err)
			}
		}
	}
	settings, err := readObject(filepath.Join(dir, "chat_template.json"))
	if err != nil {
		return err
	}
	if raw := settings["chat_template"]; !isNull(raw) {
		if t.template, t.hasChat, err = templateText(raw); err != nil {
			return fmt.Errorf("chat_template.json: %w", err)
		}
	}
	b, err := readFile(filepath.Join(dir, "chat_template.jinja"), maxTemplate)
	switch {
	case errors.Is(err, sdk.ErrNotFound):
	case err != nil:
		return err
	default:
		t.template, t.hasChat = string(b), true
	}
	return nil
}

// readObject reads a JSON object from a file that may be missing.
func readObject(path string) (map[string]json.RawMessage, error) {
	b, err := readFile(path, maxSettings)
	if errors.Is(err, sdk.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var v map[string]json.RawMessage
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("%s: %v: %w", path, err, sdk.ErrInvalid)
	}
	return v, nil
}

// tokenText reads "token" or {"content": "token", ...}.
func tokenText(raw json.RawMessage) (string, error) {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s, nil
	}
	var o struct {
		Content *string `json:"content"`
	}
	if err := json.Unmarshal(raw, &o); err != nil || o.Content == nil {
		return "", fmt.Errorf("neither a string nor an object with content: %w", sdk.ErrInvalid)
	}
	return *o.Content, nil
}

// templateText reads a template or a list of named ones, of which "default" is the chat's.
func templateText(raw json.RawMessage) (text string, ok bool, err error) {
	if json.Unmarshal(raw, &text) == nil {
		return text, true, nil
	}
	var named []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	if err := json.Unmarshal(raw, &named); err != nil {
		return "", false, fmt.Errorf("neither a string nor a list of named templates: %w", sdk.ErrInvalid)
	}
	for _, n := range named {
		if n.Name == "default" {
			return n.Template, true, nil
		}
	}
	return "", false, nil
}
