// Package recorder makes the record of a request while the engine runs it. package server uses it for requests with
// pimoe: {trace: true}, server/cmd/pimoe for `generate --record` and `replay`.
//
// Expert ids tell of the text. So a record has what the engine shows of the request's own sequences, and of no others; it
// goes to the owner of the request, and whoever uses this package puts it into no log, metric or other answer. The package
// refuses to keep it, and to hold more than a bound.
package recorder

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/server/replay"
)

const (
	// mostExperts bounds the record of one request, in experts of positions: some 6 MB of JSON. What comes later has no
	// layers, and the record says that it is truncated.
	mostExperts = 1 << 16
	// Top is how many alternatives each token has, so that a replay that differs can say by how much.
	Top = 4
	// least stands for the logarithm of zero, which JSON lacks.
	least = -9999
)

// Recorder is what is known of one request. Its methods, and those of its Choices, may be called at the same time.
type Recorder struct {
	mu        sync.Mutex // guards all below, and what the Choices hold; the engine's loop fills, the readers of the streams take
	processes []replay.Process
	numbers   map[replay.Process]int
	told      int
	left      int // of mostExperts
	truncated bool
	choices   []*Choice
	prompts   bool
}

// New makes a Recorder. prompts says whether the positions of prompts are recorded, too.
func New(prompts bool) *Recorder {
	return &Recorder{numbers: map[replay.Process]int{}, left: mostExperts, prompts: prompts}
}

// Choice is one continuation of the request.
type Choice struct {
	r    *Recorder
	run  replay.Run
	ways map[int]way // by position, until its token takes it
}

// way is how a position was computed.
type way struct {
	layers      []replay.Layer
	queue, step int64 // microseconds
}

// Follow has a request of the engine recorded; it is called before Submit, and the next choice has the next index. form is
// what the request's Form was made of. With draw a request that samples without a seed gets one, so that its draw can be
// had again.
func (r *Recorder) Follow(q *engine.Request, form *replay.Form, draw bool) *Choice {
	if draw && q.Sampling.Temperature > 0 && !q.Sampling.Seeded {
		q.Sampling.Seeded, q.Sampling.Seed = true, rand.Uint64()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &Choice{r: r, ways: map[int]way{}}
	c.run = replay.Run{
		Index: len(r.choices), Prompt: q.Prompt, Sampling: samplingOf(q.Sampling), MaxTokens: q.MaxTokens, Stop: q.Stop, IgnoreEOS: q.IgnoreEOS,
		Form: form, Tokens: []replay.Token{},
	}
	r.choices = append(r.choices, c)
	q.Logprobs = max(q.Logprobs, Top)
	if q.Observe == nil {
		q.Observe = &engine.Observer{}
		if !r.prompts {
			q.Observe.From = len(q.Prompt) - 1 // whose output chooses the first token
		}
	}
	q.Observe.Hop, q.Observe.Step = c.hop, c.step
	return c
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
func (c *Choice) hop(position int, h *moe.Hop) {
	if c.unwanted(position) {
		return
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	w := c.ways[position]
	if n := len(w.layers); n > 0 && w.layers[n-1].Layer >= h.Layer {
		w.layers = w.layers[:0]
	}
	if c.r.left -= len(h.Experts); c.r.left < 0 {
		c.r.truncated = true
		delete(c.ways, position)
		return
	}
	l := replay.Layer{Layer: h.Layer, Route: h.Route.Microseconds(), Combine: h.Combine.Microseconds(), Experts: make([]replay.Expert, len(h.Experts))}
	for i, e := range h.Experts {
		l.Experts[i] = c.r.expert(e)
	}
	w.layers = append(w.layers, l)
	c.ways[position] = w
}

// unwanted positions are those of a prompt that somebody else observes.
func (c *Choice) unwanted(position int) bool { return !c.r.prompts && position < len(c.run.Prompt)-1 }

// step takes how long a position's step took; it runs in the decode loop.
func (c *Choice) step(position int, queue, took time.Duration) {
	if c.unwanted(position) {
		return
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	w := c.ways[position]
	w.queue, w.step = queue.Microseconds(), took.Microseconds()
	c.ways[position] = w
}

func (r *Recorder) expert(e moe.Served) replay.Expert {
	x := replay.Expert{Expert: e.Expert, Weight: e.Weight, Process: -1}
	if e.By != nil {
		x.Process, x.Call = r.process(e.By), e.By.Took.Microseconds()
		if e.By.Attempts > 1 {
			x.Attempts = e.By.Attempts
		}
	}
	if e.Other != e.Expert {
		x.Instead = &e.Other
	}
	return x
}

// process is the number of a process.
func (r *Recorder) process(a *moe.Answer) int {
	p := replay.Process{Group: a.Group, Replica: a.Replica, PID: a.PID, Backend: a.Backend, Class: a.Class, Program: a.Program, Version: a.Version}
	n, known := r.numbers[p]
	if !known {
		n = len(r.processes)
		r.numbers[p] = n
		r.processes = append(r.processes, p)
	}
	return n
}

// Take records a token of the stream, in order, and returns it with its way. There is nothing of one without an id.
func (c *Choice) Take(t engine.Token) []replay.Token {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if t.Finish != "" {
		c.run.Finish = string(t.Finish)
	}
	if !t.HasToken {
		return nil
	}
	before := len(c.run.Prompt) + len(c.run.Tokens) - 1
	w := c.ways[before]
	out := replay.Token{
		Position: before + 1, ID: t.ID, Logprob: finite(t.Logprob), Queue: w.queue, Step: w.step,
		Quality: qualityOf(t.Quality), Layers: w.layers,
	}
	for _, alt := range t.Top[:min(Top, len(t.Top))] {
		out.Top = append(out.Top, replay.Alternative{ID: alt.ID, Logprob: finite(alt.Logprob)})
	}
	if before >= len(c.run.Prompt) { // the prompt's own entry may have its last position, too
		delete(c.ways, before)
	}
	c.run.Tokens = append(c.run.Tokens, out)
	return []replay.Token{out}
}

// finite is a log-probability as JSON can have it.
func finite(p float32) float32 { return max(p, least) }

func qualityOf(q engine.Quality) *replay.Quality {
	if q.Status() == engine.StatusExact {
		return nil
	}
	return &replay.Quality{Status: q.Status(), Policy: q.Policy(), Layers: q.Layers, Dropped: q.Dropped}
}

// prompt is the prompt's positions.
func (c *Choice) prompt() []replay.Token {
	out := make([]replay.Token, len(c.run.Prompt))
	for i, id := range c.run.Prompt {
		out[i] = replay.Token{Position: i, ID: id, Queue: c.ways[i].queue, Step: c.ways[i].step, Layers: c.ways[i].layers}
	}
	return out
}

// News are the processes that have come up since the last call.
func (r *Recorder) News() []replay.Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	news := r.processes[r.told:len(r.processes):len(r.processes)]
	r.told = len(r.processes)
	return news
}

// Finish completes head, which says what the request ran on, to the record of a request that has ended.
func (r *Recorder) Finish(head replay.Record) (*replay.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	head.Truncated, head.Processes = r.truncated, append([]replay.Process{}, r.processes...)
	for _, c := range r.choices {
		run := c.run
		if r.prompts {
			run.PromptTokens = c.prompt()
		}
		head.Runs = append(head.Runs, run)
	}
	return &head, head.Seal()
}
