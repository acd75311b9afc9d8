package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/pimoe/pimoe/sdk"
)

// MaxFile is the largest file that is read: the layers of the longest trace that the API gives fit several times over.
const MaxFile = 64 << 20

// Read reads a record: a file that `pimoe generate --record` has written, or a whole answer of the API with its member
// pimoe. Errors name the field and are sdk.ErrInvalid.
func Read(from io.Reader) (*Record, error) {
	b, err := io.ReadAll(io.LimitReader(from, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	if len(b) > MaxFile {
		return nil, fmt.Errorf("the record is larger than %d bytes: %w", MaxFile, sdk.ErrInvalid)
	}
	return Parse(b)
}

// Parse is Read of bytes.
func Parse(b []byte) (*Record, error) {
	var answer struct {
		Format *string         `json:"format"`
		Pimoe  json.RawMessage `json:"pimoe"`
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return nil, fmt.Errorf("the record is not JSON: %v: %w", err, sdk.ErrInvalid)
	}
	if answer.Format == nil && answer.Pimoe != nil {
		b = answer.Pimoe
	}
	var r Record
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return nil, fmt.Errorf("record: %s: %w", strings.TrimPrefix(err.Error(), "json: "), sdk.ErrInvalid)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("record: %w: %w", err, sdk.ErrInvalid)
	}
	return &r, nil
}

// check holds the values against each other. The format comes first: another version means other fields.
func (r *Record) check() error {
	switch {
	case r.Format == "":
		return fmt.Errorf("format: missing; want a file of pimoe generate --record, or an answer to a request with pimoe: {trace: true}")
	case r.Format != Format:
		return fmt.Errorf("format: %.40q, this version reads %q", r.Format, Format)
	case len(r.Runs) == 0:
		return fmt.Errorf("runs: none")
	}
	for i := range r.Runs {
		if err := r.Runs[i].check(len(r.Processes)); err != nil {
			return fmt.Errorf("runs[%d].%w", i, err)
		}
	}
	want, err := r.sum()
	if err != nil {
		return err
	}
	if r.Checksum != want {
		return fmt.Errorf("checksum: it does not fit the other values: the file was changed after it was written")
	}
	return nil
}

// maxIDs bounds a prompt and a continuation: more than any model's context.
const maxIDs = 1 << 24

func (r *Run) check(processes int) error {
	switch {
	case len(r.Prompt) == 0 || len(r.Prompt) > maxIDs:
		return fmt.Errorf("prompt: %d ids, want 1 to %d", len(r.Prompt), maxIDs)
	case r.MaxTokens < 1 || r.MaxTokens > maxIDs:
		return fmt.Errorf("max_tokens: %d, want 1 to %d", r.MaxTokens, maxIDs)
	case len(r.Tokens) > r.MaxTokens:
		return fmt.Errorf("tokens: %d, more than max_tokens %d", len(r.Tokens), r.MaxTokens)
	case r.Form != nil && r.Form.Kind == "":
		return fmt.Errorf("form.kind: missing")
	}
	for i, id := range r.Prompt {
		if id < 0 {
			return fmt.Errorf("prompt[%d]: %d, want an id of at least 0", i, id)
		}
	}
	for i, s := range r.Stop {
		if s == "" {
			return fmt.Errorf("stop[%d]: empty", i)
		}
	}
	if err := r.Sampling.check(); err != nil {
		return fmt.Errorf("sampling.%w", err)
	}
	for i := range r.Tokens {
		if err := r.Tokens[i].check(len(r.Prompt)+i, processes); err != nil {
			return fmt.Errorf("tokens[%d].%w", i, err)
		}
	}
	return nil
}

func (t *Token) check(position, processes int) error {
	switch {
	case t.Position != position:
		return fmt.Errorf("position: %d, want %d", t.Position, position)
	case t.ID < 0:
		return fmt.Errorf("id: %d, want at least 0", t.ID)
	}
	for _, l := range t.Layers {
		for i, e := range l.Experts {
			if e.Process < -1 || e.Process >= processes {
				return fmt.Errorf("layers: layer %d, expert %d: process %d of %d", l.Layer, i, e.Process, processes)
			}
		}
	}
	return nil
}

func (s *Sampling) check() error {
	for _, f := range []struct {
		name      string
		value     float32
		low, high float64
	}{
		{"temperature", s.Temperature, 0, 100}, {"top_p", s.TopP, 0, 1}, {"min_p", s.MinP, 0, 1},
		{"repetition_penalty", s.RepetitionPenalty, 0, 100}, {"frequency_penalty", s.FrequencyPenalty, -2, 2}, {"presence_penalty", s.PresencePenalty, -2, 2},
	} {
		if v := float64(f.value); !(v >= f.low && v <= f.high) {
			return fmt.Errorf("%s: %g, want %g to %g", f.name, f.value, f.low, f.high)
		}
	}
	if s.TopK < 0 || s.TopK > math.MaxInt32 {
		return fmt.Errorf("top_k: %d, want at least 0", s.TopK)
	}
	for id := range s.LogitBias {
		if id < 0 {
			return fmt.Errorf("logit_bias: token id %d, want at least 0", id)
		}
	}
	return nil
}
