package ledger

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/pimoe/pimoe/sdk"
)

// Verdict is what a ledger says about a server.
type Verdict struct {
	Requests int `json:"requests"`
	Answered int `json:"answered"`
	Failed   int `json:"failed"` // refused by the server, with a reason
	Wrong    int `json:"wrong"`  // answered with other bytes than the oracle's, or more than once
	Lost     int `json:"lost"`   // without an outcome
	// Examples are the first of what went wrong, in words.
	Examples []string `json:"examples"`
	// Eras are those in which something that went wrong was asked or ended, each once, ascending.
	Eras []uint64 `json:"eras"`
}

// examples is how many cases are told in words: enough to see what they have in common.
const examples = 8

// Judge reads a ledger and an oracle's answers.
func Judge(ledger, oracle string) (Verdict, error) {
	known := map[int][]byte{}
	if err := file(oracle, func(line []byte) error {
		var k Known
		if err := json.Unmarshal(line, &k); err != nil {
			return err
		}
		known[k.Question] = compact(k.Answer)
		return nil
	}); err != nil {
		return Verdict{}, err
	}
	j := judge{known: known, open: map[string]Entry{}, closed: map[string]bool{}, eras: map[uint64]bool{}}
	if err := file(ledger, func(line []byte) error {
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		return j.take(e)
	}); err != nil {
		return Verdict{}, err
	}
	return j.end(), nil
}

func file(path string, each func([]byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("judge: %w", err)
	}
	defer f.Close()
	n := 0
	err = lines(f, func(line []byte) error {
		n++
		if err := each(line); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
		return nil
	})
	if err == nil && n == 0 {
		return fmt.Errorf("%s: %w", path, io.ErrUnexpectedEOF)
	}
	return err
}

// compact is JSON without the freedom that JSON leaves between its marks.
func compact(raw json.RawMessage) []byte {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return raw // no JSON equals it
	}
	return b.Bytes()
}

// judge is the state of a reading.
type judge struct {
	known   map[int][]byte
	open    map[string]Entry // asked, no outcome yet
	closed  map[string]bool
	eras    map[uint64]bool
	verdict Verdict
}

func (j *judge) take(e Entry) error {
	asked, open := j.open[e.ID]
	switch e.Event {
	case Asked:
		if open || j.closed[e.ID] {
			return fmt.Errorf("request %s was asked before: %w", e.ID, sdk.ErrInvalid)
		}
		j.open[e.ID] = e
		j.verdict.Requests++
		return nil
	case Accepted, Answered, Refused, Broken:
	default:
		return fmt.Errorf("event %q: %w", e.Event, sdk.ErrInvalid)
	}
	switch {
	case !open && !j.closed[e.ID]:
		return fmt.Errorf("request %s was never asked: %w", e.ID, sdk.ErrInvalid)
	case !open:
		j.verdict.Wrong++
		j.bad(e, e.Era, "a second outcome")
		return nil
	case e.Event == Accepted:
		return nil
	}
	delete(j.open, e.ID)
	j.closed[e.ID] = true
	switch e.Event {
	case Refused:
		j.verdict.Failed++
		j.bad(e, asked.Era, "failed: "+e.Why)
	case Broken:
		j.verdict.Lost++
		j.bad(e, asked.Era, "lost: "+e.Why)
	default:
		j.verdict.Answered++
		want, ok := j.known[e.Question]
		if !ok {
			return fmt.Errorf("the oracle has no answer to question %d: %w", e.Question, sdk.ErrInvalid)
		}
		if got := compact(e.Answer); e.Question != asked.Question || !bytes.Equal(got, want) {
			j.verdict.Wrong++
			j.bad(e, asked.Era, fmt.Sprintf("wrong: %s, want %s", got, want))
		}
	}
	return nil
}

func (j *judge) bad(e Entry, since uint64, what string) {
	j.eras[since], j.eras[e.Era] = true, true
	if len(j.verdict.Examples) < examples {
		j.verdict.Examples = append(j.verdict.Examples, fmt.Sprintf("request %s, question %d: %.600s", e.ID, e.Question, what))
	}
}

// end counts what is still open as lost.
func (j *judge) end() Verdict {
	for _, e := range j.open {
		j.verdict.Lost++
		j.bad(e, e.Era, "lost: the ledger ends before it")
	}
	for era := range j.eras {
		j.verdict.Eras = append(j.verdict.Eras, era)
	}
	slices.Sort(j.verdict.Eras)
	return j.verdict
}
