package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
)

// sampling are the flags of generate and chat. What is not given comes from the model's generation_config.json.
type sampling struct {
	n           int
	temperature float32
	topP        float32
	topK        int
	seed        uint64
}

func (s *sampling) flags(c *cobra.Command) {
	f := c.Flags()
	f.IntVarP(&s.n, "max-tokens", "n", 128, "most new `tokens`")
	f.Float32Var(&s.temperature, "temperature", 0, "sampling temperature; 0 is greedy; default from the model")
	f.Float32Var(&s.topP, "top-p", 0, "nucleus; default from the model")
	f.IntVar(&s.topK, "top-k", 0, "keep the `k` most probable tokens; default from the model")
	f.Uint64Var(&s.seed, "seed", 0, "makes the draw repeatable")
}

func (s *sampling) check() error {
	switch {
	case s.n < 1:
		return usageError{fmt.Errorf("-n %d: want at least 1", s.n)}
	case !(s.temperature >= 0 && s.temperature <= 100): // also refuses NaN
		return usageError{fmt.Errorf("--temperature %g: want 0 to 100", s.temperature)}
	case !(s.topP >= 0 && s.topP <= 1):
		return usageError{fmt.Errorf("--top-p %g: want 0 to 1", s.topP)}
	case s.topK < 0:
		return usageError{fmt.Errorf("--top-k %d: want at least 0", s.topK)}
	}
	return nil
}

// checkReproducible refuses a seed where routes depend on what was computed before.
func (s *sampling) checkReproducible(c *cobra.Command, inst *instance.Instance) error {
	if c.Flags().Changed("seed") && inst.Host.Router().Info().Has(sdk.CapLoadDependent) {
		return usageError{fmt.Errorf("--seed: router %s depends on load, so that no draw is repeatable; leave --seed out", inst.Config.Router.Plugin)}
	}
	return nil
}

func (s *sampling) params(c *cobra.Command, inst *instance.Instance) sampler.Params {
	p := inst.Model.Defaults.Params()
	f := c.Flags()
	if f.Changed("temperature") {
		p.Temperature = s.temperature
	}
	if f.Changed("top-p") {
		p.TopP = s.topP
	}
	if f.Changed("top-k") {
		p.TopK = s.topK
	}
	if f.Changed("seed") {
		p.Seed, p.Seeded = s.seed, true
	}
	return p
}

func (a *app) generate() *cobra.Command {
	var s sampling
	var raw bool
	var record string
	c := &cobra.Command{
		Use:   "generate [flags] PROMPT",
		Short: "Continue a prompt and print the text as it comes",
		Long: `Continue a prompt and print the text as it comes. The prompt goes through the model's chat
template unless --raw is given; "-" reads it from standard input.`,
		Example: `  pimoe generate "Tell me a story about a fox and a lamp."
  pimoe generate --raw --temperature 0 -o json "One day, a little bear"`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("generate: want a prompt")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) (err error) {
			if err := s.check(); err != nil {
				return err
			}
			prompt := strings.Join(args, " ")
			if prompt == "-" {
				b, err := io.ReadAll(a.in)
				if err != nil {
					return fmt.Errorf("read prompt: %w", err)
				}
				prompt = string(b)
			}
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			inst, err := a.open(c.Context(), cfg, false)
			if err != nil {
				return err
			}
			defer closeInto(&err, inst.Close)
			if err := s.checkReproducible(c, inst); err != nil {
				return err
			}
			ids, err := a.encodePrompt(c.Context(), inst, prompt, raw)
			if err != nil {
				return err
			}
			return a.printGeneration(c.Context(), inst, engine.Request{
				ID: "generate", Prompt: ids, MaxTokens: s.n, Sampling: s.params(c, inst), Logprobs: -1,
			}, record)
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&raw, "raw", false, "no chat template: the prompt is the text itself")
	c.Flags().StringVar(&record, "record", "", "write a `file` that pimoe replay runs again")
	modelFlags(c)
	return c
}

// encodePrompt is the prompt's ids: as one user message of a chat, or as it is.
func (a *app) encodePrompt(ctx context.Context, inst *instance.Instance, prompt string, raw bool) ([]int32, error) {
	if !raw {
		ids, err := encodeChat(ctx, inst.Tokenizer, []message{{"user", prompt}})
		if !errors.Is(err, sdk.ErrNotFound) {
			return ids, err
		}
		fmt.Fprintln(a.err, "pimoe: note: the model has no chat template; the prompt goes in as it is (--raw)")
	}
	return inst.Tokenizer.Encode(prompt, true), nil
}

// message is one turn of a chat.
type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// encodeChat renders a conversation that asks for an answer, and encodes it. The template writes special tokens itself.
func encodeChat(ctx context.Context, tok *tokenizer.Tokenizer, messages []message) ([]int32, error) {
	tmpl, err := tok.Chat()
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(messages)
	if err != nil {
		return nil, fmt.Errorf("encode messages: %w", err)
	}
	text, err := tmpl.Render(ctx, tokenizer.ChatInput{Messages: b, AddGenerationPrompt: true})
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	return tok.Encode(text, false), nil
}

// generation is the JSON form of one continuation.
type generation struct {
	Text             string              `json:"text"`
	IDs              []int32             `json:"ids"`
	FinishReason     engine.FinishReason `json:"finish_reason"`
	PromptTokens     int                 `json:"prompt_tokens"`
	CompletionTokens int                 `json:"completion_tokens"`
	Seconds          float64             `json:"seconds"`
}

// printGeneration runs a request and writes its text as it comes, or its JSON form at the end.
func (a *app) printGeneration(ctx context.Context, inst *instance.Instance, r engine.Request, record string) error {
	shown := io.Writer(io.Discard)
	if a.output != "json" {
		shown = a.out
	}
	show := func(text string) error {
		_, err := io.WriteString(shown, text)
		return err
	}
	var g generation
	var err error
	if record == "" {
		g, err = runRequest(ctx, inst.Engine, r, show)
	} else {
		g, err = recordGeneration(ctx, inst, r, record, show)
	}
	if a.output == "json" {
		if err != nil {
			return err
		}
		return table.JSON(a.out, g)
	}
	fmt.Fprintln(a.out) // also after a half answer, so that the message starts its own line
	return err
}

// runRequest submits a request and collects its continuation; show gets each piece of text.
func runRequest(ctx context.Context, eng *engine.Engine, r engine.Request, show func(text string) error) (generation, error) {
	return runRequestTo(ctx, eng, r, show, func(engine.Token) {})
}

// runRequestTo is runRequest that also hands over the tokens themselves.
func runRequestTo(ctx context.Context, eng *engine.Engine, r engine.Request, show func(text string) error, take func(engine.Token)) (generation, error) {
	start := time.Now()
	g := generation{IDs: []int32{}}
	stream, err := eng.Submit(ctx, r)
	if err != nil {
		return g, err
	}
	defer stream.Close()
	var text strings.Builder
	for {
		t, err := stream.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return g, err
		}
		take(t)
		if t.HasToken {
			g.IDs = append(g.IDs, t.ID)
		}
		if t.Finish != "" {
			g.FinishReason = t.Finish
		}
		if t.Text == "" {
			continue
		}
		text.WriteString(t.Text)
		if err := show(t.Text); err != nil {
			return g, fmt.Errorf("write text: %w", err)
		}
	}
	u := stream.Usage()
	g.Text, g.PromptTokens, g.CompletionTokens = text.String(), u.PromptTokens, u.CompletionTokens
	g.Seconds = time.Since(start).Seconds()
	return g, nil
}
