package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/openai"
	"github.com/pimoe/pimoe/server/strictjson"
	"github.com/pimoe/pimoe/server/tracing"
)

// processInput is a request of POST /api/v1/process: hidden states for the MoE layers, or a text to go on with.
type processInput struct {
	states *states // nil = generation
	text   *string // a raw prompt; nil = want.Messages
	want   *openai.Request

	layer     int // -1 = the first layer that has experts
	all       bool
	info      bool
	requestID string
	expected  [][]int32 // by position, the experts that its owner expects; nil = nobody asks
}

// processResult is the body of a success.
type processResult struct {
	RequestID string  `json:"request_id"`
	Output    any     `json:"output"`
	Shape     []int   `json:"shape,omitempty"`
	Seconds   float64 `json:"processing_time"`
	Success   bool    `json:"success"`
	Info      any     `json:"comprehensive_info"`
	Error     *string `json:"error"`
	Routing   string  `json:"routing,omitempty"` // "load-dependent" if it is
	Meta      any     `json:"meta"`
	// Accuracy compares the routes with expected_experts; nil where there were none.
	Accuracy *accuracy `json:"routing_accuracy,omitempty"`
}

// process is POST /api/v1/process.
func (s *Server) process(ctx context.Context, r *request) (*reply, error) {
	began := time.Now()
	in, err := s.processInput(r)
	if err != nil {
		return nil, err
	}
	if in.requestID != "" {
		r.id = in.requestID
	}
	if in.states == nil {
		return s.processText(ctx, r, in, began)
	}
	y, routes, q, err := s.processStates(ctx, r, in)
	if err != nil {
		return nil, err
	}
	header := s.disclosure(q, "")
	r.quality = q.Status()
	if in.states.form == formBytes && strings.Contains(r.accept, mimeBytes) {
		header["X-Tensor-Shape"] = in.states.shapeText()
		return &reply{status: http.StatusOK, contentType: mimeBytes, header: header, body: littleEndian(y)}, nil
	}
	out := processResult{RequestID: r.id, Routing: s.service.routing, Shape: in.states.shape[:], Success: true, Seconds: time.Since(began).Seconds(), Meta: s.meta(q)}
	if in.info {
		out.Info = s.routeInfo(in, routes)
	}
	if out.Accuracy = in.judged(routes); out.Accuracy != nil {
		s.labels.count(out.Accuracy.Labels, out.Accuracy.Hits)
	}
	return &reply{status: http.StatusOK, contentType: mimeJSON, header: header, body: out.body(in.states, y)}, nil
}

// body is the result with its tensor, which is nearly all of it: numbers are written straight into the body.
func (out processResult) body(st *states, y tensor.Matrix) []byte {
	if st.form != formNested {
		out.Output = base64.StdEncoding.EncodeToString(littleEndian(y))
		return mustJSON(out)
	}
	head, tail, _ := bytes.Cut(mustJSON(out), []byte(noOutput)) // the request's id, before it, has no such text
	b := make([]byte, 0, len(head)+len(tail)+len(noOutput)+numberText*y.Rows*y.Cols)
	b = append(append(b, head...), `"output":`...)
	return append(appendNested(b, st.shape, y), tail...)
}

const (
	noOutput   = `"output":null`
	numberText = 13 // bytes: what most numbers take as text, with their comma; with more the body grows once
)

// processInput reads either of the two bodies.
func (s *Server) processInput(r *request) (*processInput, error) {
	var in *processInput
	var err error
	if r.contentType == mimeBytes {
		in, err = s.readBinary(r)
	} else {
		in, err = s.readJSON(r)
	}
	if err != nil {
		return nil, err
	}
	if in.states == nil {
		return in, nil
	}
	return in, s.checkLayer(in.layer)
}

// checkLayer refuses a layer without experts; -1 is the first that has some.
func (s *Server) checkLayer(layer int) error {
	if layer == -1 || slices.Contains(s.service.layers, layer) {
		return nil
	}
	return &strictjson.Error{Path: "layer", Expected: fmt.Sprintf("a layer with experts: one of %v", s.service.layers), Got: strconv.Itoa(layer)}
}

// readJSON reads the fields of a JSON body. Exactly one of input_tensor, text and messages says what is asked.
func (s *Server) readJSON(r *request) (*processInput, error) {
	in := &processInput{layer: -1}
	var data, shape, mask, expected strictjson.Value
	keep := func(to *strictjson.Value) func(strictjson.Value) error {
		return func(v strictjson.Value) error { *to = v; return nil }
	}
	var err error
	in.want, err = openai.DecodeNative(r.body, map[string]func(strictjson.Value) error{
		"input_tensor": keep(&data), "shape": keep(&shape), "attention_mask": keep(&mask), "expected_experts": keep(&expected),
		"text": func(v strictjson.Value) error {
			text, err := v.Text()
			in.text = &text
			return err
		},
		"layer": func(v strictjson.Value) error {
			n, err := v.Int(0, 1<<20)
			in.layer = int(n)
			return err
		},
		"all_layers":                func(v strictjson.Value) (err error) { in.all, err = v.Bool(); return },
		"return_comprehensive_info": func(v strictjson.Value) (err error) { in.info, err = v.Bool(); return },
		"request_id": func(v strictjson.Value) (err error) {
			if in.requestID, err = v.Text(); err == nil && !harmless.MatchString(in.requestID) {
				err = v.Errorf("1 to 128 letters, digits and . _ : / -")
			}
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	given := 0
	for _, is := range []bool{data.Exists(), in.text != nil, in.want.Messages != nil} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, &strictjson.Error{Path: "input_tensor", Expected: "exactly one of input_tensor, text and messages", Got: strconv.Itoa(given) + " of them"}
	}
	if data.Exists() {
		if in.states, err = s.readStates(data, shape, mask); err != nil {
			return nil, err
		}
	}
	return in, s.readExpected(in, expected)
}

// readBinary reads float32 little-endian bytes; everything else is in the query string and the header X-Tensor-Shape.
func (s *Server) readBinary(r *request) (*processInput, error) {
	in := &processInput{layer: -1}
	bad := func(name, expected, got string) error {
		if len(got) > 32 {
			got = "a longer text"
		}
		return &strictjson.Error{Path: name, Expected: expected, Got: got}
	}
	shape := r.shape
	for name, values := range r.query {
		if len(values) != 1 {
			return nil, &strictjson.Error{Code: strictjson.DuplicateField, Path: name, Expected: "each parameter once", Got: "a duplicate"}
		}
		v := values[0]
		var err error
		switch name {
		case "shape":
			shape = v
		case "layer":
			if in.layer, err = strconv.Atoi(v); err != nil || in.layer < 0 {
				return nil, bad(name, "a layer number", v)
			}
		case "all_layers":
			if in.all, err = strconv.ParseBool(v); err != nil {
				return nil, bad(name, "true or false", v)
			}
		case "return_comprehensive_info":
			if in.info, err = strconv.ParseBool(v); err != nil {
				return nil, bad(name, "true or false", v)
			}
		case "request_id":
			if in.requestID = v; !harmless.MatchString(v) {
				return nil, bad(name, "1 to 128 letters, digits and . _ : / -", "another text")
			}
		default:
			return nil, &strictjson.Error{Code: strictjson.UnknownField, Path: name, Expected: "a documented parameter", Got: "an unknown one"}
		}
	}
	dims, err := parseShape(shape)
	if err != nil {
		return nil, err
	}
	if err := s.checkShape(dims, "shape"); err != nil {
		return nil, err
	}
	in.states, err = newStates(dims, r.body, formBytes, "body")
	return in, err
}

// processStates runs the layers on the positions that the mask leaves; the others are zero in the answer.
func (s *Server) processStates(ctx context.Context, r *request, in *processInput) (y tensor.Matrix, routes []engine.RouteInfo, q engine.Quality, err error) {
	x := in.states
	ctx, followed := tracing.Layers(ctx, len(x.used))
	defer func() { followed(err) }()
	if len(x.used) == x.rows.Rows {
		if y, routes, q, err = s.service.engine.Hidden(engine.For(ctx, access.From(ctx).Tenant, r.priority), in.layer, x.rows, in.all, r.take); err != nil {
			return y, nil, q, err
		}
		return y, routes, q, checkOutput(y)
	}
	y = tensor.NewMatrix(x.rows.Rows, x.rows.Cols)
	if len(x.used) == 0 {
		return y, nil, q, nil
	}
	packed := tensor.NewMatrix(len(x.used), x.rows.Cols)
	for i, row := range x.used {
		copy(packed.Row(i), x.rows.Row(row))
	}
	out, routes, q, err := s.service.engine.Hidden(engine.For(ctx, access.From(ctx).Tenant, r.priority), in.layer, packed, in.all, r.take)
	if err != nil {
		return y, nil, q, err
	}
	for i, row := range x.used {
		copy(y.Row(row), out.Row(i))
	}
	return y, routes, q, checkOutput(y)
}

// checkOutput refuses an answer that is not finite.
func checkOutput(y tensor.Matrix) error {
	for row := range y.Rows {
		if at := firstNonFinite(y.Row(row)); at >= 0 {
			return fmt.Errorf("row %d column %d is not finite: %w", row, at, sdk.ErrInvalidOutput)
		}
	}
	return nil
}

// routeInfo tells the owner of a request where its rows went.
func (s *Server) routeInfo(in *processInput, routes []engine.RouteInfo) any {
	type entry struct {
		Layer    int       `json:"layer"`
		Batch    int       `json:"batch"`
		Position int       `json:"position"`
		Experts  []int32   `json:"experts"`
		Weights  []float32 `json:"weights"`
	}
	list, load := []entry{}, map[string]int{}
	for _, r := range routes {
		row := in.states.used[r.Row]
		list = append(list, entry{r.Layer, row / in.states.shape[1], row % in.states.shape[1], r.IDs, r.Weights})
		for _, id := range r.IDs {
			load[strconv.Itoa(int(id))]++
		}
	}
	return map[string]any{
		"model": s.service.id, "model_digest": s.service.digest, "numeric_class": s.service.class(), "rows": len(in.states.used),
		"routes": list, "expert_load": load,
	}
}

// processText continues a text or a conversation and answers with the new text.
func (s *Server) processText(ctx context.Context, r *request, in *processInput, began time.Time) (*reply, error) {
	var p prompt
	var err error
	if err = s.checkVocabulary(in.want); err != nil {
		return nil, err
	}
	if in.text != nil {
		p.ids = s.service.text.Encode(*in.text, true)
		err = s.checkLength(p.ids, "text")
	} else {
		p, err = s.renderChat(ctx, in.want)
	}
	if err != nil {
		return nil, err
	}
	l := s.lookup(ctx, r, in.want, []prompt{p}, "process")
	a, err := s.answer(ctx, r, in.want, []prompt{p}, l)
	if err != nil {
		return nil, err
	}
	choices, u, header := a.Choices, a.Usage, s.disclosure(a.quality, a.Programs)
	l.tell(header)
	out := processResult{RequestID: r.id, Routing: s.service.routing, Output: choices[0].Text, Success: true, Seconds: time.Since(began).Seconds(), Meta: s.meta(a.quality)}
	if in.info {
		out.Info = map[string]any{
			"model": s.service.id, "model_digest": s.service.digest, "numeric_class": s.service.class(), "finish_reason": choices[0].Finish,
			"prompt_tokens": u.PromptTokens, "cached_tokens": u.CachedTokens, "completion_tokens": u.CompletionTokens,
		}
	}
	return &reply{status: http.StatusOK, contentType: mimeJSON, header: header, body: mustJSON(out)}, nil
}

// processReply is a fault on this route: a problem that also has the members of this route's own answers.
func (f *fault) processReply(id string) *reply {
	r := f.reply(problemShape, id)
	p, no := f.problem(id), false
	p.Success, p.Error = &no, f.message
	r.body = mustJSON(p)
	return r
}
