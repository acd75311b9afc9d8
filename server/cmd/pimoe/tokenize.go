package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
)

// tokenized is the outcome of one text.
type tokenized struct {
	IDs         []int32 `json:"ids"`
	Decoded     string  `json:"decoded"`
	SkipSpecial string  `json:"decoded_skip_special"`
}

// conversationIn is one chat of a --chat-file; what the template gets keeps the order of its keys.
type conversationIn struct {
	Messages            json.RawMessage `json:"messages"`
	Tools               json.RawMessage `json:"tools"`
	AddGenerationPrompt bool            `json:"add_generation_prompt"`
	Kwargs              json.RawMessage `json:"kwargs"`
}

// rendered is the outcome of one chat, failed that of one whose template refuses it.
type rendered struct {
	Text string  `json:"text"`
	IDs  []int32 `json:"ids"`
}
type failed struct {
	Error string `json:"error"`
}

func (a *app) tokenize() *cobra.Command {
	var texts, chats, template string
	var special bool
	c := &cobra.Command{
		Use:   "tokenize [flags] [TEXT]",
		Short: "Turn texts or chats into token ids",
		Long: `Turn texts or chats into token ids.

--texts-file is a JSON list of strings; the output is a list of {"ids","decoded",
"decoded_skip_special"}, decoded from the ids. --chat-file is a JSON list of {"messages","tools",
"add_generation_prompt","kwargs"}; the output is a list of {"text","ids"} or {"error"}. MODEL may
be a folder that holds only tokenizer files.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			given := 0
			for _, s := range []bool{texts != "", chats != "", len(args) == 1} {
				if s {
					given++
				}
			}
			switch {
			case given != 1:
				return usageError{errors.New("tokenize: want one of --texts-file, --chat-file and TEXT")}
			case template != "" && chats == "":
				return usageError{errors.New("tokenize: --template-file goes with --chat-file")}
			case special && chats != "":
				return usageError{errors.New("tokenize: --special goes with texts; a template writes special tokens itself")}
			}
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			dir, err := a.tokenizerDir(c.Context(), cfg)
			if err != nil {
				return err
			}
			tok, err := tokenizer.Load(dir)
			if err != nil {
				return fmt.Errorf("tokenizer of %s: %w", dir, err)
			}
			if chats != "" {
				return a.tokenizeChats(c.Context(), tok, dir, chats, template)
			}
			list := args
			if texts != "" {
				b, err := a.readInput(texts)
				if err != nil {
					return err
				}
				if err := decodeJSON(b, &list); err != nil {
					return fmt.Errorf("%s: want a JSON list of strings: %w", texts, err)
				}
			}
			return a.printTokens(tok, list, special)
		},
	}
	setting(c.Flags(), "model", "m", "model", "`model`: a folder or a name in the store; empty for the embedded one")
	c.Flags().StringVar(&texts, "texts-file", "", "JSON `file` with a list of strings")
	c.Flags().BoolVar(&special, "special", false, "add the special tokens that the tokenizer adds")
	c.Flags().StringVar(&chats, "chat-file", "", "JSON `file` with a list of chats")
	c.Flags().StringVar(&template, "template-file", "", "Jinja `file` instead of the model's own template")
	return c
}

// tokenizerDir is the folder itself, which may hold no weights, or that of the stored model.
func (a *app) tokenizerDir(ctx context.Context, cfg config.Config) (string, error) {
	if st, err := os.Stat(cfg.Model); cfg.Model != "" && err == nil && st.IsDir() {
		return cfg.Model, nil
	}
	bar := progress.New(a.err, a.errTTY, "import")
	defer bar.Done()
	m, err := instance.OpenModel(ctx, cfg, bar.Bytes)
	if err != nil {
		return "", err
	}
	return m.Dir, nil
}

func (a *app) printTokens(tok *tokenizer.Tokenizer, texts []string, special bool) error {
	out := make([]tokenized, len(texts))
	rows := make([][]string, len(texts))
	for i, text := range texts {
		ids := encode(tok, text, special)
		out[i] = tokenized{IDs: ids, Decoded: tok.Decode(ids, false), SkipSpecial: tok.Decode(ids, true)}
		rows[i] = []string{fmt.Sprint(len(ids)), fmt.Sprint(ids), fmt.Sprintf("%q", out[i].Decoded)}
	}
	if a.output == "json" {
		return table.JSON(a.out, out)
	}
	return table.Write(a.out, []string{"COUNT", "IDS", "DECODED"}, rows)
}

func (a *app) tokenizeChats(ctx context.Context, tok *tokenizer.Tokenizer, dir, chats, template string) error {
	tmpl, err := a.template(tok, dir, template)
	if err != nil {
		return err
	}
	b, err := a.readInput(chats)
	if err != nil {
		return err
	}
	var list []conversationIn
	if err := decodeJSON(b, &list); err != nil {
		return fmt.Errorf("%s: want a JSON list of chats: %w", chats, err)
	}
	out := make([]any, len(list))
	rows := make([][]string, len(list))
	for i, in := range list {
		r, err := render(ctx, tok, tmpl, in)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			out[i], rows[i] = failed{err.Error()}, []string{"-", "", err.Error()}
			continue
		}
		out[i], rows[i] = r, []string{fmt.Sprint(len(r.IDs)), fmt.Sprintf("%q", r.Text), ""}
	}
	if a.output == "json" {
		return table.JSON(a.out, out)
	}
	return table.Write(a.out, []string{"TOKENS", "TEXT", "ERROR"}, rows)
}

func (a *app) template(tok *tokenizer.Tokenizer, dir, path string) (*tokenizer.Template, error) {
	if path == "" {
		return tok.Chat()
	}
	b, err := a.readInput(path)
	if err != nil {
		return nil, err
	}
	vars, err := templateVars(dir)
	if err != nil {
		return nil, err
	}
	tmpl, err := tokenizer.ParseTemplate(string(b), vars)
	if err != nil {
		return nil, fmt.Errorf("template %s: %w", path, err)
	}
	return tmpl, nil
}

func render(ctx context.Context, tok *tokenizer.Tokenizer, tmpl *tokenizer.Template, in conversationIn) (rendered, error) {
	text, err := tmpl.Render(ctx, tokenizer.ChatInput{
		Messages: present(in.Messages), Tools: present(in.Tools), AddGenerationPrompt: in.AddGenerationPrompt, Kwargs: present(in.Kwargs),
	})
	if err != nil {
		return rendered{}, err
	}
	return rendered{Text: text, IDs: encode(tok, text, false)}, nil
}

// encode never gives nil, which JSON would write as null.
func encode(tok *tokenizer.Tokenizer, text string, special bool) []int32 {
	return append([]int32{}, tok.Encode(text, special)...)
}

// present is nil for JSON's null.
func present(b json.RawMessage) json.RawMessage {
	if bytes.Equal(bytes.TrimSpace(b), []byte("null")) {
		return nil
	}
	return b
}

// templateVars are the special tokens that a template may name, from a tokenizer's folder. The files say them as text
// or as an object with the text in it.
func templateVars(dir string) (map[string]string, error) {
	vars := map[string]string{}
	for _, name := range []string{"special_tokens_map.json", "tokenizer_config.json"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("special tokens: %w", err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(b, &fields); err != nil {
			return nil, fmt.Errorf("special tokens: %s: %w: %w", name, err, sdk.ErrInvalid)
		}
		for _, key := range []string{"bos_token", "eos_token", "unk_token", "pad_token"} {
			var text string
			var object struct{ Content string }
			if json.Unmarshal(fields[key], &text) == nil && text != "" {
				vars[key] = text
			} else if json.Unmarshal(fields[key], &object) == nil && object.Content != "" {
				vars[key] = object.Content
			}
		}
	}
	return vars, nil
}
