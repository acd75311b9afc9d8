// Package ledger keeps what was asked and what came of it in an append-only file, and judges it afterwards against the
// answers of an oracle. A process of its own writes the file, so that the record outlives whoever loads the server, and
// another one judges it: the load never sees an expected answer.
//
// The command chaos uses it. It refuses to correct anything: a line that makes no sense is an error.
package ledger

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
)

// Event is what an entry says about a request.
type Event string

// The events of a request, in this order; Asked and exactly one of the last three are in the ledger of a run without losses.
const (
	Asked    Event = "asked"    // it is about to be sent
	Accepted Event = "accepted" // the server has begun to answer
	Answered Event = "answered" // the whole answer is there
	Refused  Event = "refused"  // the server has said that it will not answer, and why
	Broken   Event = "broken"   // the connection ended, or the time was up, without an outcome
)

// Entry is one line of the file.
type Entry struct {
	Event    Event           `json:"event"`
	ID       string          `json:"id"`
	Question int             `json:"question"`
	Era      uint64          `json:"era"`              // the pair of faults at that time; 0 without pairs
	Answer   json.RawMessage `json:"answer,omitempty"` // of Answered
	Why      string          `json:"why,omitempty"`    // of Refused and Broken
}

// Known is a line of an oracle's file.
type Known struct {
	Question int             `json:"question"`
	Answer   json.RawMessage `json:"answer"`
}

// Keep appends the entries that come in to a new file until their end, and returns how many there were. What was read is
// in the file, whatever happens to the sender.
func Keep(path string, in io.Reader) (n int, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, fmt.Errorf("make ledger: %w", err)
	}
	defer func() { err = errors.Join(err, f.Sync(), f.Close()) }()
	err = lines(in, func(line []byte) error {
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("ledger entry %d: %w", n+1, err)
		}
		n++
		if _, err := f.Write(slices.Concat(line, []byte("\n"))); err != nil {
			return fmt.Errorf("write ledger: %w", err)
		}
		return nil
	})
	return n, err
}

// longest line: an answer with its tokens is far shorter.
const longest = 1 << 20

func lines(in io.Reader, each func([]byte) error) error {
	s := bufio.NewScanner(in)
	s.Buffer(nil, longest)
	for s.Scan() {
		if err := each(s.Bytes()); err != nil {
			return err
		}
	}
	return s.Err()
}

// Pen writes values as lines. Many may use it at once. The first error stays; Err has it.
type Pen struct {
	mu  sync.Mutex // guards all below
	enc *json.Encoder
	err error
}

// NewPen writes to w, unbuffered: what is written has left this process.
func NewPen(w io.Writer) *Pen { return &Pen{enc: json.NewEncoder(w)} }

// Write adds a line.
func (p *Pen) Write(v any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = p.enc.Encode(v)
	}
}

// Err is the first error of Write.
func (p *Pen) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}
