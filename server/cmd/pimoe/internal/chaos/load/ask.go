package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Server is who is asked.
type Server struct {
	URL   string // such as http://127.0.0.1:8080
	Model string
	HTTP  *http.Client
}

// Answer is all that must be the same whenever a question is asked.
type Answer struct {
	Text     string        `json:"text"`
	Finish   string        `json:"finish"`
	Prompt   int           `json:"prompt_tokens"`
	Written  int           `json:"written_tokens"`
	Tokens   []string      `json:"tokens,omitempty"`   // of a question with Logprobs
	Logprobs []json.Number `json:"logprobs,omitempty"` // as they were printed: every digit counts
}

// RefusedError is an outcome that the server gave: it will not answer, and says why.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return e.Why }

// Pace is when the tokens of one stream came, in order.
type Pace []time.Time

// Longest is the longest time between two tokens, and its begin; 0 with fewer than two.
func (p Pace) Longest() (since time.Time, gap time.Duration) {
	for i := 1; i < len(p); i++ {
		if d := p[i].Sub(p[i-1]); d > gap {
			since, gap = p[i-1], d
		}
	}
	return since, gap
}

// Around is the longer of two gaps: that in which the moment falls, and the one after it. It is 0 if the moment falls between no
// two tokens.
func (p Pace) Around(moment time.Time) time.Duration {
	next, _ := slices.BinarySearchFunc(p, moment, time.Time.Compare)
	if next == 0 || next == len(p) {
		return 0
	}
	gap := p[next].Sub(p[next-1])
	if next+1 < len(p) {
		gap = max(gap, p[next+1].Sub(p[next]))
	}
	return gap
}

// chunk is a whole answer or an event of a stream.
type chunk struct {
	Choices []struct {
		Text     string `json:"text"`
		Finish   string `json:"finish_reason"`
		Logprobs *struct {
			Tokens   []string      `json:"tokens"`
			Logprobs []json.Number `json:"token_logprobs"`
		} `json:"logprobs"`
	} `json:"choices"`
	Usage *struct {
		Prompt  int `json:"prompt_tokens"`
		Written int `json:"completion_tokens"`
	} `json:"usage"`
	Error json.RawMessage `json:"error"`
}

// Ask sends a question and reads the answer to its end. accepted is called when the server has begun to answer. An error
// other than a *RefusedError means that there was no outcome.
func (s Server) Ask(ctx context.Context, q Question, stream bool, accepted func()) (a Answer, p Pace, err error) {
	body := map[string]any{
		"model": s.Model, "prompt": q.Prompt, "max_tokens": q.Max, "temperature": q.Temperature, "top_p": q.TopP, "seed": q.Seed,
		"ignore_eos": true, "stream": stream,
	}
	if q.Logprobs {
		body["logprobs"] = 0
	}
	if stream {
		body["stream_options"] = map[string]any{"include_usage": true}
	}
	text, err := json.Marshal(body)
	if err != nil {
		return a, p, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/v1/completions", bytes.NewReader(text))
	if err != nil {
		return a, p, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := s.HTTP.Do(r)
	if err != nil {
		return a, p, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, err := io.ReadAll(io.LimitReader(resp.Body, longest))
		if err != nil {
			return a, p, err
		}
		return a, p, &RefusedError{fmt.Sprintf("%s: %.300s", resp.Status, why)}
	}
	accepted()
	if stream {
		err = a.readStream(resp.Body, &p)
	} else {
		err = a.readWhole(resp.Body)
	}
	return a, p, err
}

// longest body or event that is read.
const longest = 1 << 20

func (a *Answer) readWhole(body io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(body, longest))
	if err != nil {
		return err
	}
	return a.add(text)
}

// readStream reads events up to [DONE].
func (a *Answer) readStream(body io.Reader, p *Pace) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, longest)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			if a.Finish == "" {
				return errors.New("the stream ended without a finish reason")
			}
			return nil
		}
		if strings.Contains(data, `"text":"`) {
			*p = append(*p, time.Now())
		}
		if err := a.add([]byte(data)); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}

// add takes a whole answer or the next piece of a stream.
func (a *Answer) add(data []byte) error {
	var c chunk
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("%.200q is no completion: %w", data, err)
	}
	if c.Error != nil {
		return &RefusedError{string(c.Error)}
	}
	for _, choice := range c.Choices {
		a.Text += choice.Text
		if choice.Finish != "" {
			a.Finish = choice.Finish
		}
		if l := choice.Logprobs; l != nil {
			a.Tokens, a.Logprobs = append(a.Tokens, l.Tokens...), append(a.Logprobs, l.Logprobs...)
		}
	}
	if c.Usage != nil {
		a.Prompt, a.Written = c.Usage.Prompt, c.Usage.Written
	}
	return nil
}
