package client

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/pimoe/pimoe/sdk/internal/plane"
	"github.com/pimoe/pimoe/sdk/internal/wire"
)

// Carried travels with a call that somebody follows: who that is, as W3C Trace Context has it, and back, when the process
// computed. It is not read before the call has ended.
type Carried struct {
	Trace [16]byte
	Span  [8]byte
	// Began and Took are the process's own words about a call that was computed; a zero Began = it has not said. A call that was
	// sent in parts took from the begin of the first to the end of the last.
	Began time.Time
	Took  time.Duration
}

type carriedKey struct{}

// Carry has the calls of a context carry c. Only one call may be under way with it at a time.
func Carry(ctx context.Context, c *Carried) context.Context {
	return context.WithValue(ctx, carriedKey{}, c)
}

func carriedBy(ctx context.Context) *Carried {
	c, _ := ctx.Value(carriedKey{}).(*Carried)
	return c
}

// trace is what a request's header says.
func (c *Carried) trace() plane.Trace {
	if c == nil {
		return plane.Trace{}
	}
	return plane.Trace{ID: c.Trace, Span: c.Span}
}

// longest is more than any call takes, so that no sum of what a process says overflows.
const longest = uint64(time.Hour)

// take adds what a process says of a part.
func (c *Carried) take(began, took uint64) {
	if c == nil || began == 0 || began > 1<<62 {
		return
	}
	first, last := time.Unix(0, int64(began)), time.Unix(0, int64(began+min(took, longest)))
	if !c.Began.IsZero() {
		if c.Began.Before(first) {
			first = c.Began
		}
		if end := c.Began.Add(c.Took); end.After(last) {
			last = end
		}
	}
	c.Began, c.Took = first, last.Sub(first)
}

// overGRPC makes a call with what it carries.
func (c *Carried) overGRPC(ctx context.Context, call func(context.Context, ...grpc.CallOption) error) error {
	if c == nil {
		return call(ctx)
	}
	var trailer metadata.MD
	err := call(wire.PutTrace(ctx, c.trace()), grpc.Trailer(&trailer))
	c.take(wire.TakeTimes(trailer))
	return err
}
