package tokenizer

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/pimoe/pimoe/core/tokenizer/jinja"
	"github.com/pimoe/pimoe/sdk"
)

// maxTemplate bounds the source of a chat template.
const maxTemplate = jinja.MaxSource

// Template is a chat template. It is safe for concurrent use.
type Template struct {
	source string
	parsed *jinja.Template
	vars   map[string]string
	now    func() time.Time
}

// ChatInput is what a conversation brings to the template, as the client sent it: raw JSON, so that the order of keys
// stays. Messages must be a list of objects. Tools is a list, or null or empty for none. Kwargs is an object of
// further variables, or null or empty.
type ChatInput struct {
	Messages, Tools     json.RawMessage
	AddGenerationPrompt bool
	Kwargs              json.RawMessage
}

// Chat is the folder's own chat template, or sdk.ErrNotFound.
func (t *Tokenizer) Chat() (*Template, error) {
	if !t.hasChat {
		return nil, fmt.Errorf("chat template of the model: %w", sdk.ErrNotFound)
	}
	return ParseTemplate(t.template, t.vars)
}

// ParseTemplate reads a Jinja chat template. The variables, such as bos_token, are there in every rendering.
func ParseTemplate(source string, vars map[string]string) (*Template, error) {
	p, err := jinja.Parse(source)
	if err != nil {
		return nil, fmt.Errorf("parse chat template: %w", err)
	}
	return &Template{source: source, parsed: p, vars: vars, now: time.Now}, nil
}

// Mentions reports whether the source of the template has a text in it: the markers of tool calls tell its family.
func (p *Template) Mentions(text string) bool { return strings.Contains(p.source, text) }

// Render writes the conversation as the text of a prompt. It takes at most jinja.MaxTime and jinja.MaxOutput whatever
// the template does. What the template raises, and everything it gets wrong, is sdk.ErrInvalid with the reason.
//
// As in transformers 5, a key of a message whose value is null counts as not there.
func (p *Template) Render(ctx context.Context, in ChatInput) (string, error) {
	vars := map[string]jinja.Value{"tools": nil, "documents": nil, "add_generation_prompt": in.AddGenerationPrompt}
	for k, v := range p.vars {
		vars[k] = v
	}
	messages, err := chatMessages(in.Messages)
	if err != nil {
		return "", err
	}
	vars["messages"] = messages
	if !isNull(in.Tools) {
		tools, err := jinja.FromJSON(in.Tools)
		if err != nil {
			return "", fmt.Errorf("tools: %w", err)
		}
		if _, ok := tools.(*jinja.List); !ok {
			return "", fmt.Errorf("tools: not a list: %w", sdk.ErrInvalid)
		}
		vars["tools"] = tools
	}
	if err := chatKwargs(in.Kwargs, vars); err != nil {
		return "", err
	}
	text, err := p.parsed.Render(ctx, vars, p.now())
	if err != nil {
		return "", fmt.Errorf("render chat template: %w", err)
	}
	return text, nil
}

// chatMessages reads the messages without their null values.
func chatMessages(raw json.RawMessage) (jinja.Value, error) {
	if isNull(raw) {
		return nil, fmt.Errorf("messages: missing: %w", sdk.ErrInvalid)
	}
	v, err := jinja.FromJSON(raw)
	if err != nil {
		return nil, fmt.Errorf("messages: %w", err)
	}
	list, ok := v.(*jinja.List)
	if !ok {
		return nil, fmt.Errorf("messages: not a list: %w", sdk.ErrInvalid)
	}
	items := list.Items()
	for i, item := range items {
		m, ok := item.(*jinja.Dict)
		if !ok {
			return nil, fmt.Errorf("messages[%d]: not an object: %w", i, sdk.ErrInvalid)
		}
		items[i] = m.WithoutNone()
	}
	return list, nil
}

// chatKwargs adds further variables. They may replace the special tokens, but not what has a field of its own.
func chatKwargs(raw json.RawMessage, vars map[string]jinja.Value) error {
	if isNull(raw) {
		return nil
	}
	v, err := jinja.FromJSON(raw)
	if err != nil {
		return fmt.Errorf("chat template arguments: %w", err)
	}
	d, ok := v.(*jinja.Dict)
	if !ok {
		return fmt.Errorf("chat template arguments: not an object: %w", sdk.ErrInvalid)
	}
	var taken []string
	for _, k := range d.Keys() {
		switch k {
		case "messages", "tools", "add_generation_prompt":
			taken = append(taken, k)
		}
		vars[k], _ = d.Get(k)
	}
	if len(taken) > 0 {
		return fmt.Errorf("chat template arguments: %s can't be given there: %w", strings.Join(taken, ", "), sdk.ErrInvalid)
	}
	return nil
}
