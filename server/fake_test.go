package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// fakeEngine is a small engine that works: it "generates" by calling script for each token until the finish, and it
// counts the slots that are taken. Tests use it for what the real one can't be made to do on purpose.
type fakeEngine struct {
	script func(ctx context.Context, n int) (engine.Token, error) // the n-th token of a stream
	refuse error                                                  // of Submit
	hidden func(x tensor.Matrix) (tensor.Matrix, error)

	slots    atomic.Int64
	trims    atomic.Int64
	draining atomic.Bool
}

func (f *fakeEngine) Submit(ctx context.Context, r engine.Request) (engine.Stream, error) {
	if f.refuse != nil {
		return nil, f.refuse
	}
	if f.draining.Load() {
		return nil, fmt.Errorf("draining: %w", sdk.ErrUnavailable)
	}
	f.slots.Add(1)
	return &fakeStream{f: f, prompt: len(r.Prompt)}, nil
}

func (f *fakeEngine) Hidden(_ context.Context, _ int, x tensor.Matrix, _ bool, _ moe.Accept) (tensor.Matrix, []engine.RouteInfo, engine.Quality, error) {
	y, err := f.hidden(x)
	return y, nil, engine.Quality{}, err
}

func (f *fakeEngine) Admits(string, engine.Priority, time.Time) error { return f.refuse }

func (f *fakeEngine) Trim() { f.trims.Add(1) }

func (f *fakeEngine) Stats() engine.Stats { return engine.Stats{Running: int(f.slots.Load())} }

func (f *fakeEngine) Drain(ctx context.Context) error {
	f.draining.Store(true)
	for f.slots.Load() > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

type fakeStream struct {
	f      *fakeEngine
	n      atomic.Int64
	prompt int
	done   bool // Finish was given
	closed atomic.Bool
}

func (s *fakeStream) Next(ctx context.Context) (engine.Token, error) {
	if s.done {
		s.Close()
		return engine.Token{}, io.EOF
	}
	if err := ctx.Err(); err != nil {
		s.Close()
		return engine.Token{}, context.Cause(ctx)
	}
	t, err := s.f.script(ctx, int(s.n.Load()))
	s.n.Add(1)
	s.done = t.Finish != ""
	if err != nil {
		s.Close()
	}
	return t, err
}

func (s *fakeStream) Usage() engine.Usage {
	return engine.Usage{PromptTokens: s.prompt, CompletionTokens: int(s.n.Load())}
}

func (s *fakeStream) Close() {
	if s.closed.CompareAndSwap(false, true) {
		s.f.slots.Add(-1)
	}
}

// hangs is a script that gives some tokens and then nothing until the request is cancelled.
func hangs(after int) func(context.Context, int) (engine.Token, error) {
	return func(ctx context.Context, n int) (engine.Token, error) {
		if n < after {
			return engine.Token{ID: 1, Text: "x", HasToken: true}, nil
		}
		<-ctx.Done()
		err := context.Cause(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w", sdk.ErrDeadline, err)
		}
		return engine.Token{}, err
	}
}

// fails is a script that gives some tokens and then an error.
func fails(after int, err error) func(context.Context, int) (engine.Token, error) {
	return func(_ context.Context, n int) (engine.Token, error) {
		if n < after {
			return engine.Token{ID: 1, Text: "x", HasToken: true}, nil
		}
		return engine.Token{}, err
	}
}

// fakeService is a model of 26 tokens, the letters.
func fakeService(f *fakeEngine) *service {
	return &service{
		id: "fake", created: time.Unix(1700000000, 0), digest: "sha256:0123456789abcdef0123", class: func() string { return "f32" }, hidden: 2, vocab: 26, context: 64,
		layers: []int{0, 2}, defaults: sampler.Params{Temperature: 1, TopP: 1}, engine: f, text: letters{}, ready: func() error { return nil }, lacking: func() error { return nil },
		experts: func() any { return []any{} }, groups: func() any { return []any{} }, release: func(string, int) (int, error) { return 0, sdk.ErrNotFound }, router: func() any { return nil }, metrics: metrics.New(),
	}
}

// letters is a tokenizer with a token for each letter.
type letters struct{}

func (letters) Encode(text string, _ bool) []int32 {
	var ids []int32
	for _, r := range text {
		ids = append(ids, (r-'a'+26)%26)
	}
	return ids
}

func (letters) Decode(ids []int32, _ bool) string {
	var out []byte
	for _, id := range ids {
		out = append(out, 'a'+byte(id))
	}
	return string(out)
}

func (letters) Token(id int32) (string, bool) { return string(rune('a' + id)), id >= 0 && id < 26 }

func (letters) Writes(id int32) (behind, first []byte) { b := []byte{'a' + byte(id)}; return b, b }

func (letters) Size() int { return 26 }

func (letters) Chat() (*tokenizer.Template, error) {
	return nil, fmt.Errorf("no template: %w", sdk.ErrNotFound)
}

var (
	_ engineAPI = (*fakeEngine)(nil)
	_ textAPI   = letters{}
)
