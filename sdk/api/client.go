// Package api is the Go client of PiMoE's HTTP API: completions, chats, hidden states, jobs and the state of the server, with
// the names of the server's OpenAPI description.
//
// Programs that use a server import it; nothing in the server does. It refuses to hide what the server says: an answer that is
// an error is an *Error with its code and the request's id, and only answers that ask to come back later are asked again.
package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Client asks one server. Its methods are safe for concurrent use.
type Client struct {
	base    *url.URL
	key     string
	retries int
	http    *http.Client
}

// Option changes what New makes.
type Option func(*Client)

// Key is sent with every request: an API key or a token.
func Key(key string) Option { return func(c *Client) { c.key = key } }

// Retries says how often a request is sent again after 429 or 503, which mean that nothing has been done. Default 2.
func Retries(n int) Option { return func(c *Client) { c.retries = n } }

// HTTP is the client that requests go through. Default http.DefaultClient; contexts bound requests, not its Timeout, because
// streams may take long.
func HTTP(h *http.Client) Option { return func(c *Client) { c.http = h } }

// New is a client of the server at an address such as http://127.0.0.1:8080.
func New(address string, opts ...Option) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("address %q: want http:// or https:// and a host", address)
	}
	c := &Client{base: u, retries: 2, http: http.DefaultClient}
	for _, opt := range opts {
		opt(c)
	}
	return c, nil
}

// Error is an answer that is an error.
type Error struct {
	Status     int
	Code       string // stable, such as queue_full
	Message    string
	Param      string       // the field that is wrong, on routes under /v1
	Fields     []FieldError // the fields that are wrong, elsewhere
	RequestID  string
	RetryAfter time.Duration // 0 = the server has not said
}

// FieldError is one wrong field.
type FieldError struct {
	Field    string `json:"field"`
	Expected string `json:"expected"`
	Got      string `json:"got"`
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message)
	for _, f := range e.Fields {
		text += fmt.Sprintf("; %s: want %s, not %s", f.Field, f.Expected, f.Got)
	}
	return text + " (request " + e.RequestID + ")"
}

// maxError bounds what is read of an answer that is an error, and maxAnswer of any other.
const (
	maxError  = 64 << 10
	maxAnswer = 1 << 30
)

// longestWait bounds how long an answer can make a retry wait.
const longestWait = time.Minute

// call is a request that may be sent more than once.
type call struct {
	method, path string
	query        url.Values
	contentType  string
	body         []byte
	accept       string
	header       http.Header
}

// send sends a request until an answer comes that is no reason to wait. The caller closes the answer's body.
func (c *Client) send(ctx context.Context, q call) (*http.Response, error) {
	if q.header == nil {
		q.header = http.Header{}
	}
	if q.header.Get("X-Request-Id") == "" {
		q.header.Set("X-Request-Id", rand.Text())
	}
	for attempt := 0; ; attempt++ {
		resp, err := c.once(ctx, q)
		refused := (*Error)(nil)
		if !errors.As(err, &refused) {
			return resp, err
		}
		if attempt >= c.retries || refused.Status != http.StatusTooManyRequests && refused.Status != http.StatusServiceUnavailable {
			return nil, err
		}
		wait := refused.RetryAfter
		if wait == 0 {
			wait = time.Second
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(min(wait, longestWait)):
		}
	}
}

func (c *Client) once(ctx context.Context, q call) (*http.Response, error) {
	u := c.base.JoinPath(q.path)
	u.RawQuery = q.query.Encode()
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), bytes.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	req.Header = q.header.Clone()
	req.Header.Set("Accept", q.accept)
	if q.contentType != "" {
		req.Header.Set("Content-Type", q.contentType)
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxError)) // an error that is cut off is still one
	return nil, errorOf(resp.StatusCode, resp.Header, text)
}

// errorOf reads both shapes of errors: OpenAI's and RFC 9457's.
func errorOf(status int, h http.Header, text []byte) *Error {
	var body struct {
		Error                 json.RawMessage `json:"error"`
		Code, Message, Detail string
		Errors                []FieldError
	}
	e := &Error{Status: status, RequestID: h.Get("X-Request-Id")}
	if s, err := strconv.ParseFloat(h.Get("Retry-After"), 64); err == nil && s > 0 {
		e.RetryAfter = time.Duration(s * float64(time.Second))
	}
	if json.Unmarshal(text, &body) != nil {
		e.Message = string(text[:min(len(text), 200)])
		return e
	}
	var inner struct{ Code, Message, Param string }
	if json.Unmarshal(body.Error, &inner) == nil && inner.Message != "" {
		e.Code, e.Message, e.Param = inner.Code, inner.Message, inner.Param
		return e
	}
	e.Code, e.Message, e.Fields = body.Code, body.Detail, body.Errors
	return e
}

// get asks for JSON.
func (c *Client) get(ctx context.Context, path string, query url.Values, out any) error {
	return c.json(ctx, call{method: http.MethodGet, path: path, query: query}, out)
}

// post sends JSON and asks for JSON.
func (c *Client) post(ctx context.Context, path string, in, out any, header http.Header) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return c.json(ctx, call{method: http.MethodPost, path: path, body: body, contentType: "application/json", header: header}, out)
}

func (c *Client) json(ctx context.Context, q call, out any) error {
	q.accept = "application/json"
	resp, err := c.send(ctx, q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("answer of %s %s: %w", q.method, q.path, err)
	}
	return nil
}

// segment is a value as one segment of a path.
func segment(s string) string { return strings.ReplaceAll(url.PathEscape(s), ".", "%2E") }
