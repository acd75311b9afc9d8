package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk/tensor"
	"github.com/pimoe/pimoe/server/oip"
	"github.com/pimoe/pimoe/server/openai"
	"github.com/pimoe/pimoe/server/strictjson"
)

// The Open Inference Protocol over HTTP; its twin over gRPC, in rpc.go, asks the same functions. There are two models: the
// text model under the model's own id, and its expert layers under that id and hiddenSuffix.
const (
	oipPath      = "/v2"
	oipModels    = oipPath + "/models/"
	oipModel     = oipModels + ":model"
	oipVersion   = oipModel + "/versions/:version"
	oipIndexPath = oipPath + "/repository/index"
	hiddenSuffix = "-hidden"
	hiddenTensor = "hidden_states"
	headerLength = "Inference-Header-Content-Length"
)

// oipRoutes are the protocol's routes on the public listener.
func (s *Server) oipRoutes() []route {
	const get, post = http.MethodGet, http.MethodPost
	routes := []route{
		{method: get, path: oipPath, handle: s.oipServer},
		{method: get, path: oipPath + "/health/live", handle: s.oipLive},
		{method: get, path: oipPath + "/health/ready", handle: s.oipReady},
		{method: post, path: oipIndexPath, untyped: true, handle: s.oipIndex},
	}
	for _, base := range []string{oipModel, oipVersion} {
		routes = append(routes,
			route{method: get, path: base, handle: s.oipMetadata},
			route{method: get, path: base + "/ready", handle: s.oipModelReady},
			route{method: post, path: base + "/infer", work: true, bytes: true, untyped: true, handle: s.oipInfer},
			route{method: post, path: base + "/generate", work: true, untyped: true, handle: s.oipGenerate},
			route{method: post, path: base + "/generate_stream", work: true, untyped: true, handle: s.oipGenerateStream},
		)
	}
	for i := range routes {
		routes[i].shape = oipShape
	}
	return routes
}

// takesTensors reports whether a path is one that inputs of the size of tensors are posted to.
func takesTensors(path string) bool {
	return path == processPath || strings.HasPrefix(path, oipModels) && strings.HasSuffix(path, "/infer")
}

// textModel and hiddenModel are what the protocol's clients see of the one model. Their version is the begin of the digest of
// the weights.
func (s *Server) textModel() oip.Model { return oip.TextModel(s.service.id, s.modelVersion()) }

func (s *Server) hiddenModel() oip.Model {
	shape := []int64{-1, -1, int64(s.service.hidden)}
	l := s.cfg.Limits
	return oip.Model{
		Name: s.service.id + hiddenSuffix, Version: s.modelVersion(),
		Inputs:  []oip.Spec{{Name: hiddenTensor, Type: oip.FP32, Shape: shape, Most: l.MaxBatchSize * l.MaxSequenceLength * s.service.hidden}},
		Outputs: []oip.Spec{{Name: hiddenTensor, Type: oip.FP32, Shape: shape}},
		Params:  []oip.Spec{{Name: "layer", Type: oip.Int64}, {Name: "all_layers", Type: oip.Bool}},
	}
}

func (s *Server) modelVersion() string {
	digest := strings.TrimPrefix(s.service.digest, "sha256:")
	return digest[:min(len(digest), 12)]
}

// findModel is the model of a name and, if one is given, a version.
func (s *Server) findModel(name, version string) (oip.Model, error) {
	all := []oip.Model{s.textModel(), s.hiddenModel()}
	for _, m := range all {
		switch {
		case m.Name != name:
		case version != "" && version != m.Version:
			return m, &fault{status: http.StatusNotFound, code: "model_not_found", message: fmt.Sprintf("the model %q has no version %.64q here, but %q", name, version, m.Version)}
		default:
			return m, nil
		}
	}
	return oip.Model{}, &fault{status: http.StatusNotFound, code: "model_not_found", message: fmt.Sprintf("the model %.64q does not exist here; this server has %s", name, oip.Names(all))}
}

// pathModel is the model that a path names.
func (s *Server) pathModel(r *request) (oip.Model, error) {
	name, err := url.PathUnescape(r.model)
	if err != nil {
		name = r.model
	}
	return s.findModel(name, r.version)
}

func (s *Server) oipServer(context.Context, *request) (*reply, error) {
	return oipReply(mustJSON(map[string]any{"name": oip.Platform, "version": s.build.Version, "extensions": oip.Extensions})), nil
}

func (s *Server) oipLive(context.Context, *request) (*reply, error) {
	return oipReply([]byte(`{"live":true}`)), nil
}

func (s *Server) oipReady(context.Context, *request) (*reply, error) {
	if err := s.unready(); err != nil {
		return nil, s.notReady(err)
	}
	return oipReply([]byte(`{"ready":true}`)), nil
}

// notReady says why in the protocol's shape; a probe gets nothing of the inside.
func (s *Server) notReady(err error) error {
	return &fault{status: http.StatusServiceUnavailable, code: "not_ready", message: s.reason(err), retry: true}
}

func (s *Server) oipMetadata(_ context.Context, r *request) (*reply, error) {
	m, err := s.pathModel(r)
	if err != nil {
		return nil, err
	}
	return oipReply(m.Metadata()), nil
}

func (s *Server) oipModelReady(_ context.Context, r *request) (*reply, error) {
	m, err := s.pathModel(r)
	if err != nil {
		return nil, err
	}
	if err := s.unready(); err != nil {
		return nil, s.notReady(err)
	}
	return oipReply(mustJSON(map[string]any{"name": m.Name, "ready": true})), nil
}

func (s *Server) oipIndex(_ context.Context, r *request) (*reply, error) {
	ready, err := oip.DecodeIndex(r.body)
	if err != nil {
		return nil, err
	}
	return oipReply(oip.Index(s.index(ready))), nil
}

// index lists the models, or only those that are ready.
func (s *Server) index(ready bool) (out []oip.Indexed) {
	err := s.unready()
	if err != nil && ready {
		return nil
	}
	for _, m := range []oip.Model{s.textModel(), s.hiddenModel()} {
		i := oip.Indexed{Model: m, Ready: err == nil}
		if err != nil {
			i.Reason = s.reason(err)
		}
		out = append(out, i)
	}
	return out
}

// oipInfer is POST .../infer.
func (s *Server) oipInfer(ctx context.Context, r *request) (*reply, error) {
	m, err := s.pathModel(r)
	if err != nil {
		return nil, err
	}
	header := -1
	if r.inferHeader != "" {
		if header, err = strconv.Atoi(r.inferHeader); err != nil || header < 0 {
			return nil, &fault{status: http.StatusBadRequest, code: "invalid_header", message: headerLength + ": expected how many bytes of the body are JSON", param: headerLength}
		}
	}
	q, err := oip.Decode(r.body, header, m)
	if err != nil {
		return nil, err
	}
	res, h, err := s.infer(ctx, r, m, q)
	if err != nil {
		return nil, err
	}
	body, length := res.Encode(q)
	rep := oipReply(body)
	rep.header = h
	if length >= 0 {
		rep.contentType, h[headerLength] = mimeBytes, strconv.Itoa(length)
	}
	return rep, nil
}

// infer answers a request with one response, and the headers that disclose what computed it.
func (s *Server) infer(ctx context.Context, r *request, m oip.Model, q *oip.Request) (*oip.Response, map[string]string, error) {
	if q.Timeout > 0 {
		var release context.CancelFunc
		ctx, release = context.WithTimeout(ctx, q.Timeout)
		defer release()
	}
	if m.Name != s.service.id {
		return s.inferHidden(ctx, r, m, q)
	}
	settings, err := q.Settings()
	if err != nil {
		return nil, nil, err
	}
	if settings.Stream() {
		return nil, nil, &strictjson.Error{Code: strictjson.UnsupportedValue, Path: "stream", Expected: "false where there is one answer: use generate_stream or ModelStreamInfer", Got: "true"}
	}
	return s.inferText(ctx, r, m, q, settings)
}

// inferHidden runs experts on hidden states, as POST /api/v1/process does.
func (s *Server) inferHidden(ctx context.Context, r *request, m oip.Model, q *oip.Request) (*oip.Response, map[string]string, error) {
	x := q.Input(hiddenTensor)
	dims := [3]int{}
	for i, d := range x.Shape[len(x.Shape)-3:] { // checked: three, behind ones
		dims[i] = int(d)
	}
	if err := s.checkShape(dims, hiddenTensor); err != nil {
		return nil, nil, err
	}
	in := &processInput{states: statesOf(dims, x.Floats, formBytes), layer: -1}
	if l, ok := q.Params["layer"].(int64); ok {
		in.layer = int(l)
		if l < 0 || l != int64(in.layer) {
			return nil, nil, &strictjson.Error{Path: "parameters.layer", Expected: "a layer number", Got: strconv.FormatInt(l, 10)}
		}
	}
	in.all, _ = q.Params["all_layers"].(bool)
	if err := s.checkLayer(in.layer); err != nil {
		return nil, nil, err
	}
	y, _, quality, err := s.processStates(ctx, r, in)
	if err != nil {
		return nil, nil, err
	}
	r.quality = quality.Status()
	res := s.response(m, q, quality, "")
	res.Outputs = []oip.Tensor{{Name: hiddenTensor, Type: oip.FP32, Shape: x.Shape, Floats: flat(y)}}
	return res, s.disclosure(quality, ""), nil
}

// flat is the elements of a matrix, which is used no more.
func flat(y tensor.Matrix) []float32 {
	if y.Stride == y.Cols || y.Rows == 1 {
		return y.Data[:y.Rows*y.Cols]
	}
	out := make([]float32, 0, y.Rows*y.Cols)
	for row := range y.Rows {
		out = append(out, y.Row(row)...)
	}
	return out
}

// response is an answer without outputs. Its parameters say what computed it.
func (s *Server) response(m oip.Model, q *oip.Request, quality engine.Quality, programs string) *oip.Response {
	params := []oip.Param{{Name: "status", Value: quality.Status()}, {Name: "model_digest", Value: s.service.digest}, {Name: "numeric_class", Value: s.service.classOf(quality)}}
	if quality.Status() == engine.StatusDegraded {
		params = append(params, oip.Param{Name: "policy", Value: quality.Policy()}, oip.Param{Name: "layers", Value: int64(quality.Layers)}, oip.Param{Name: "max_dropped_mass", Value: float64(quality.Dropped)})
	}
	if s.service.routing != "" {
		params = append(params, oip.Param{Name: "routing", Value: s.service.routing})
	}
	if programs != "" {
		params = append(params, oip.Param{Name: "plugins", Value: programs})
	}
	return &oip.Response{Model: m.Name, Version: m.Version, ID: q.ID, Params: params}
}

// startText begins to continue a text. The caller closes the generation.
func (s *Server) startText(ctx context.Context, r *request, settings oip.Settings) (*generation, error) {
	body, err := settings.Completion(s.service.id)
	if err != nil {
		return nil, err
	}
	want, err := openai.DecodeCompletion(body)
	if err != nil {
		return nil, oip.Named(err)
	}
	prompts := make([]prompt, len(want.Prompts))
	for i, p := range want.Prompts {
		if prompts[i], err = s.encodePrompt(p, i, len(prompts), want.Echo); err != nil {
			return nil, oip.Named(renamePrompt(err))
		}
	}
	return s.start(ctx, r, want, prompts)
}

// renamePrompt gives a fault about the prompt the name that clients of this protocol know.
func renamePrompt(err error) error {
	var f *fault
	if errors.As(err, &f) && f.param == "prompt" {
		renamed := *f
		renamed.param = "text_input"
		return &renamed
	}
	return err
}

// inferText continues a text to its end.
func (s *Server) inferText(ctx context.Context, r *request, m oip.Model, q *oip.Request, settings oip.Settings) (*oip.Response, map[string]string, error) {
	g, err := s.startText(ctx, r, settings)
	if err != nil {
		return nil, nil, err
	}
	defer g.close()
	choices, err := g.whole(ctx)
	u := g.usage()
	r.tokens.prompt, r.tokens.completion = u.PromptTokens, u.CompletionTokens
	if err != nil {
		return nil, nil, err
	}
	quality := g.quality()
	r.quality = quality.Status()
	res := s.response(m, q, quality, g.programs())
	res.Outputs = textOutputs(q, choices[0].Text, choices[0].Finish, u)
	return res, s.disclosure(quality, g.programs()), nil
}

// textOutputs are the outputs of a text that the request wants, in the rank of its text.
func textOutputs(q *oip.Request, text, finish string, u openai.Usage) []oip.Tensor {
	shape := []int64{1}
	if in := q.Input("text_input"); in != nil {
		shape = in.Shape
	}
	all := []oip.Tensor{
		{Name: oip.TextOutput, Type: oip.Bytes, Texts: []string{text}}, {Name: oip.FinishReason, Type: oip.Bytes, Texts: []string{finish}},
		{Name: oip.InputTokens, Type: oip.Uint32, Ints: []int64{int64(u.PromptTokens)}}, {Name: oip.OutputTokens, Type: oip.Uint32, Ints: []int64{int64(u.CompletionTokens)}},
	}
	out := all[:0]
	for _, t := range all {
		if t.Shape = shape; q.Wants(t.Name) {
			out = append(out, t)
		}
	}
	return out
}

// streamText gives a text in parts to emit. Parts without text are left out, but for the last, which has the reason of the end;
// idle is called while nothing comes.
func (s *Server) streamText(ctx context.Context, r *request, m oip.Model, q *oip.Request, g *generation, emit func(*oip.Response) error, idle func() error) error {
	defer g.close()
	err := g.run(ctx, func(p piece) error {
		if p.Text == "" && p.Finish == "" {
			return nil
		}
		res := s.response(m, q, p.quality, "")
		if p.Finish != "" {
			res = s.response(m, q, g.quality(), g.programs())
		}
		res.Outputs = textOutputs(q, p.Text, p.Finish, g.usage())
		return emit(res)
	}, idle)
	u := g.usage()
	r.tokens.prompt, r.tokens.completion = u.PromptTokens, u.CompletionTokens
	r.quality = g.quality().Status()
	return err
}

// generateInput reads a request of either of Triton's generate routes.
func (s *Server) generateInput(r *request) (oip.Model, *oip.Request, oip.Settings, error) {
	m, err := s.pathModel(r)
	if err != nil {
		return m, nil, nil, err
	}
	if m.Name != s.service.id {
		return m, nil, nil, &fault{status: http.StatusBadRequest, code: "unsupported_value", message: fmt.Sprintf("the model %q takes tensors: use infer", m.Name), param: "model"}
	}
	q, settings, err := oip.DecodeGenerate(r.body, m)
	return m, q, settings, err
}

// oipGenerate is POST .../generate.
func (s *Server) oipGenerate(ctx context.Context, r *request) (*reply, error) {
	m, q, settings, err := s.generateInput(r)
	if err != nil {
		return nil, err
	}
	if settings.Stream() {
		return nil, &strictjson.Error{Code: strictjson.UnsupportedValue, Path: "stream", Expected: "false where there is one answer: use generate_stream", Got: "true"}
	}
	if q.Timeout > 0 {
		var release context.CancelFunc
		ctx, release = context.WithTimeout(ctx, q.Timeout)
		defer release()
	}
	res, h, err := s.inferText(ctx, r, m, q, settings)
	if err != nil {
		return nil, err
	}
	rep := oipReply(res.Generated())
	rep.header = h
	return rep, nil
}

// oipGenerateStream is POST .../generate_stream: server-sent events, each a part of the answer.
func (s *Server) oipGenerateStream(ctx context.Context, r *request) (*reply, error) {
	m, q, settings, err := s.generateInput(r)
	if err != nil {
		return nil, err
	}
	release := context.CancelFunc(func() {})
	if q.Timeout > 0 {
		ctx, release = context.WithTimeout(ctx, q.Timeout)
	}
	g, err := s.startText(ctx, r, settings)
	if err != nil {
		release()
		return nil, err
	}
	return &reply{status: http.StatusOK, contentType: mimeEvents, header: s.promise(r), stream: func(_ context.Context, w *events) error {
		defer release()
		return s.streamText(ctx, r, m, q, g,
			func(res *oip.Response) error { w.data(res.Generated()); return w.err },
			func() error { w.comment(); return w.err })
	}}, nil
}

func oipReply(body []byte) *reply {
	return &reply{status: http.StatusOK, contentType: mimeJSON, body: body}
}

// oip is the fault in the protocol's shape.
func (f *fault) oip(id string) []byte { return oip.Error(f.message, f.code, id) }
