// Package rerun runs a record again, in this process or on a server, and makes the record of that: what replay.Compare
// compares. The commands replay and generate use it. It refuses to run what can't give
// the same tokens: a draw without a seed, and calls of tools, whose form a record does not have.
package rerun

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/grammar"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/instance"
	"github.com/pimoe/pimoe/server/recorder"
	"github.com/pimoe/pimoe/server/replay"
)

// Head is what a record says of an instance.
func Head(i *instance.Instance) replay.Record {
	r := replay.Record{Model: i.ID, Digest: i.Digest, Router: i.Applied().Router.Plugin}
	main, _ := i.Classes()
	var classes []string
	for _, c := range main {
		if c != "" && !slices.Contains(classes, c) {
			classes = append(classes, c)
		}
	}
	r.Class = strings.Join(classes, ",")
	if i.Host.Router().Info().Has(sdk.CapLoadDependent) {
		r.Routing = sdk.CapLoadDependent
	}
	return r
}

// Here runs a record again on an instance, one run after the other.
func Here(ctx context.Context, i *instance.Instance, was *replay.Record) (*replay.Record, error) {
	rec := recorder.New(false)
	for n := range was.Runs {
		if err := here(ctx, i, rec, &was.Runs[n]); err != nil {
			return nil, fmt.Errorf("runs[%d].%w", n, err)
		}
	}
	return rec.Finish(Head(i))
}

func here(ctx context.Context, i *instance.Instance, rec *recorder.Recorder, run *replay.Run) error {
	if err := repeatable(run); err != nil {
		return err
	}
	q := engine.Request{ID: "replay", Prompt: run.Prompt, MaxTokens: run.MaxTokens, Sampling: paramsOf(run.Sampling), Stop: run.Stop, IgnoreEOS: run.IgnoreEOS, Logprobs: -1}
	if run.Form != nil {
		f, err := recorder.FormOf(run.Form)
		if err != nil {
			return err
		}
		v, err := instance.VocabularyOf(i.Tokenizer, i.Model.Vocab, i.Model.EOS)
		if err != nil {
			return err
		}
		g, err := grammar.Compile(f, v)
		if err != nil {
			return fmt.Errorf("form: %w", err)
		}
		q.Form = g.Matcher()
	}
	c := rec.Follow(&q, run.Form, false)
	return follow(ctx, i.Engine, c, q)
}

// follow reads a recorded request's stream to the end.
func follow(ctx context.Context, e *engine.Engine, c *recorder.Choice, q engine.Request) error {
	s, err := e.Submit(ctx, q)
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		t, err := s.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		c.Take(t)
	}
}

// repeatable refuses a draw that nobody can have again.
func repeatable(run *replay.Run) error {
	if run.Sampling.Temperature > 0 && run.Sampling.Seed == nil {
		return fmt.Errorf("sampling.seed: null: the draw had no seed, so it can't be had again: %w", sdk.ErrUnsupported)
	}
	return nil
}

func paramsOf(s replay.Sampling) sampler.Params {
	p := sampler.Params{
		Temperature: s.Temperature, TopK: s.TopK, TopP: s.TopP, MinP: s.MinP, RepetitionPenalty: s.RepetitionPenalty,
		FrequencyPenalty: s.FrequencyPenalty, PresencePenalty: s.PresencePenalty, LogitBias: s.LogitBias,
	}
	if s.Seed != nil {
		p.Seeded, p.Seed = true, *s.Seed
	}
	return p
}

// Server is where There runs a record.
type Server struct {
	URL     string // its base, such as http://127.0.0.1:8080
	Key     string // empty = none
	Timeout time.Duration
}

// There runs a record again on a server, by its completions API.
func There(ctx context.Context, s Server, was *replay.Record) (*replay.Record, error) {
	client := &http.Client{Timeout: s.Timeout, Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	model, err := s.model(ctx, client)
	if err != nil {
		return nil, err
	}
	var now *replay.Record
	for n := range was.Runs {
		run := &was.Runs[n]
		if err := repeatable(run); err != nil {
			return nil, fmt.Errorf("runs[%d].%w", n, err)
		}
		body, err := bodyOf(model, run)
		if err != nil {
			return nil, fmt.Errorf("runs[%d].%w", n, err)
		}
		answer, err := s.ask(ctx, client, http.MethodPost, "/v1/completions", body)
		if err != nil {
			return nil, fmt.Errorf("runs[%d]: %w", n, err)
		}
		r, err := replay.Parse(answer)
		if err != nil {
			return nil, fmt.Errorf("the server's answer: %w", err)
		}
		if now == nil {
			now = r
			continue
		}
		now.Processes = append(now.Processes, r.Processes...)
		now.Runs = append(now.Runs, r.Runs...)
	}
	return now, nil
}

// model is the id of the one model that the server has.
func (s Server) model(ctx context.Context, client *http.Client) (string, error) {
	b, err := s.ask(ctx, client, http.MethodGet, "/v1/models", nil)
	if err != nil {
		return "", err
	}
	var list struct{ Data []struct{ ID string } }
	if err := json.Unmarshal(b, &list); err != nil || len(list.Data) != 1 {
		return "", fmt.Errorf("GET /v1/models: want one model: %w", sdk.ErrInvalidOutput)
	}
	return list.Data[0].ID, nil
}

// bodyOf says a run in the words of the API. Where the sampler's zero means none, the API has another value for it.
func bodyOf(model string, run *replay.Run) ([]byte, error) {
	p := run.Sampling
	body := map[string]any{
		"model": model, "prompt": run.Prompt, "max_tokens": run.MaxTokens, "temperature": p.Temperature, "top_k": p.TopK, "top_p": p.TopP, "min_p": p.MinP,
		"frequency_penalty": p.FrequencyPenalty, "presence_penalty": p.PresencePenalty, "ignore_eos": run.IgnoreEOS,
		"repetition_penalty": p.RepetitionPenalty, "pimoe": map[string]bool{"trace": true},
	}
	for _, off := range []struct {
		name  string
		value float32
	}{{"top_p", p.TopP}, {"repetition_penalty", p.RepetitionPenalty}} {
		if off.value == 0 {
			body[off.name] = 1
		}
	}
	if p.Seed != nil {
		body["seed"] = int64(*p.Seed)
	}
	if len(p.LogitBias) > 0 {
		body["logit_bias"] = p.LogitBias
	}
	if len(run.Stop) > 0 {
		body["stop"] = run.Stop
	}
	if f := run.Form; f != nil {
		if _, err := recorder.FormOf(f); err != nil {
			return nil, err
		}
		format := map[string]any{"type": f.Kind}
		if f.Kind == "json_schema" {
			schema := map[string]any{"name": "form"}
			if f.Schema != nil {
				schema["schema"] = f.Schema
			}
			format[f.Kind] = schema
		} else if f.Text != "" {
			format[f.Kind] = f.Text
		}
		body["response_format"] = format
	}
	return json.Marshal(body)
}

// mostAnswer bounds an answer: as large as a record's file.
const mostAnswer = replay.MaxFile

// ask sends one request. A refusal is told in the server's words.
func (s Server) ask(ctx context.Context, client *http.Client, method, path string, body []byte) ([]byte, error) {
	at, err := url.JoinPath(s.URL, path)
	if err != nil {
		return nil, fmt.Errorf("--url: %v: %w", err, sdk.ErrInvalid)
	}
	r, err := http.NewRequestWithContext(ctx, method, at, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("--url: %v: %w", err, sdk.ErrInvalid)
	}
	r.Header.Set("Content-Type", "application/json")
	if s.Key != "" {
		r.Header.Set("Authorization", "Bearer "+s.Key)
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, sdk.ErrUnavailable)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode == http.StatusOK {
		return b, nil
	}
	var refused struct{ Error struct{ Message string } }
	_ = json.Unmarshal(b, &refused) // another shape leaves the status
	class := sdk.ErrUnavailable
	if resp.StatusCode < http.StatusInternalServerError {
		class = sdk.ErrInvalid
	}
	return nil, fmt.Errorf("%s %s: %s: %.300s: %w", method, path, resp.Status, refused.Error.Message, class)
}
