package server

import (
	"context"
	"sync"
)

// tally counts running requests and lets the end of the server wait until there are none.
type tally struct {
	mu   sync.Mutex // guards n and zero
	n    int
	zero chan struct{} // closed while n is 0
}

func newTally() *tally {
	t := &tally{zero: make(chan struct{})}
	close(t.zero)
	return t
}

func (t *tally) add() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n++; t.n == 1 {
		t.zero = make(chan struct{})
	}
}

func (t *tally) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n--; t.n == 0 {
		close(t.zero)
	}
}

func (t *tally) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}

// wait returns nil once the count is 0, or the context's error.
func (t *tally) wait(ctx context.Context) error {
	t.mu.Lock()
	zero := t.zero
	t.mu.Unlock()
	select {
	case <-zero:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
