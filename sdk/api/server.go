package api

import (
	"context"
	"encoding/json"
	"net/http"
)

// Model is what the server has.
type Model struct {
	ID      string `json:"id"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

// Models lists what the server has.
func (c *Client) Models(ctx context.Context) ([]Model, error) {
	var out struct{ Data []Model }
	err := c.get(ctx, "/v1/models", nil, &out)
	return out.Data, err
}

// Model is one model; an *Error with status 404 says that the server has none of this name.
func (c *Client) Model(ctx context.Context, id string) (*Model, error) {
	out := &Model{}
	return out, c.get(ctx, "/v1/models/"+segment(id), nil, out)
}

// Stats is the state of the host as one tree.
func (c *Client) Stats(ctx context.Context) (map[string]json.RawMessage, error) {
	var out map[string]json.RawMessage
	err := c.get(ctx, "/api/v1/stats", nil, &out)
	return out, err
}

// Ready is nil when the server takes work now. It is asked once, without retries.
func (c *Client) Ready(ctx context.Context) error {
	resp, err := c.once(ctx, call{method: http.MethodGet, path: "/readyz", accept: "text/plain", header: http.Header{}})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
