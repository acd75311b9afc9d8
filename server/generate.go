package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/grammar"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/openai"
	"github.com/pimoe/pimoe/server/recorder"
	"github.com/pimoe/pimoe/server/replay"
	"github.com/pimoe/pimoe/server/strictjson"
	"github.com/pimoe/pimoe/server/tracing"
)

// generation is one client request as a set of engine requests, one for each choice.
type generation struct {
	s       *Server
	id      string
	take    moe.Accept
	rank    engine.Priority
	want    *openai.Request
	form    *grammar.Grammar // nil = any text
	choices []*choice
	// recorder makes the trace; nil = nobody asks.
	recorder *recorder.Recorder
}

// choice is one continuation.
type choice struct {
	index  int
	prompt []int32
	echo   *echo            // nil = the prompt is not part of the answer
	calls  *callParser      // nil = there are no tools
	traced *recorder.Choice // nil = nobody asks
	follow *tracing.Generation
	stream engine.Stream
	first  bool // its prompt is counted in the usage: once for all n choices
	offset int  // characters of the answer's text so far, for logprobs
	score  score
}

// prompt is one prompt of a request: its ids, and the text to echo.
type prompt struct {
	ids  []int32
	text string
	lead int // ids at the start that the tokenizer added and that are not in the text
}

// piece is a part of the answer, and the quality of all that has come of this choice so far.
type piece struct {
	openai.Choice
	quality engine.Quality
	traced  []replay.Token // nil = nobody asks
}

// start submits all choices. The caller must call close on the generation.
func (s *Server) start(ctx context.Context, r *request, want *openai.Request, prompts []prompt) (*generation, error) {
	r.features = featuresOf(want)
	if err := s.checkReproducible(want); err != nil {
		return nil, err
	}
	if l := s.now.Load().Limits; len(prompts)*want.N > l.MaxConcurrentRequests+l.MaxQueuedRequests {
		most := l.MaxConcurrentRequests + l.MaxQueuedRequests
		return nil, &strictjson.Error{Path: "n", Expected: fmt.Sprintf("at most %d choices in all", most), Got: fmt.Sprint(len(prompts) * want.N)}
	}
	form, calls, err := s.compile(want)
	if err != nil {
		return nil, err
	}
	for _, p := range prompts {
		if err := s.checkRoom(form, want, len(p.ids)); err != nil {
			return nil, err
		}
	}
	g := &generation{s: s, id: r.id, take: r.take, rank: r.priority, want: want, form: form}
	if want.Trace.Tokens {
		g.recorder = recorder.New(want.Trace.Prompt)
	}
	for i, p := range prompts {
		for n := range want.N {
			c := &choice{index: i*want.N + n, prompt: p.ids, first: n == 0}
			if calls != nil {
				c.calls = newCallParser(*calls, want.Tools)
			}
			if err := g.submit(ctx, c, p, n); err != nil {
				g.close()
				return nil, err
			}
			g.choices = append(g.choices, c)
		}
	}
	return g, nil
}

// submit hands one choice to the engine.
func (g *generation) submit(ctx context.Context, c *choice, p prompt, n int) error {
	r := engine.Request{
		ID: g.id, Prompt: p.ids, MaxTokens: g.s.maxTokens(g.want), Sampling: g.want.Sampling.Params(g.s.service.defaults, n),
		Stop: g.want.Stop, IgnoreEOS: g.want.IgnoreEOS, Logprobs: g.want.Logprobs,
		Accept: g.take, Tenant: access.From(ctx).Tenant, Priority: g.rank,
	}
	if g.form != nil && g.want.MaxTokens != 0 {
		r.Form = g.form.Matcher()
	}
	if deadline, ok := ctx.Deadline(); ok {
		r.Deadline = deadline
	}
	if g.want.Echo {
		c.echo = newEcho(p, g.want.Logprobs)
		if g.want.Logprobs >= 0 {
			r.Observe = c.echo.observer()
		}
	}
	if g.want.Best > 0 {
		r.Logprobs = max(r.Logprobs, 0)
	}
	if g.recorder != nil {
		if r.MaxTokens == 0 {
			r.MaxTokens = g.s.service.context - len(p.ids)
		}
		c.traced = g.recorder.Follow(&r, tracedForm(g.want), g.s.service.routing == "")
	}
	c.follow = tracing.From(ctx).Follow(&r)
	var err error
	if c.stream, err = g.s.service.engine.Submit(ctx, r); err != nil {
		c.follow.Done(engine.Usage{}, err)
	}
	return err
}

// maxTokens is the engine's limit: 0 asks for the prompt's logprobs alone, and the one token that the engine then
// makes is dropped.
func (s *Server) maxTokens(want *openai.Request) int {
	switch {
	case want.MaxTokens == 0:
		return 1
	case want.MaxTokens > 0:
		return want.MaxTokens
	case want.Messages == nil:
		return defaultMaxTokens
	}
	return s.service.maxNew
}

// defaultMaxTokens is OpenAI's default of /v1/completions.
const defaultMaxTokens = 16

// run reads all choices until their ends and calls emit for each piece, from this goroutine. With idle not nil it is
// called whenever nothing has come for the keep-alive time. The first error, also of these two, ends all choices.
func (g *generation) run(ctx context.Context, emit func(piece) error, idle func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	pieces, errs := make(chan piece, len(g.choices)), make(chan error, len(g.choices))
	var readers sync.WaitGroup
	for _, c := range g.choices {
		readers.Go(func() { errs <- g.read(ctx, c, pieces) })
	}
	defer readers.Wait()
	defer cancel() // before the wait: the readers end
	tick := time.NewTicker(g.s.limits.keepAlive)
	defer tick.Stop()
	for left := len(g.choices); left > 0; {
		select {
		case p := <-pieces:
			if err := emit(p); err != nil {
				return err
			}
			tick.Reset(g.s.limits.keepAlive)
		case failed := <-errs:
			// What the reader gave before its end may still be in the channel.
			for len(pieces) > 0 {
				if err := emit(<-pieces); err != nil {
					return err
				}
			}
			if left--; failed != nil {
				return failed
			}
		case <-tick.C:
			if idle == nil {
				continue
			}
			if err := idle(); err != nil {
				return err
			}
		}
	}
	return nil
}

// read turns one engine stream into pieces. It runs on a goroutine of its own, so a panic becomes an error here.
func (g *generation) read(ctx context.Context, c *choice, out chan<- piece) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
		c.follow.Done(c.stream.Usage(), err)
	}()
	for {
		t, err := c.stream.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case out <- g.pieceOf(c, t):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pieceOf is one token as a part of the answer, with its trace if one is asked for.
func (g *generation) pieceOf(c *choice, t engine.Token) piece {
	p := piece{quality: t.Quality}
	c.score.add(t)
	if c.traced != nil {
		p.traced = c.traced.Take(t)
		t.Top = t.Top[:min(max(g.want.Logprobs, 0), len(t.Top))] // the trace may have wanted more
	}
	p.Choice = g.piece(c, t)
	return p
}

// piece is one token as a part of the answer, behind the echoed prompt if it is the first.
func (g *generation) piece(c *choice, t engine.Token) openai.Choice {
	p := openai.Choice{Index: c.index, Finish: string(t.Finish)}
	if c.echo != nil {
		p.Text, p.Logprobs = c.echo.take(g.s.service.text)
		c.offset = utf8.RuneCountInString(p.Text)
		c.echo = nil
	}
	if g.want.MaxTokens == 0 {
		p.Finish = string(engine.FinishLength)
		return p
	}
	if p.Text += t.Text; c.calls != nil {
		p.Text, p.Calls = c.calls.push(t.Text, t.Finish != "")
		if c.calls.calls > 0 && t.Finish == engine.FinishStop && g.want.ToolChoice.Mode != openai.ToolNamed {
			p.Finish = "tool_calls" // a named tool is no choice of the model's: OpenAI says stop
		}
	}
	if g.want.Logprobs >= 0 && t.HasToken {
		p.Logprobs = append(p.Logprobs, g.s.tokenOf(t, c.offset))
		c.offset += utf8.RuneCount(p.Logprobs[len(p.Logprobs)-1].Bytes)
	}
	return p
}

// whole runs the generation to its end and joins the pieces of each choice.
func (g *generation) whole(ctx context.Context) ([]openai.Choice, error) {
	j := g.joiner()
	err := g.run(ctx, func(p piece) error { j.add(p); return nil }, nil)
	return g.best(j.joined()), err
}

// joiner puts the pieces of each choice together.
type joiner struct {
	choices []openai.Choice
	texts   []strings.Builder
}

func (g *generation) joiner() *joiner {
	j := &joiner{choices: make([]openai.Choice, len(g.choices)), texts: make([]strings.Builder, len(g.choices))}
	for i := range j.choices {
		j.choices[i].Index = i
		if g.want.Logprobs >= 0 {
			j.choices[i].Logprobs = []openai.Token{}
		}
	}
	return j
}

func (j *joiner) add(p piece) {
	c := &j.choices[p.Index]
	j.texts[p.Index].WriteString(p.Text)
	c.Logprobs = append(c.Logprobs, p.Logprobs...)
	c.Calls = joinCalls(c.Calls, p.Calls)
	if p.Finish != "" {
		c.Finish = p.Finish
	}
}

func (j *joiner) joined() []openai.Choice {
	for i := range j.choices {
		j.choices[i].Text = j.texts[i].String()
	}
	return j.choices
}

// joinCalls adds pieces of calls to whole ones.
func joinCalls(calls, pieces []openai.Call) []openai.Call {
	for _, c := range pieces {
		if c.Index == len(calls) {
			calls = append(calls, c)
		} else {
			calls[c.Index].Arguments += c.Arguments
		}
	}
	return calls
}

// usage sums what the choices cost; a prompt counts once.
func (g *generation) usage() openai.Usage {
	var u openai.Usage
	for _, c := range g.choices {
		e := c.stream.Usage()
		if c.first {
			u.PromptTokens += len(c.prompt)
			u.CachedTokens += e.CachedTokens
		}
		if g.want.MaxTokens != 0 {
			u.CompletionTokens += e.CompletionTokens
		}
	}
	return u
}

// programs are the plugins that compute the choices, which may have begun before and after a change of them.
func (g *generation) programs() string {
	var all []string
	for _, c := range g.choices {
		if p := c.stream.Usage().Programs; p != "" && !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return strings.Join(all, " | ")
}

// version is what computed all choices; empty if they were of several versions, or nobody knows.
func (g *generation) version() string {
	v := ""
	for i, c := range g.choices {
		if of := c.stream.Usage().Version; i > 0 && of != v {
			return ""
		} else {
			v = of
		}
	}
	return v
}

// quality joins what computed the choices; a prompt is part of each.
func (g *generation) quality() engine.Quality {
	var q engine.Quality
	for _, c := range g.choices {
		q = worse(q, c.stream.Usage().Quality)
	}
	return q
}

// close frees the slots of what still runs.
func (g *generation) close() {
	for _, c := range g.choices {
		c.stream.Close()
		c.follow.Done(c.stream.Usage(), context.Canceled) // if it has not been read to its end
	}
}
