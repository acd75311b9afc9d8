package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/rerun"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
	"github.com/pimoe/pimoe/server/recorder"
	"github.com/pimoe/pimoe/server/replay"
)

func (a *app) replay() *cobra.Command {
	var url string
	c := &cobra.Command{
		Use:   "replay [flags] FILE",
		Short: "Run a recorded answer again and say what is different",
		Long: `Run a recorded answer again and say what is different.

FILE is what "pimoe generate --record" has written, or an answer of the API to a request with
"pimoe": {"trace": true}; "-" is standard input. The prompt's ids run again with the same sampling
parameters and seed: on the configured model, or with --url on a server. The outcome names what has
changed (model, precision, backend, plugin, router) and the first token that differs, with the gap
between both tokens' logits then and now. The exit code is 1 where tokens differ.`,
		Example: `  pimoe generate --record fox.json "Tell me a story about a fox."
  pimoe replay fox.json
  pimoe replay --url http://127.0.0.1:8080 answer.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			b, err := a.readInput(args[0])
			if err != nil {
				return err
			}
			was, err := replay.Read(bytes.NewReader(b))
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			now, err := a.runAgain(c, url, was)
			if err != nil {
				return err
			}
			return a.showReport(was, replay.Compare(was, now))
		},
	}
	c.Flags().StringVar(&url, "url", "", "base `URL` of a server that runs it, with PIMOE_API_KEY if it asks for a key")
	modelFlags(c)
	return c
}

// runAgain runs a record here or there.
func (a *app) runAgain(c *cobra.Command, url string, was *replay.Record) (now *replay.Record, err error) {
	cfg, err := a.load(c, quiet)
	if err != nil {
		return nil, err
	}
	if url != "" {
		return rerun.There(c.Context(), rerun.Server{URL: url, Key: cfg.APIKey, Timeout: loadTimeout}, was)
	}
	inst, err := a.open(c.Context(), cfg, false)
	if err != nil {
		return nil, err
	}
	defer closeInto(&err, inst.Close)
	return rerun.Here(c.Context(), inst, was)
}

// showReport prints the outcome; tokens that differ are a failure.
func (a *app) showReport(was *replay.Record, r replay.Report) error {
	if a.output == "json" {
		if err := table.JSON(a.out, r); err != nil {
			return err
		}
	} else {
		for _, c := range r.Changes {
			fmt.Fprintln(a.out, "changed:", c)
		}
		for _, d := range r.Runs {
			fmt.Fprintln(a.out, "differs:", d)
		}
		if r.Same {
			tokens := 0
			for _, run := range was.Runs {
				tokens += len(run.Tokens)
			}
			fmt.Fprintf(a.out, "the same %d tokens\n", tokens)
		}
	}
	if !r.Same {
		return errSilent
	}
	return nil
}

// recordGeneration is runRequest that also writes a record.
func recordGeneration(ctx context.Context, inst *instance.Instance, r engine.Request, file string, show func(text string) error) (generation, error) {
	rec := recorder.New(false)
	if r.MaxTokens == 0 {
		r.MaxTokens = inst.Engine.Context() - len(r.Prompt)
	}
	draw := rerun.Head(inst).Routing == ""
	c := rec.Follow(&r, nil, draw)
	g, err := runRequestTo(ctx, inst.Engine, r, show, func(t engine.Token) { c.Take(t) })
	if err != nil {
		return g, err
	}
	record, err := rec.Finish(rerun.Head(inst))
	if err != nil {
		return g, err
	}
	b, err := json.MarshalIndent(record, "", " ")
	if err != nil {
		return g, fmt.Errorf("encode record: %w", err)
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o600); err != nil { // it tells of the prompt
		return g, fmt.Errorf("write record: %w", err)
	}
	return g, nil
}
