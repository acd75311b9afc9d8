package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/pimoe/pimoe/sdk"
)

// stream is the buffer between the decode loop and one reader. It is bounded: the loop asks for room before it
// computes a token and parks the sequence while there is none, so push never blocks and never fails.
type stream struct {
	name  string        // for errors
	touch func()        // tells the loop that the request was cancelled or that a parked one has room again
	ready chan struct{} // capacity 1: something to read
	text  *text         // turns ids into text for the reader; nil = the loop has done it

	mu      sync.Mutex // guards all below
	buffer  []Token    // from the read-th on
	read    int
	limit   int // tokens in the buffer at which the sequence is parked
	waiting bool
	err     error // why the stream ended; nil while it runs
	usage   Usage
}

// newStream makes a stream that holds at most limit tokens.
func newStream(name string, limit int, touch func()) *stream {
	return &stream{name: name, limit: limit, touch: touch, ready: make(chan struct{}, 1), buffer: make([]Token, 0, min(limit, defaultBuffer))}
}

// Next implements Stream.
func (s *stream) Next(ctx context.Context) (Token, error) {
	for {
		if err := ctx.Err(); err != nil {
			s.cancel(cancelled(s.name, context.Cause(ctx)))
		}
		t, ok, err := s.pop()
		if ok && s.text != nil {
			s.text.fill(&t)
		}
		if ok || err != nil {
			return t, err
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
		}
	}
}

// pop takes the oldest token; without one it returns the reason of the end, if there is one. A stream that the loop has
// ended still gives the tokens that were there before.
func (s *stream) pop() (t Token, ok bool, err error) {
	s.mu.Lock()
	if s.read == len(s.buffer) {
		defer s.mu.Unlock()
		return Token{}, false, s.err
	}
	t = s.buffer[s.read]
	s.buffer[s.read] = Token{}
	if s.read++; s.read == len(s.buffer) {
		s.buffer, s.read = s.buffer[:0], 0
	}
	resume := s.waiting && len(s.buffer)-s.read <= s.limit/2 // half: to park and wake for each token would cost more than it gives
	if resume {
		s.waiting = false
	}
	s.mu.Unlock()
	if resume {
		s.touch()
	}
	return t, true, nil
}

// Usage implements Stream.
func (s *stream) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usage
}

// Close implements Stream.
func (s *stream) Close() { s.cancel(cancelled(s.name, errClosed)) }

// errClosed is the cause of a request whose stream was closed by its reader.
var errClosed = fmt.Errorf("stream closed: %w", context.Canceled)

// cancel ends the stream from the reader's side and drops what is buffered. A reader that has not read everything never
// sees a regular end.
func (s *stream) cancel(err error) {
	s.mu.Lock()
	running := s.err == nil
	if running || len(s.buffer) > s.read {
		s.err = err
	}
	s.buffer, s.read = nil, 0
	s.mu.Unlock()
	if running {
		s.signal()
		s.touch()
	}
}

// end ends the stream from the loop's side before its last token. An end that came before counts.
func (s *stream) end(err error, usage Usage) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.usage = usage
	s.mu.Unlock()
	s.signal()
}

// push adds a token, which ends the stream if it is the last one. The loop has asked for room before.
func (s *stream) push(t Token, usage Usage) {
	s.mu.Lock()
	if s.err == nil {
		if len(s.buffer) == cap(s.buffer) && s.read > 0 {
			s.buffer = slices.Delete(s.buffer, 0, s.read)
			s.read = 0
		}
		s.buffer = append(s.buffer, t)
		if t.Finish != "" {
			s.err = io.EOF
		}
	}
	s.usage = usage
	s.mu.Unlock()
	s.signal()
}

// room reports whether a token may be computed for this stream, beside some that are on their way to it. After a no the
// stream touches the loop when the reader has caught up.
func (s *stream) room(unsent int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.buffer)-s.read+unsent >= s.limit {
		s.waiting = true
	}
	return !s.waiting
}

// ended is the reason of the end, nil while the stream runs.
func (s *stream) ended() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// signal wakes the reader.
func (s *stream) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// cancelled says what was cut short and puts a passed deadline into its class.
func cancelled(what string, cause error) error {
	if errors.Is(cause, context.DeadlineExceeded) && !errors.Is(cause, sdk.ErrDeadline) {
		return fmt.Errorf("%s: %w: %w", what, sdk.ErrDeadline, cause)
	}
	return fmt.Errorf("%s: %w", what, cause)
}

var _ Stream = (*stream)(nil)
