package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/google/go-cmp/cmp"
)

func loadDescription(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(openapiYAML)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatal(err)
	}
	return doc
}

// The description and the public listener have the same routes, in both directions, with the same need of a key.
func TestDescriptionMatchesRoutes(t *testing.T) {
	doc := loadDescription(t)
	r := serve(t, nil, nil)
	var described, served []string
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			open := op.Security != nil && len(*op.Security) == 0
			described = append(described, fmt.Sprint(method, " ", path, " open=", open))
		}
	}
	table := map[string]route{}
	for _, rt := range r.publicRoutes() {
		table[rt.method+" "+rt.path] = rt
	}
	param := regexp.MustCompile(`:(\w+)`)
	for _, f := range r.public.app.GetRoutes() {
		if f.Method == http.MethodHead { // implied by GET
			continue
		}
		rt, ok := table[f.Method+" "+f.Path]
		if !ok {
			t.Errorf("the app serves %s %s, which is not in the table of routes", f.Method, f.Path)
		}
		rule, err := r.table.Of(rt.name())
		if err != nil {
			t.Error(err)
		}
		served = append(served, fmt.Sprint(f.Method, " ", param.ReplaceAllString(f.Path, "{$1}"), " open=", rule.Open()))
	}
	slices.Sort(described)
	slices.Sort(served)
	if d := cmp.Diff(described, served); d != "" {
		t.Errorf("description (-) and routes (+) differ: %s", d)
	}
}

// The fields that the decoders take and those that the description lists are the same: each property of a request
// schema is known, and nothing else is.
func TestDescriptionListsEveryField(t *testing.T) {
	doc := loadDescription(t)
	r := serve(t, nil, nil)
	for schema, path := range map[string]string{"CompletionRequest": "/v1/completions", "ChatRequest": "/v1/chat/completions", "EmbeddingRequest": embeddingsPath, "ResponseRequest": responsesPath, "ProcessRequest": processPath} {
		s := doc.Components.Schemas[schema].Value
		for name := range s.Properties {
			// A value of a type that no field has: a known field complains about the value, an unknown one about the name.
			a := r.post(path, fmt.Sprintf(`{%q:"\u0000no field takes this"}`, name))
			if strings.Contains(string(a.body), "unknown_parameter") {
				t.Errorf("%s: the description has %s, the decoder says %d %s", path, name, a.status, a.body)
			}
		}
	}
	for _, name := range documentedByOpenAI {
		if _, ok := doc.Components.Schemas["ChatRequest"].Value.Properties[name]; !ok {
			t.Errorf("the description lacks %s of OpenAI's chat completions", name)
		}
	}
}

// documentedByOpenAI are the fields of POST /v1/chat/completions in OpenAI's reference of November 2026.
var documentedByOpenAI = strings.Fields(`messages model audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens
	max_tokens metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_cache_options
	prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store stream stream_options temperature
	tool_choice tools top_logprobs top_p user verbosity web_search_options`)

// Real requests and answers fit the schemas; so do the examples.
func TestAnswersFitTheDescription(t *testing.T) {
	doc := loadDescription(t)
	r := serve(t, nil, nil)
	inst := openShared(t)
	chat := `{"model":"pimoe-tiny","messages":[{"role":"user","content":"Tell me a story."}],"max_tokens":4`
	requests := []struct{ method, path, body string }{
		{"GET", "/v1/models", ""}, {"GET", "/v1/models/pimoe-tiny", ""}, {"GET", "/v1/models/other", ""},
		{"POST", "/v1/completions", story + "}"},
		{"POST", "/v1/completions", story + `,"echo":true,"logprobs":2,"n":2,"stop":["."],"logit_bias":{"5":1},"seed":3,"stream":null}`},
		{"POST", "/v1/chat/completions", chat + "}"},
		{"POST", "/v1/chat/completions", chat + `,"logprobs":true,"top_logprobs":2,"tools":[],"response_format":{"type":"text"},"modalities":["text"],"store":false,"metadata":{}}`},
		{"POST", "/v1/completions", story + `,"n":2,"pimoe":{"trace":true,"prompt":true}}`},
		{"POST", "/v1/chat/completions", chat + `,"pimoe":{"trace":true}}`},
		{"POST", embeddingsPath, `{"model":"pimoe-tiny","input":"Once","encoding_format":"base64"}`},
		{"POST", responsesPath, `{"model":"pimoe-tiny","input":[{"role":"user","content":[{"type":"input_text","text":"Once"}]}],"max_output_tokens":4,"include":["message.output_text.logprobs"],"pimoe":{"trace":true}}`},
		{"POST", processPath, `{"text":"Once","max_tokens":2,"return_comprehensive_info":true}`},
		{"POST", processPath, `{"input_tensor":` + nested(hiddenStates(2, inst.Model.Hidden), 1) + `,"attention_mask":[[1,0]],"return_comprehensive_info":true}`},
		{"GET", "/api/v1/stats", ""}, {"GET", "/health", ""}, {"GET", "/livez", ""}, {"GET", "/readyz?verbose", ""}, {"GET", "/startupz", ""},
		{"GET", "/metrics", ""}, {"GET", "/docs", ""}, {"GET", "/openapi.json", ""},
		{"GET", "/v2", ""}, {"GET", "/v2/health/live", ""}, {"GET", "/v2/health/ready", ""}, {"GET", "/v2/models/pimoe-tiny", ""}, {"GET", "/v2/models/pimoe-tiny-hidden/ready", ""}, {"GET", "/v2/models/other", ""},
		{"POST", "/v2/models/pimoe-tiny-hidden/infer", fmt.Sprintf(`{"id":"a","inputs":[{"name":"hidden_states","datatype":"FP32","shape":[1,2,%d],"data":%s}]}`, inst.Model.Hidden, nested(hiddenStates(2, inst.Model.Hidden), 1))},
		{"POST", "/v2/models/pimoe-tiny/infer", `{"inputs":[]}`},
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if op.RequestBody == nil {
				continue
			}
			example, err := json.Marshal(op.RequestBody.Value.Content["application/json"].Example)
			if err != nil {
				t.Fatal(err)
			}
			path = strings.NewReplacer("{model}", inst.ID, "{version}", r.modelVersion()).Replace(path)
			requests = append(requests, struct{ method, path, body string }{method, path, string(example)})
		}
	}
	for _, q := range requests {
		checkAgainst(t, doc, r, q.method, q.path, q.body)
	}
	for _, bad := range []string{`{"model":"pimoe-tiny","prompt":5}`, `{`} { // errors fit too
		a := r.post("/v1/completions", bad)
		visit(t, doc.Components.Schemas["Error"], a.body)
		visit(t, doc.Components.Schemas["Problem"], r.post(processPath, bad).body)
	}
	for _, e := range r.sse("/v1/chat/completions", chat+`,"n":2,"logprobs":true,"stream":true,"stream_options":{"include_usage":true}}`) {
		if e != "[DONE]" {
			visit(t, doc.Components.Schemas["ChatCompletionChunk"], []byte(e))
		}
	}
	for _, e := range r.sse("/v1/completions", story+`,"pimoe":{"trace":true},"logprobs":1,"stream":true,"stream_options":{"include_usage":true}}`) {
		if e != "[DONE]" {
			visit(t, doc.Components.Schemas["Completion"], []byte(e))
		}
	}
}

func visit(t *testing.T, schema *openapi3.SchemaRef, body []byte) {
	t.Helper()
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Errorf("%s: %v", body, err)
		return
	}
	if err := schema.Value.VisitJSON(v); err != nil {
		t.Errorf("%s: %v", body, err)
	}
}

// checkAgainst validates one request and its answer.
func checkAgainst(t *testing.T, doc *openapi3.T, r *running, method, path, body string) {
	t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	name, params := req.URL.Path, map[string]string{}
	if id, ok := strings.CutPrefix(name, "/v1/models/"); ok {
		name, params = "/v1/models/{model}", map[string]string{"model": id}
	}
	if rest, ok := strings.CutPrefix(name, oipModels); ok {
		id, action, _ := strings.Cut(rest, "/")
		params, name = map[string]string{"model": id}, strings.TrimSuffix(oipModels+"{model}/"+action, "/")
		if version, after, ok := strings.Cut(strings.TrimPrefix(action, "versions/"), "/"); ok && strings.HasPrefix(action, "versions/") {
			params["version"], name = version, oipModels+"{model}/versions/{version}/"+after
		}
	}
	item := doc.Paths.Find(name)
	options := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, ExcludeResponseBody: false}
	in := &openapi3filter.RequestValidationInput{
		Request: req, PathParams: params, QueryParams: req.URL.Query(), Options: options,
		Route: &routers.Route{Spec: doc, Path: name, PathItem: item, Method: method, Operation: item.GetOperation(method)},
	}
	if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil {
		t.Errorf("%s %s %s: request: %v", method, path, body, err)
	}
	fresh, err := http.NewRequest(method, r.url+path, strings.NewReader(body)) // the validator has read and rewritten the first
	if err != nil {
		t.Fatal(err)
	}
	fresh.Header = req.Header
	resp, err := http.DefaultClient.Do(fresh)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/") { // plain texts and streams have no schema worth the name
		return
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(b)), Options: options}
	if err := openapi3filter.ValidateResponse(context.Background(), out); err != nil {
		t.Errorf("%s %s %s: answer %s: %v", method, path, body, b[:min(len(b), 600)], err)
	}
}

// The page needs nothing from elsewhere and runs no script, and its policy lets its own style through.
func TestDocsPage(t *testing.T) {
	r := serve(t, nil, nil)
	a := r.get("/docs")
	page, policy := string(a.body), a.header.Get("Content-Security-Policy")
	for _, rt := range r.publicRoutes() {
		if !strings.Contains(page, "<code>"+strings.NewReplacer(":model", "{model}", ":job", "{job}", ":version", "{version}", ":asset", "{asset}").Replace(rt.path)+"</code>") {
			t.Errorf("the page lacks %s", rt.path)
		}
	}
	for _, bad := range []string{"<script", "http://", "https://", "@import", "src=", "ZgotmplZ"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %s in it", bad)
		}
	}
	_, style, _ := strings.Cut(page, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	hash := sha256.Sum256([]byte(style))
	if want := "style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"; !strings.Contains(policy, want) || !strings.Contains(policy, "default-src 'none'") {
		t.Errorf("policy %s, want it to have %s", policy, want)
	}
	doc, err := openapi3.NewLoader().LoadFromData(r.get("/openapi.json").body)
	if err != nil || doc.OpenAPI != "3.1.0" {
		t.Errorf("/openapi.json: %v", err)
	}
}
