package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/instance"
)

// maxLine bounds one line of a chat: a megabyte is far beyond any model's context.
const maxLine = 1 << 20

func (a *app) chat() *cobra.Command {
	var s sampling
	var system string
	c := &cobra.Command{
		Use:   "chat [flags]",
		Short: "Talk with the model line by line",
		Long: `Talk with the model line by line. Every answer sees the whole conversation; the cache keeps what
was computed before. "/clear" starts anew, "/exit" or the end of the input leaves.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if err := s.check(); err != nil {
				return err
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
			talk := conversation{app: a, inst: inst}
			if system != "" {
				talk.system = []message{{"system", system}}
			}
			return talk.run(c.Context(), engine.Request{ID: "chat", MaxTokens: s.n, Sampling: s.params(c, inst), Logprobs: -1})
		},
	}
	s.flags(c)
	c.Flags().StringVar(&system, "system", "", "system `message` before the conversation")
	modelFlags(c)
	return c
}

// conversation is a chat on a terminal.
type conversation struct {
	*app
	inst    *instance.Instance
	system  []message
	history []message
}

func (t *conversation) run(ctx context.Context, r engine.Request) error {
	lines, failed := t.lines(ctx)
	for {
		t.prompt()
		select {
		case <-ctx.Done():
			fmt.Fprintln(t.out)
			return ctx.Err()
		case line, ok := <-lines:
			if !ok {
				return <-failed
			}
			switch line = strings.TrimSpace(line); line {
			case "":
			case "/exit", "/quit":
				return nil
			case "/clear":
				t.history = nil
			default:
				err := t.answer(ctx, r, line)
				if errors.Is(err, sdk.ErrInvalid) { // most likely the conversation has become too long
					fmt.Fprintf(t.err, "pimoe: %s (/clear starts a new conversation)\n", oneLine(err.Error()))
				} else if err != nil {
					return err
				}
			}
		}
	}
}

// prompt shows people that it is their turn; scripts don't need it.
func (t *conversation) prompt() {
	if t.errTTY {
		fmt.Fprint(t.err, "> ")
	}
}

// lines reads the input in the background, because a read can't be cancelled. The goroutine ends with the input or
// with the process.
func (t *conversation) lines(ctx context.Context) (<-chan string, <-chan error) {
	lines, failed := make(chan string), make(chan error, 1)
	go func() {
		defer close(lines)
		sc := bufio.NewScanner(t.in)
		sc.Buffer(nil, maxLine)
		for sc.Scan() {
			select {
			case lines <- sc.Text():
			case <-ctx.Done():
				failed <- nil
				return
			}
		}
		if err := sc.Err(); err != nil {
			failed <- fmt.Errorf("read line: %w", err)
			return
		}
		failed <- nil
	}()
	return lines, failed
}

func (t *conversation) answer(ctx context.Context, r engine.Request, line string) error {
	turns := append(append([]message{}, t.system...), t.history...)
	turns = append(turns, message{"user", line})
	var err error
	if r.Prompt, err = encodeChat(ctx, t.inst.Tokenizer, turns); err != nil {
		return err
	}
	g, err := runRequest(ctx, t.inst.Engine, r, func(text string) error {
		_, err := io.WriteString(t.out, text)
		return err
	})
	fmt.Fprintln(t.out)
	if err != nil {
		return err
	}
	t.history = append(t.history, message{"user", line}, message{"assistant", g.Text})
	return nil
}
