package api

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// Job is a request that the server runs later. It survives the server's restarts.
type Job struct {
	ID       string     `json:"id"`
	Kind     string     `json:"kind"`  // completion, chat or process
	State    string     `json:"state"` // queued, running, done, failed or cancelled
	Attempts int        `json:"attempts"`
	Created  time.Time  `json:"created"`
	Finished *time.Time `json:"finished"` // nil while it waits or runs
	Expires  *time.Time `json:"expires"`
	Error    *struct {
		Status  int    `json:"status"`
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"` // of a job that has failed
}

// Over reports whether nothing more will happen to the job.
func (j *Job) Over() bool { return j.State != "queued" && j.State != "running" }

const jobsPath = "/api/v1/jobs"

// CreateJob hands over a request, such as a CompletionRequest for the kind completion. With a key, such as a UUID, sending it
// again makes no second job; empty = none.
func (c *Client) CreateJob(ctx context.Context, kind string, request any, key string) (*Job, error) {
	header := http.Header{}
	if key != "" {
		header.Set("Idempotency-Key", key)
	}
	out := &Job{}
	return out, c.post(ctx, jobsPath, map[string]any{"kind": kind, "request": request}, out, header)
}

// Job is how a job is.
func (c *Client) Job(ctx context.Context, id string) (*Job, error) {
	out := &Job{}
	return out, c.get(ctx, jobsPath+"/"+segment(id), nil, out)
}

// JobResult reads a done job's answer into out, such as a *Completion.
func (c *Client) JobResult(ctx context.Context, id string, out any) error {
	return c.get(ctx, jobsPath+"/"+segment(id)+"/result", nil, out)
}

// CancelJob ends a job that is not over.
func (c *Client) CancelJob(ctx context.Context, id string) (*Job, error) {
	out := &Job{}
	return out, c.post(ctx, jobsPath+"/"+segment(id)+"/cancel", struct{}{}, out, nil)
}

// Jobs gives the jobs of the caller's tenant, the newest first, page by page. An error comes last.
func (c *Client) Jobs(ctx context.Context) iter.Seq2[Job, error] {
	return func(yield func(Job, error) bool) {
		query := url.Values{}
		for {
			var page struct {
				Jobs []Job  `json:"jobs"`
				Next string `json:"next_cursor"`
			}
			if err := c.get(ctx, jobsPath, query, &page); err != nil {
				yield(Job{}, err)
				return
			}
			for _, j := range page.Jobs {
				if !yield(j, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			query.Set("cursor", page.Next)
		}
	}
}

// Embed gives a vector of length 1 for each text, in their order.
func (c *Client) Embed(ctx context.Context, model string, texts ...string) ([][]float32, error) {
	var out struct {
		Data []struct {
			Index     int             `json:"index"`
			Embedding json.RawMessage `json:"embedding"`
		} `json:"data"`
	}
	if err := c.post(ctx, "/v1/embeddings", map[string]any{"model": model, "input": texts}, &out, nil); err != nil {
		return nil, err
	}
	vectors := make([][]float32, len(out.Data))
	for i, d := range out.Data {
		if err := json.Unmarshal(d.Embedding, &vectors[i]); err != nil {
			return nil, err
		}
	}
	return vectors, nil
}
