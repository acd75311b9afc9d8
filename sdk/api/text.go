package api

import (
	"context"
	"encoding/json"
	"iter"
)

// Sampling is what requests for text have in common. A nil field leaves the server's default.
type Sampling struct {
	Temperature       *float64           `json:"temperature,omitempty"` // 0 = greedy
	TopP              *float64           `json:"top_p,omitempty"`
	TopK              *int               `json:"top_k,omitempty"`
	MinP              *float64           `json:"min_p,omitempty"`
	RepetitionPenalty *float64           `json:"repetition_penalty,omitempty"`
	FrequencyPenalty  *float64           `json:"frequency_penalty,omitempty"`
	PresencePenalty   *float64           `json:"presence_penalty,omitempty"`
	LogitBias         map[string]float64 `json:"logit_bias,omitempty"` // by token id
	Seed              *int64             `json:"seed,omitempty"`
	Stop              []string           `json:"stop,omitempty"` // at most four
	N                 *int               `json:"n,omitempty"`
	IgnoreEOS         *bool              `json:"ignore_eos,omitempty"`
}

// CompletionRequest continues a text.
type CompletionRequest struct {
	Model     string `json:"model"`
	Prompt    any    `json:"prompt"` // string, []string, []int or [][]int: texts or token ids
	MaxTokens *int   `json:"max_tokens,omitempty"`
	Logprobs  *int   `json:"logprobs,omitempty"`
	Echo      *bool  `json:"echo,omitempty"`
	Sampling
	StreamOptions *StreamOptions `json:"stream_options,omitempty"`
}

// StreamOptions say what a stream has besides text.
type StreamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// Completion is a continuation, or a piece of one in a stream.
type Completion struct {
	ID                string             `json:"id"`
	Created           int64              `json:"created"`
	Model             string             `json:"model"`
	SystemFingerprint string             `json:"system_fingerprint"`
	Choices           []CompletionChoice `json:"choices"`
	Usage             *Usage             `json:"usage"`
	Meta              *Meta              `json:"meta"`
}

// CompletionChoice is one of the continuations.
type CompletionChoice struct {
	Index        int                 `json:"index"`
	Text         string              `json:"text"`
	FinishReason string              `json:"finish_reason"`
	Logprobs     *CompletionLogprobs `json:"logprobs"`
}

// CompletionLogprobs are by token.
type CompletionLogprobs struct {
	Tokens        []string             `json:"tokens"`
	TokenLogprobs []*float64           `json:"token_logprobs"`
	TopLogprobs   []map[string]float64 `json:"top_logprobs"`
	TextOffset    []int                `json:"text_offset"`
}

// ChatRequest asks for the next message of a conversation.
type ChatRequest struct {
	Model               string          `json:"model"`
	Messages            []Message       `json:"messages"`
	MaxCompletionTokens *int            `json:"max_completion_tokens,omitempty"`
	Logprobs            *bool           `json:"logprobs,omitempty"`
	TopLogprobs         *int            `json:"top_logprobs,omitempty"`
	Tools               []Tool          `json:"tools,omitempty"`
	ToolChoice          any             `json:"tool_choice,omitempty"`     // none, auto, required, or a function
	ResponseFormat      json.RawMessage `json:"response_format,omitempty"` // see docs/forms.md
	TemplateArguments   map[string]any  `json:"chat_template_kwargs,omitempty"`
	Sampling
	StreamOptions *StreamOptions `json:"stream_options,omitempty"`
}

// Message is one message of a conversation.
type Message struct {
	Role       string     `json:"role"` // system, user, assistant or tool
	Content    string     `json:"content"`
	Name       string     `json:"name,omitempty"`
	ToolCalls  []ToolCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
}

// Tool is a function that the model may call.
type Tool struct {
	Type     string   `json:"type"` // function
	Function Function `json:"function"`
}

// Function describes one to the model; Parameters is a JSON Schema.
type Function struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"`
}

// ToolCall is a call that the model asks for; in a stream, a piece of one.
type ToolCall struct {
	Index    *int   `json:"index,omitempty"`
	ID       string `json:"id,omitempty"`
	Type     string `json:"type,omitempty"`
	Function struct {
		Name      string `json:"name,omitempty"`
		Arguments string `json:"arguments"` // the text of a JSON object
	} `json:"function"`
}

// ChatCompletion is the answer to a ChatRequest, or a piece of it in a stream.
type ChatCompletion struct {
	ID                string       `json:"id"`
	Created           int64        `json:"created"`
	Model             string       `json:"model"`
	SystemFingerprint string       `json:"system_fingerprint"`
	Choices           []ChatChoice `json:"choices"`
	Usage             *Usage       `json:"usage"`
	Meta              *Meta        `json:"meta"`
}

// ChatChoice has a Message, or in a stream a Delta.
type ChatChoice struct {
	Index        int           `json:"index"`
	Message      Message       `json:"message"`
	Delta        Message       `json:"delta"`
	FinishReason string        `json:"finish_reason"`
	Logprobs     *ChatLogprobs `json:"logprobs"`
}

// ChatLogprobs are by token.
type ChatLogprobs struct {
	Content []TokenLogprob `json:"content"`
}

// TokenLogprob is a token with the natural logarithm of its probability.
type TokenLogprob struct {
	Token       string         `json:"token"`
	Logprob     float64        `json:"logprob"`
	Bytes       []int          `json:"bytes"`
	TopLogprobs []TokenLogprob `json:"top_logprobs"`
}

// Usage counts tokens.
type Usage struct {
	PromptTokens        int `json:"prompt_tokens"`
	CompletionTokens    int `json:"completion_tokens"`
	TotalTokens         int `json:"total_tokens"`
	PromptTokensDetails struct {
		CachedTokens int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

// Meta says what has computed an answer.
type Meta struct {
	Status         string  `json:"status"` // exact, fallback or degraded
	Policy         string  `json:"policy"`
	Layers         int     `json:"layers"`
	MaxDroppedMass float64 `json:"max_dropped_mass"`
	ModelDigest    string  `json:"model_digest"`
	NumericClass   string  `json:"numeric_class"`
}

// Complete continues a text.
func (c *Client) Complete(ctx context.Context, r CompletionRequest) (*Completion, error) {
	out := &Completion{}
	return out, c.post(ctx, "/v1/completions", r, out, nil)
}

// StreamCompletion gives a continuation piece by piece. Leaving the loop ends the request; an error comes last.
func (c *Client) StreamCompletion(ctx context.Context, r CompletionRequest) iter.Seq2[Completion, error] {
	return events[Completion](ctx, c, "/v1/completions", streamed[CompletionRequest]{r, true})
}

// Chat answers a conversation.
func (c *Client) Chat(ctx context.Context, r ChatRequest) (*ChatCompletion, error) {
	out := &ChatCompletion{}
	return out, c.post(ctx, "/v1/chat/completions", r, out, nil)
}

// StreamChat gives an answer piece by piece. Leaving the loop ends the request; an error comes last.
func (c *Client) StreamChat(ctx context.Context, r ChatRequest) iter.Seq2[ChatCompletion, error] {
	return events[ChatCompletion](ctx, c, "/v1/chat/completions", streamed[ChatRequest]{r, true})
}

// streamed is a request whose answer shall be a stream.
type streamed[R any] struct {
	request R
	stream  bool
}

// MarshalJSON adds stream to the request's own members.
func (s streamed[R]) MarshalJSON() ([]byte, error) {
	text, err := json.Marshal(s.request)
	if err != nil || !s.stream {
		return text, err
	}
	return append(text[:len(text)-1], `,"stream":true}`...), nil
}
