package logging

import (
	"bytes"
	"slices"
	"sync"
)

// ringBytes is what a Ring holds: some thousand lines, the last minutes of a busy server.
const ringBytes = 256 << 10

// Ring is a writer that keeps the last lines of a log, as they were written: masked, escaped. It may be used from any goroutine.
type Ring struct {
	mu   sync.Mutex // guards all below
	kept [][]byte
	size int
}

// Write implements io.Writer; a record comes in one piece.
func (r *Ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = append(r.kept, bytes.Clone(p))
	r.size += len(p)
	drop := 0
	for r.size > ringBytes && drop < len(r.kept)-1 {
		r.size -= len(r.kept[drop])
		drop++
	}
	r.kept = slices.Delete(r.kept, 0, drop)
	return len(p), nil
}

// Bytes is what it holds.
func (r *Ring) Bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Join(r.kept, nil)
}
