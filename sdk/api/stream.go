package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
)

// maxEvent bounds one event of a stream.
const maxEvent = 16 << 20

// events asks for an answer as server-sent events and gives their data until [DONE]. Leaving the loop ends the request. An
// error comes last, with a zero event.
func events[E any](ctx context.Context, c *Client, path string, in any) iter.Seq2[E, error] {
	return func(yield func(E, error) bool) {
		var none E
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		body, err := json.Marshal(in)
		if err != nil {
			yield(none, err)
			return
		}
		resp, err := c.send(ctx, call{method: http.MethodPost, path: path, body: body, contentType: "application/json", accept: "text/event-stream"})
		if err != nil {
			yield(none, err)
			return
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, maxEvent)
		for lines.Scan() {
			data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
			if !ok {
				continue // comments keep the connection alive
			}
			data = bytes.TrimSpace(data)
			if string(data) == "[DONE]" {
				return
			}
			e, err := event[E](data, resp.Header)
			if !yield(e, err) || err != nil {
				return
			}
		}
		err = lines.Err()
		if err == nil {
			err = io.ErrUnexpectedEOF // without [DONE] the answer is not whole
		}
		yield(none, fmt.Errorf("stream of %s: %w", path, err))
	}
}

// event reads one event's data; an error that came after the begin of the stream is an *Error.
func event[E any](data []byte, h http.Header) (e E, err error) {
	var failed struct {
		Error *struct {
			Code, Message string
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &failed); err != nil {
		return e, fmt.Errorf("an event that is no JSON: %w", err)
	}
	if failed.Error != nil {
		return e, &Error{Status: http.StatusOK, Code: failed.Error.Code, Message: failed.Error.Message, RequestID: h.Get("X-Request-Id")}
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, fmt.Errorf("an event of another shape: %w", err)
	}
	return e, nil
}
