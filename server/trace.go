package server

import (
	"math/rand/v2"
	"sync"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/server/openai"
	"github.com/pimoe/pimoe/server/replay"
)

// This file follows a request's own tokens through the model, where its principal asks for it with pimoe: {trace: true}.
// Expert ids tell of the text, so a trace goes into the answer of the request that asked and nowhere else: no log, metric
// or other answer has any of it. It knows of no other request: the engine shows it the rows of its own sequences.

const (
	// tracedExperts bounds the trace of one request, in experts of positions: some 6 MB of JSON. What comes later has no
	// layers, and the record says that it is truncated.
	tracedExperts = 1 << 16
	// tracedTop is how many alternatives each token has, so that a replay that differs can say by how much.
	tracedTop = 4
)

// trace is what is known of one request's choices.
type trace struct {
	mu        sync.Mutex // guards all below, and what the tracers hold; the engine's loop fills, the readers of the streams take
	processes []replay.Process
	numbers   map[replay.Process]int
	told      int // processes that the client of a stream knows
	left      int // of tracedExperts
	truncated bool
}

func newTrace() *trace { return &trace{numbers: map[replay.Process]int{}, left: tracedExperts} }

// tracer follows one choice.
type tracer struct {
	trace *trace
	run   replay.Run
	ways  map[int][]replay.Layer // by position, until its token takes it
}

// follow makes a choice's request a traced one. A draw without a seed gets one, so that it can be had again, unless the
// router depends on load.
func (t *trace) follow(r *engine.Request, index int, want *openai.Request, form *replay.Form, fixed bool) *tracer {
	f := &tracer{trace: t, ways: map[int][]replay.Layer{}}
	if r.Sampling.Temperature > 0 && !r.Sampling.Seeded && fixed {
		r.Sampling.Seeded, r.Sampling.Seed = true, rand.Uint64()
	}
	f.run = replay.Run{
		Index: index, Prompt: r.Prompt, Sampling: samplingOf(r.Sampling), MaxTokens: r.MaxTokens, Stop: r.Stop, IgnoreEOS: r.IgnoreEOS,
		Form: form, Tokens: []replay.Token{},
	}
	r.Logprobs = max(r.Logprobs, tracedTop)
	if r.Observe == nil {
		r.Observe = &engine.Observer{}
		if !want.Trace.Prompt {
			r.Observe.From = len(r.Prompt) - 1 // whose output chooses the first token
		}
	}
	r.Observe.Hop = f.hop
	return f
}

func samplingOf(p sampler.Params) replay.Sampling {
	s := replay.Sampling{
		Temperature: p.Temperature, TopK: p.TopK, TopP: p.TopP, MinP: p.MinP, RepetitionPenalty: p.RepetitionPenalty,
		FrequencyPenalty: p.FrequencyPenalty, PresencePenalty: p.PresencePenalty, LogitBias: p.LogitBias,
	}
	if p.Seeded {
		s.Seed = &p.Seed
	}
	return s
}

// hop takes a position's way through one layer; it runs in the decode loop. A position that is computed again, after an
// outage, begins anew.
func (f *tracer) hop(position int, h *moe.Hop) {
	f.trace.mu.Lock()
	defer f.trace.mu.Unlock()
	way := f.ways[position]
	if n := len(way); n > 0 && way[n-1].Layer >= h.Layer {
		way = way[:0]
	}
	if f.trace.left -= len(h.Experts); f.trace.left < 0 {
		f.trace.truncated = true
		delete(f.ways, position)
		return
	}
	l := replay.Layer{Layer: h.Layer, Route: h.Route.Microseconds(), Combine: h.Combine.Microseconds(), Experts: make([]replay.Expert, len(h.Experts))}
	for i, e := range h.Experts {
		x := replay.Expert{Expert: e.Expert, Weight: e.Weight, Process: -1}
		if e.By != nil {
			x.Process, x.Call = f.trace.process(e.By), e.By.Took.Microseconds()
			if e.By.Attempts > 1 {
				x.Attempts = e.By.Attempts
			}
		}
		if e.Other != e.Expert {
			x.Instead = &e.Other
		}
		l.Experts[i] = x
	}
	f.ways[position] = append(way, l)
}

// process is the number of a process.
func (t *trace) process(a *moe.Answer) int {
	p := replay.Process{Group: a.Group, Replica: a.Replica, PID: a.PID, Backend: a.Backend, Class: a.Class, Program: a.Program, Version: a.Version}
	n, known := t.numbers[p]
	if !known {
		n = len(t.processes)
		t.numbers[p] = n
		t.processes = append(t.processes, p)
	}
	return n
}

// take is a token with its way, and adds it to the run. One without a token ends the run.
func (f *tracer) take(t engine.Token) []replay.Token {
	f.trace.mu.Lock()
	defer f.trace.mu.Unlock()
	if t.Finish != "" {
		f.run.Finish = string(t.Finish)
	}
	if !t.HasToken {
		return nil
	}
	before := len(f.run.Prompt) + len(f.run.Tokens) - 1
	out := replay.Token{
		Position: before + 1, ID: t.ID, Logprob: finite(t.Logprob), Queue: t.Queue.Microseconds(), Step: t.Step.Microseconds(),
		Quality: qualityOf(t.Quality), Layers: f.ways[before],
	}
	for _, alt := range t.Top {
		out.Top = append(out.Top, replay.Alternative{ID: alt.ID, Logprob: finite(alt.Logprob)})
	}
	if before >= len(f.run.Prompt) { // of the prompt's last position the prompt's own entry may have it, too
		delete(f.ways, before)
	}
	f.run.Tokens = append(f.run.Tokens, out)
	return f.run.Tokens[len(f.run.Tokens)-1:]
}

// finite is a log-probability as JSON can have it.
func finite(p float32) float32 { return max(p, openai.LeastLogprob) }

func qualityOf(q engine.Quality) *replay.Quality {
	if q.Status() == engine.StatusExact {
		return nil
	}
	return &replay.Quality{Status: q.Status(), Policy: q.Policy(), Layers: q.Layers, Dropped: q.Dropped}
}

// prompt is the prompt's positions.
func (f *tracer) prompt() []replay.Token {
	out := make([]replay.Token, len(f.run.Prompt))
	for i, id := range f.run.Prompt {
		out[i] = replay.Token{Position: i, ID: id, Layers: f.ways[i]}
	}
	return out
}

// piece is a part of a trace in an event of a stream.
type tracePiece struct {
	Index     int              `json:"index"`
	Processes []replay.Process `json:"processes,omitempty"` // that come new behind those of the events before
	Tokens    []replay.Token   `json:"tokens"`
}

// event is what an event of a stream says of some tokens.
func (t *trace) event(index int, tokens []replay.Token) *tracePiece {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &tracePiece{Index: index, Processes: t.processes[t.told:len(t.processes):len(t.processes)], Tokens: tokens}
	t.told = len(t.processes)
	return p
}

// record is all of a request that has ended: what a replay runs again.
func (g *generation) record() (*replay.Record, error) {
	t, s := g.trace, g.s
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &replay.Record{
		Model: s.service.id, Digest: s.service.digest, Class: s.service.class(), Router: s.service.routerName(), Routing: s.service.routing,
		Truncated: t.truncated, Processes: append([]replay.Process{}, t.processes...),
	}
	for _, c := range g.choices {
		run := c.tracer.run
		if g.want.Trace.Prompt {
			run.PromptTokens = c.tracer.prompt()
		}
		r.Runs = append(r.Runs, run)
	}
	if g.want.Stream { // the events had the layers of the tokens
		p := r.WithoutLayers()
		for i := range p.Runs {
			p.Runs[i].PromptTokens = r.Runs[i].PromptTokens
		}
		r = p
	}
	return r, r.Seal()
}

// tracedForm is how a record names the form of an answer.
func tracedForm(want *openai.Request) *replay.Form {
	if want.ToolChoice.Mode == openai.ToolsRequired || want.ToolChoice.Mode == openai.ToolNamed || len(want.Tools) > 0 && want.ToolChoice.Mode == openai.ToolsAuto && want.Format != nil {
		return &replay.Form{Kind: replay.Tools}
	}
	if want.Format == nil {
		return nil
	}
	return &replay.Form{Kind: string(want.Format.Kind), Text: want.Format.Text, Schema: want.Format.Schema}
}
