package engine

import (
	"context"

	"github.com/pimoe/pimoe/core/spans"
)

// This file tells those who follow a request of its steps.

// follow asks the requests of a step that are followed whether this one is. The first that wants it gets the layers, which
// are computed once for all of them.
func (f *flight) follow(ctx context.Context, rows int) context.Context {
	var leader spans.Step
	for _, e := range f.entries {
		if e.s.request.Trace == nil {
			continue
		}
		part := spans.Part{
			Position: e.s.computed, Tokens: e.n, Prompt: e.s.computed+e.n <= len(e.s.request.Prompt), Sequences: len(f.entries), Rows: rows,
		}
		s := e.s.request.Trace.Step(part, leader)
		if s == nil {
			continue
		}
		f.followed = append(f.followed, s)
		if leader == nil {
			leader = s
			ctx = spans.WithStep(ctx, s)
		}
	}
	return ctx
}

// unfollow ends what follow has begun.
func (f *flight) unfollow(err error) {
	for i, s := range f.followed {
		s.End(err)
		f.followed[i] = nil // who followed must not live on here
	}
}
