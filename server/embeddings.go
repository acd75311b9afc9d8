package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/openai"
	"github.com/pimoe/pimoe/server/strictjson"
	"github.com/pimoe/pimoe/server/tracing"
)

const embeddingsPath = "/v1/embeddings"

// embeddings is POST /v1/embeddings. An embedding is the mean of what the head gets of an input's tokens (the last layer's
// output after the last norm), special tokens included, cut to the dimensions that are asked for and scaled to length 1.
// A token's bits depend on its own text alone, and the mean adds in the order of the text in float64, so an input has the
// same embedding alone and in any batch.
func (s *Server) embeddings(ctx context.Context, r *request) (*reply, error) {
	want, err := openai.DecodeEmbedding(r.body)
	if err != nil {
		return nil, err
	}
	if err := s.checkModel(want.Model); err != nil {
		return nil, err
	}
	if want.Dimensions > s.service.hidden {
		return nil, &strictjson.Error{Path: "dimensions", Expected: fmt.Sprintf("at most %d, the model's hidden size", s.service.hidden), Got: fmt.Sprint(want.Dimensions)}
	}
	e := &embedding{s: s, r: r, dimensions: want.Dimensions, inputs: make([][]int32, len(want.Inputs)), vectors: make([][]float32, len(want.Inputs))}
	if want.Dimensions == 0 {
		e.dimensions = s.service.hidden
	}
	for i, in := range want.Inputs {
		p, err := s.encodeInput(in, i, len(want.Inputs))
		if err != nil {
			return nil, err
		}
		e.inputs[i] = p
		r.tokens.prompt += len(p)
	}
	if err := e.run(ctx); err != nil {
		return nil, err
	}
	r.quality = e.quality.Status()
	return &reply{
		status: http.StatusOK, contentType: mimeJSON, header: s.disclosure(e.quality, e.programs),
		body: want.Embeddings(e.vectors, r.tokens.prompt, s.meta(e.quality)),
	}, nil
}

// encodeInput turns an input into ids, under its own name in errors.
func (s *Server) encodeInput(in openai.Prompt, i, of int) ([]int32, error) {
	p, err := s.encodePrompt(in, i, of, false)
	var f *fault
	var shape *strictjson.Error
	name := "input"
	if of > 1 {
		name = fmt.Sprintf("input[%d]", i)
	}
	switch {
	case errors.As(err, &f):
		f.param = name
	case errors.As(err, &shape):
		shape.Path = name
	}
	return p.ids, err
}

// embedding is a request under way.
type embedding struct {
	s          *Server
	r          *request
	dimensions int
	inputs     [][]int32
	vectors    [][]float32

	mu       sync.Mutex // guards what follows
	quality  engine.Quality
	programs string
}

// embedAtOnce is how many inputs of one request are in the engine at a time: enough to fill its steps, and few enough to
// leave places in its queue to others.
const embedAtOnce = 16

// run computes all inputs. The first error ends the others.
func (e *embedding) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(embedAtOnce, len(e.inputs), max(e.s.now.Load().Limits.MaxConcurrentRequests, 1)) {
		workers.Go(func() {
			for i := range next {
				if err := e.input(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
feed:
	for i := range e.inputs {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}

// input computes one embedding.
func (e *embedding) input(ctx context.Context, i int) (err error) {
	defer func() {
		if v := recover(); v != nil { // on a goroutine of its own
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	m := &mean{sum: make([]float64, e.s.service.hidden)}
	req := engine.Request{
		ID: e.r.id, Prompt: e.inputs[i], MaxTokens: engine.PromptOnly, Logprobs: -1, Accept: e.r.take, Tenant: access.From(ctx).Tenant,
		Observe: &engine.Observer{State: m.add},
	}
	if deadline, ok := ctx.Deadline(); ok {
		req.Deadline = deadline
	}
	follow := tracing.From(ctx).Follow(&req)
	stream, err := e.s.service.engine.Submit(ctx, req)
	if err != nil {
		follow.Done(engine.Usage{}, err)
		return err
	}
	defer func() { follow.Done(stream.Usage(), err) }()
	defer stream.Close()
	for err == nil {
		_, err = stream.Next(ctx)
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	if e.vectors[i], err = m.unit(len(e.inputs[i]), e.dimensions); err != nil {
		return err
	}
	u := stream.Usage()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.quality = worse(e.quality, u.Quality)
	e.programs = u.Programs
	return nil
}

// mean sums the states of one input's tokens. The engine shows them one after the other, and has shown all before the
// stream ends.
type mean struct {
	mu  sync.Mutex // guards all below: the engine's loop adds, the request's goroutine reads
	sum []float64
	n   int
}

func (m *mean) add(_ int, state []float32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, v := range state {
		m.sum[i] += float64(v)
	}
	m.n++
}

// unit is the mean, cut to so many dimensions and scaled to length 1.
func (m *mean) unit(tokens, dimensions int) ([]float32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.n != tokens {
		return nil, fmt.Errorf("%d states of %d tokens: %w", m.n, tokens, sdk.ErrInvalidOutput)
	}
	length := 0.0
	for _, v := range m.sum[:dimensions] {
		length += v * v // the factor 1/n of the mean falls out
	}
	length = math.Sqrt(length)
	if !(length > 0) || math.IsInf(length, 0) {
		return nil, fmt.Errorf("an embedding of length %g: %w", length, sdk.ErrInvalidOutput)
	}
	out := make([]float32, dimensions)
	for i := range out {
		out[i] = float32(m.sum[i] / length)
	}
	return out, nil
}
