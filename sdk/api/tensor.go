package api

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Tensor is hidden states: Shape is batch, sequence and hidden size, Data is row-major.
type Tensor struct {
	Shape [3]int
	Data  []float32
}

// Layer says which layer processes a Tensor. The zero value is the first that has experts.
type Layer struct {
	Number *int
	AndAll bool // later ones, too, one after the other
}

// Process runs the routed and shared experts of a layer on hidden states, without norm and residual. The tensors travel as
// little-endian bytes, so that no bit changes.
func (c *Client) Process(ctx context.Context, x Tensor, l Layer) (*Tensor, error) {
	if n := x.Shape[0] * x.Shape[1] * x.Shape[2]; n != len(x.Data) || n <= 0 {
		return nil, fmt.Errorf("tensor: %d values, its shape %v has %d", len(x.Data), x.Shape, n)
	}
	body := make([]byte, 4*len(x.Data))
	for i, v := range x.Data {
		binary.LittleEndian.PutUint32(body[4*i:], math.Float32bits(v))
	}
	query := url.Values{"shape": {shapeText(x.Shape)}}
	if l.Number != nil {
		query.Set("layer", strconv.Itoa(*l.Number))
	}
	if l.AndAll {
		query.Set("all_layers", "true")
	}
	const binaryType = "application/octet-stream"
	resp, err := c.send(ctx, call{method: http.MethodPost, path: "/api/v1/process", query: query, body: body, contentType: binaryType, accept: binaryType})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out := &Tensor{Shape: x.Shape, Data: make([]float32, len(x.Data))}
	if _, err := io.ReadFull(resp.Body, body); err != nil {
		return nil, fmt.Errorf("answer of POST /api/v1/process: %w", err)
	}
	for i := range out.Data {
		out.Data[i] = math.Float32frombits(binary.LittleEndian.Uint32(body[4*i:]))
	}
	return out, nil
}

func shapeText(shape [3]int) string {
	var parts []string
	for _, n := range shape {
		parts = append(parts, strconv.Itoa(n))
	}
	return strings.Join(parts, ",")
}
