package openai

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// Token is a token with its log-probability, for the logprobs of an answer.
type Token struct {
	Bytes   []byte  // what the token adds to the text; it may be a part of a character
	Logprob float32 // NaN for the first token of an echoed prompt, which nothing predicts
	Top     []Token // the most probable tokens at this place
	Offset  int     // where the token begins in the choice's text, in characters
}

// leastLogprob stands for minus infinity, which JSON lacks; OpenAI's API prints the same number.
const leastLogprob = -9999

func (t Token) logprob() float32 { return max(t.Logprob, leastLogprob) }

// text is the token as text. A part of a character is shown as escaped bytes behind a prefix.
func (t Token) text(prefix string) string {
	if utf8.Valid(t.Bytes) {
		return string(t.Bytes)
	}
	var b strings.Builder
	b.WriteString(prefix)
	for _, c := range t.Bytes {
		fmt.Fprintf(&b, `\x%02x`, c)
	}
	return b.String()
}

type chatLogprobs struct {
	Content []chatToken `json:"content"`
	Refusal any         `json:"refusal"`
}

type chatToken struct {
	topToken
	Top []topToken `json:"top_logprobs"`
}

type topToken struct {
	Token   string   `json:"token"`
	Logprob float32  `json:"logprob"`
	Bytes   intBytes `json:"bytes"`
}

func (t Token) top() topToken {
	return topToken{Token: t.text(""), Logprob: t.logprob(), Bytes: append(intBytes{}, t.Bytes...)}
}

// chatShape is OpenAI's logprobs object of a chat choice; nil without tokens asked for.
func chatShape(tokens []Token) *chatLogprobs {
	if tokens == nil {
		return nil
	}
	out := &chatLogprobs{Content: make([]chatToken, len(tokens))}
	for i, t := range tokens {
		out.Content[i] = chatToken{topToken: t.top(), Top: make([]topToken, len(t.Top))}
		for j, alt := range t.Top {
			out.Content[i].Top[j] = alt.top()
		}
	}
	return out
}

type completionLogprobs struct {
	Tokens        []string             `json:"tokens"`
	TokenLogprobs []*float32           `json:"token_logprobs"`
	TopLogprobs   []map[string]float32 `json:"top_logprobs"`
	TextOffset    []int                `json:"text_offset"`
}

// completionShape is OpenAI's logprobs object of a completion. The alternatives include the chosen token.
func completionShape(tokens []Token) *completionLogprobs {
	if tokens == nil {
		return nil
	}
	out := &completionLogprobs{Tokens: []string{}, TokenLogprobs: []*float32{}, TopLogprobs: []map[string]float32{}, TextOffset: []int{}}
	for _, t := range tokens {
		text := t.text("bytes:")
		out.Tokens = append(out.Tokens, text)
		out.TextOffset = append(out.TextOffset, t.Offset)
		if math.IsNaN(float64(t.Logprob)) {
			out.TokenLogprobs = append(out.TokenLogprobs, nil)
			out.TopLogprobs = append(out.TopLogprobs, nil)
			continue
		}
		p := t.logprob()
		out.TokenLogprobs = append(out.TokenLogprobs, &p)
		top := map[string]float32{text: p}
		for _, alt := range t.Top {
			top[alt.text("bytes:")] = alt.logprob()
		}
		out.TopLogprobs = append(out.TopLogprobs, top)
	}
	return out
}
