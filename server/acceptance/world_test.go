package acceptance

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/int8"
	"github.com/pimoe/pimoe/backends/ref"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	"github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/server/instance"
)

// builtin is what the executable links.
func builtin() instance.Builtin {
	return instance.Builtin{
		Expert: func(backend string) (expert.Expert, error) {
			switch backend {
			case "ref":
				return ffn.New(ref.New(), ffn.Options{}), nil
			case "int8":
				return ffn.New(int8.New(), ffn.Options{}), nil
			}
			return ffn.New(cpu.New(), ffn.Options{}), nil
		},
		Router: func(string) (router.Router, error) { return model.New(), nil },
	}
}

// home is a store of its own for a test. Its path is short, as a socket's must be.
func home(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pimoe-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// open starts an instance with real processes, with the changes to the default configuration, and closes it at the end.
func open(t testing.TB, change ...func(*config.Config)) *instance.Instance {
	t.Helper()
	i, err := tryOpen(t, change...)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// events are what an instance has told of itself.
type events struct {
	mu   sync.Mutex
	list []host.Event
}

func (e *events) add(ev host.Event) { e.mu.Lock(); e.list = append(e.list, ev); e.mu.Unlock() }

// of are the events of a kind.
func (e *events) of(what string) (out []host.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.list {
		if ev.What == what {
			out = append(out, ev)
		}
	}
	return out
}

var eventsOf sync.Map // the last instance's, by its store

func tryOpen(t testing.TB, change ...func(*config.Config)) (*instance.Instance, error) {
	t.Helper()
	c := config.Default()
	c.Plugins.Dir = coretest.Binaries(t)
	c.Limits.RequestTimeout = 2 * time.Minute
	for _, f := range change {
		f(&c)
	}
	if c.Home == config.Default().Home {
		c.Home = home(t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	told := &events{}
	eventsOf.Store(c.Home, told)
	i, err := instance.Open(ctx, instance.Options{Config: c, Event: told.add, Log: slog.New(slog.NewTextHandler(testLog{t}, nil)), Builtin: builtin(), SweepEvery: sweepEvery})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	return i, nil
}

// sweepEvery is short, so that a test of damaged weights is, too.
const sweepEvery = 300 * time.Millisecond

// testLog shows the host's log with a failed test.
type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// answer is a finished continuation.
type answer struct {
	text   string
	ids    []int32
	tokens []engine.Token
	stall  time.Duration // longest gap between two tokens
	err    error
}

// run submits a request and reads it to its end.
func run(ctx context.Context, i *instance.Instance, r engine.Request) answer {
	var a answer
	s, err := i.Engine.Submit(ctx, r)
	if err != nil {
		a.err = err
		return a
	}
	defer s.Close()
	last := time.Now()
	for {
		tok, err := s.Next(ctx)
		if errors.Is(err, io.EOF) {
			return a
		}
		if err != nil {
			a.err = err
			return a
		}
		a.stall = max(a.stall, time.Since(last))
		last = time.Now()
		a.text += tok.Text
		a.tokens = append(a.tokens, tok)
		if tok.HasToken {
			a.ids = append(a.ids, tok.ID)
		}
	}
}

// greedy asks for exactly n tokens of the most probable continuation.
func greedy(prompt []int32, n int) engine.Request {
	return engine.Request{Prompt: prompt, MaxTokens: n, IgnoreEOS: true, Logprobs: -1, Sampling: sampler.Params{}}
}

// story is a prompt of the embedded model.
func story(i *instance.Instance, about string) []int32 {
	return i.Tokenizer.Encode("<|im_start|>user\nTell me a story about "+about+".<|im_end|>\n<|im_start|>assistant\n", false)
}
