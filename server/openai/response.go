package openai

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// Head is what every object of one answer carries.
type Head struct {
	ID          string // chatcmpl-... or cmpl-...
	Created     int64  // seconds
	Model       string // as the client named it
	Fingerprint string
	Routing     string // "load-dependent", or empty and left out
	Pimoe       any    // what a traced request gets beside OpenAI's fields; nil = left out
}

// Choice is one finished continuation, or one piece of it in a stream.
type Choice struct {
	Index    int
	Text     string
	Logprobs []Token // nil = not asked for; the tokens of Text
	Finish   string  // empty = still running
	Calls    []Call  // of tools; pieces of them in a stream
	Role     bool    // the piece opens a chat message
}

// Usage is what an answer cost.
type Usage struct {
	PromptTokens, CachedTokens, CompletionTokens int
}

// Meta says what computed an answer.
type Meta struct {
	Status         string   `json:"status"` // exact, fallback or degraded
	Policy         string   `json:"policy,omitempty"`
	Layers         int      `json:"layers,omitempty"`           // affected ones
	MaxDroppedMass *float64 `json:"max_dropped_mass,omitempty"` // largest share of a token's gate mass
	ModelDigest    string   `json:"model_digest"`
	NumericClass   string   `json:"numeric_class"`
	Index          *int     `json:"index,omitempty"` // of the choice that an event of a stream is about
}

type usage struct {
	PromptTokens      int           `json:"prompt_tokens"`
	CompletionTokens  int           `json:"completion_tokens"`
	TotalTokens       int           `json:"total_tokens"`
	PromptDetails     promptDetails `json:"prompt_tokens_details"`
	CompletionDetails outputDetails `json:"completion_tokens_details"`
}

type promptDetails struct {
	CachedTokens int `json:"cached_tokens"`
}

type outputDetails struct {
	ReasoningTokens int `json:"reasoning_tokens"`
}

func (u Usage) wire() *usage {
	return &usage{PromptTokens: u.PromptTokens, CompletionTokens: u.CompletionTokens, TotalTokens: u.PromptTokens + u.CompletionTokens,
		PromptDetails: promptDetails{CachedTokens: u.CachedTokens}}
}

type object struct {
	ID          string `json:"id"`
	Object      string `json:"object"`
	Created     int64  `json:"created"`
	Model       string `json:"model"`
	Choices     []any  `json:"choices"`
	Usage       any    `json:"usage,omitempty"`
	ServiceTier string `json:"service_tier,omitempty"`
	Fingerprint string `json:"system_fingerprint"`
	Routing     string `json:"routing,omitempty"`
	Meta        *Meta  `json:"meta,omitempty"`
	Pimoe       any    `json:"pimoe,omitempty"`
}

func (h Head) object(kind string, choices []any, usage any, meta *Meta) []byte {
	if choices == nil {
		choices = []any{}
	}
	o := object{ID: h.ID, Object: kind, Created: h.Created, Model: h.Model, Choices: choices, Usage: usage, Fingerprint: h.Fingerprint, Routing: h.Routing, Meta: meta, Pimoe: h.Pimoe}
	if kind != objectCompletion {
		o.ServiceTier = "default"
	}
	return marshal(o)
}

const (
	objectCompletion = "text_completion"
	objectChat       = "chat.completion"
	objectChunk      = "chat.completion.chunk"
)

// null is an explicit null where OpenAI's clients expect the field to be present.
var null = json.RawMessage("null")

type completionChoice struct {
	Index    int                 `json:"index"`
	Text     string              `json:"text"`
	Logprobs *completionLogprobs `json:"logprobs"`
	Finish   *string             `json:"finish_reason"`
}

// Completion is the body of /v1/completions.
func (h Head) Completion(choices []Choice, u Usage, m *Meta) []byte {
	out := make([]any, len(choices))
	for i, c := range choices {
		out[i] = c.completion()
	}
	return h.object(objectCompletion, out, u.wire(), m)
}

// CompletionEvent is one event of its stream. With usage asked for, all events but the last carry a null usage.
func (h Head) CompletionEvent(c Choice, includeUsage bool) []byte {
	return h.object(objectCompletion, []any{c.completion()}, pending(includeUsage), nil)
}

// CompletionUsage is the event after the last choice, if usage was asked for.
func (h Head) CompletionUsage(u Usage) []byte { return h.object(objectCompletion, nil, u.wire(), nil) }

// CompletionMeta is an event without a choice that says what computes the answer.
func (h Head) CompletionMeta(m Meta, includeUsage bool) []byte {
	return h.object(objectCompletion, nil, pending(includeUsage), &m)
}

func (c Choice) completion() completionChoice {
	return completionChoice{Index: c.Index, Text: c.Text, Logprobs: completionShape(c.Logprobs), Finish: finish(c.Finish)}
}

type chatChoice struct {
	Index    int           `json:"index"`
	Message  chatMessage   `json:"message"`
	Logprobs *chatLogprobs `json:"logprobs"`
	Finish   *string       `json:"finish_reason"`
}

type chatMessage struct {
	Role        string          `json:"role"`
	Content     *string         `json:"content"`
	Refusal     json.RawMessage `json:"refusal"`
	Annotations []string        `json:"annotations"`
	ToolCalls   []toolCallShape `json:"tool_calls,omitempty"`
}

// toolCallShape is a call in a message, or with its index a piece of one in a stream.
type toolCallShape struct {
	Index    *int          `json:"index,omitempty"`
	ID       string        `json:"id,omitempty"`
	Type     string        `json:"type,omitempty"`
	Function functionShape `json:"function"`
}

type functionShape struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

func callShapes(calls []Call, pieces bool) []toolCallShape {
	var out []toolCallShape
	for _, c := range calls {
		s := toolCallShape{ID: c.ID, Function: functionShape{c.Name, c.Arguments}}
		if pieces {
			s.Index = &c.Index
		}
		if c.ID != "" {
			s.Type = "function"
		}
		out = append(out, s)
	}
	return out
}

// content is the text of a message, which is null where there are only calls.
func (c *Choice) content() *string {
	if c.Text == "" && len(c.Calls) > 0 {
		return nil
	}
	return &c.Text
}

// Chat is the body of /v1/chat/completions.
func (h Head) Chat(choices []Choice, u Usage, m *Meta) []byte {
	out := make([]any, len(choices))
	for i, c := range choices {
		out[i] = chatChoice{Index: c.Index, Logprobs: chatShape(c.Logprobs), Finish: finish(c.Finish),
			Message: chatMessage{Role: "assistant", Content: c.content(), Refusal: null, Annotations: []string{}, ToolCalls: callShapes(c.Calls, false)}}
	}
	return h.object(objectChat, out, u.wire(), m)
}

type chatDelta struct {
	Role    string          `json:"role,omitempty"`
	Content *string         `json:"content,omitempty"`
	Refusal json.RawMessage `json:"refusal,omitempty"`

	ToolCalls []toolCallShape `json:"tool_calls,omitempty"`
}

type chatPiece struct {
	Index    int           `json:"index"`
	Delta    chatDelta     `json:"delta"`
	Logprobs *chatLogprobs `json:"logprobs"`
	Finish   *string       `json:"finish_reason"`
}

// ChatEvent is one event of a chat stream: the role, then text, then an empty delta with the finish reason.
func (h Head) ChatEvent(c Choice, includeUsage bool) []byte {
	p := chatPiece{Index: c.Index, Logprobs: chatShape(c.Logprobs), Finish: finish(c.Finish)}
	if c.Role {
		p.Delta.Role, p.Delta.Refusal = "assistant", null
	}
	if c.Role || c.Text != "" || len(c.Logprobs) > 0 && len(c.Calls) == 0 {
		p.Delta.Content = &c.Text
	}
	p.Delta.ToolCalls = callShapes(c.Calls, true)
	return h.object(objectChunk, []any{p}, pending(includeUsage), nil)
}

// ChatUsage is the event after the last choice, if usage was asked for.
func (h Head) ChatUsage(u Usage) []byte { return h.object(objectChunk, nil, u.wire(), nil) }

// ChatMeta is an event without a choice that says what computes the answer.
func (h Head) ChatMeta(m Meta, includeUsage bool) []byte {
	return h.object(objectChunk, nil, pending(includeUsage), &m)
}

func pending(includeUsage bool) any {
	if includeUsage {
		return null
	}
	return nil
}

func finish(reason string) *string {
	if reason == "" {
		return nil
	}
	return &reason
}

// Pieces writes the events of a stream that are only text, by far the most: what is the same in all of them is encoded
// once.
type Pieces struct{ before, after []byte }

// NewPieces takes the frame from an event that a Head's method has made of a Choice with PieceText as its text.
func NewPieces(event []byte) Pieces {
	before, after, ok := bytes.Cut(event, marshal(PieceText))
	if !ok {
		panic("openai: the event lacks its text")
	}
	return Pieces{before, after}
}

// PieceText stands for the text in the event that NewPieces takes apart. No name of a model has it.
const PieceText = "\x00"

// Append appends the event of a text that is not empty to dst.
func (p Pieces) Append(dst []byte, text string) []byte {
	dst = append(dst, p.before...)
	if simple(text) {
		dst = append(dst, '"')
		dst = append(dst, text...)
		dst = append(dst, '"')
	} else {
		dst = append(dst, marshal(text)...)
	}
	return append(dst, p.after...)
}

// simple reports whether a text is itself between the quotes of JSON.
func simple(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Model describes a model in /v1/models.
type Model struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

// NewModel fills in what is the same for every model.
func NewModel(id string, created int64) Model {
	return Model{ID: id, Object: "model", Created: created, OwnedBy: "pimoe"}
}

// Models is the body of /v1/models.
func Models(models ...Model) []byte {
	return marshal(struct {
		Object string  `json:"object"`
		Data   []Model `json:"data"`
	}{"list", models})
}

// Body is one model as the body of /v1/models/{model}.
func (m Model) Body() []byte { return marshal(m) }

// Error is what went wrong, in OpenAI's shape, with the request's id beside it.
type Error struct {
	Message   string  `json:"message"`
	Type      string  `json:"type"`
	Param     *string `json:"param"`
	Code      string  `json:"code"`
	RequestID string  `json:"request_id"`
}

// Body is the error as a body or as an event of a stream.
func (e Error) Body() []byte {
	return marshal(struct {
		Error Error `json:"error"`
	}{e})
}

// intBytes is a byte string as JSON's array of numbers.
type intBytes []byte

// MarshalJSON implements json.Marshaler.
func (b intBytes) MarshalJSON() ([]byte, error) {
	out := []byte{'['}
	for i, c := range b {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendUint(out, uint64(c), 10)
	}
	return append(out, ']'), nil
}
