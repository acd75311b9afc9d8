package server

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

const (
	inferText   = "/v2/models/pimoe-tiny/infer"
	inferHidden = "/v2/models/pimoe-tiny-hidden/infer"
)

// tensorRequest asks for hidden states in binary, with the header that says where they begin.
func tensorRequest(x tensor.Matrix, batch int, extra string) (body, length string) {
	head := fmt.Sprintf(`{"id":"seven","inputs":[{"name":"hidden_states","datatype":"FP32","shape":[%d,%d,%d],"parameters":{"binary_data_size":%d}}]%s}`,
		batch, x.Rows/batch, x.Cols, 4*x.Rows*x.Cols, extra)
	return head + string(littleEndian(x)), strconv.Itoa(len(head))
}

// In JSON and in binary, in each direction, an answer is that of /api/v1/process to the bit.
func TestInferHiddenStates(t *testing.T) {
	r := serve(t, nil, nil)
	inst := openShared(t)
	x := hiddenStates(6, inst.Model.Hidden)
	process := r.post(processPath+"?layer=2", string(littleEndian(x)), "Content-Type", mimeBytes, "Accept", mimeBytes, "X-Tensor-Shape", fmt.Sprintf("2,3,%d", x.Cols))
	want := bits(process.body)

	in := fmt.Sprintf(`{"id":"seven","parameters":{"layer":2},"inputs":[{"name":"hidden_states","datatype":"FP32","shape":[2,3,%d],"data":%s}]`, x.Cols, nested(x, 2))
	got := r.ok(inferHidden, in+"}")
	if d := cmp.Diff(want, floats(t, at(t, got, "outputs", 0, "data"))); d != "" {
		t.Errorf("JSON: %s", d)
	}
	if got["id"] != "seven" || got["model_name"] != "pimoe-tiny-hidden" || got["model_version"] != r.modelVersion() || at(t, got, "parameters", "status") != "exact" || at(t, got, "parameters", "model_digest") != inst.Digest {
		t.Errorf("envelope %v", got)
	}
	for name, c := range map[string]struct{ extra, path string }{
		"all binary":   {`,"parameters":{"layer":2,"binary_data_output":true}`, inferHidden},
		"one binary":   {`,"parameters":{"layer":2},"outputs":[{"name":"hidden_states","parameters":{"binary_data":true}}]`, inferHidden},
		"by version":   {`,"parameters":{"layer":2,"binary_data_output":true}`, "/v2/models/pimoe-tiny-hidden/versions/" + r.modelVersion() + "/infer"},
		"with timeout": {`,"parameters":{"layer":2,"binary_data_output":true,"timeout":60000000}`, inferHidden},
	} {
		body, length := tensorRequest(x, 2, c.extra)
		a := r.post(c.path, body, "Content-Type", mimeBytes, headerLength, length)
		n, err := strconv.Atoi(a.header.Get(headerLength))
		if a.status != 200 || err != nil || a.header.Get("Content-Type") != mimeBytes || a.header.Get("Pimoe-Status") != "exact" {
			t.Fatalf("%s: %d %v %s", name, a.status, a.header, a.body)
		}
		var head struct{ Outputs []map[string]any }
		if err := json.Unmarshal(a.body[:n], &head); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if size := at(t, head.Outputs[0]["parameters"], "binary_data_size"); size != float64(len(a.body)-n) {
			t.Errorf("%s: binary_data_size %v of %d bytes", name, size, len(a.body)-n)
		}
		if d := cmp.Diff(want, bits(a.body[n:])); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	body, length := tensorRequest(x, 2, `,"parameters":{"layer":2}`)
	asJSON := r.post(inferHidden, body, headerLength, length).json(t)
	if d := cmp.Diff(want, floats(t, at(t, asJSON, "outputs", 0, "data"))); d != "" {
		t.Errorf("binary in, JSON out: %s", d)
	}
	all := floats(t, at(t, r.ok(inferHidden, strings.Replace(in, `"layer":2`, `"layer":0,"all_layers":true`, 1)+"}"), "outputs", 0, "data"))
	direct, _, _, err := inst.Engine.Hidden(context.Background(), 0, x, true, moe.AcceptExact)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(bits(littleEndian(direct)), all); d != "" {
		t.Errorf("all layers: %s", d)
	}
}

// The text model gives the text of OpenAI's completions, whole and in parts, by inputs and by parameters.
func TestInferText(t *testing.T) {
	r := serve(t, nil, nil)
	const prompt = "Once upon a time, a little"
	want := at(t, r.ok("/v1/completions", story+`,"temperature":0.8,"seed":5,"stop":["."]}`), "choices", 0, "text")
	input := func(name, datatype, data string) string {
		return fmt.Sprintf(`{"name":%q,"datatype":%q,"shape":[1],"data":[%s]}`, name, datatype, data)
	}
	text := input("text_input", "BYTES", strconv.Quote(prompt))
	inputs := []string{text, input("max_tokens", "INT32", "12"), input("temperature", "FP32", "0.8"), input("random_seed", "UINT64", "5"), input("stop_words", "BYTES", `"."`)}
	got := r.ok(inferText, `{"inputs":[`+strings.Join(inputs, ",")+`]}`)
	if at(t, got, "outputs", 0, "data", 0) != want || at(t, got, "outputs", 0, "name") != "text_output" || len(at(t, got, "outputs").([]any)) != 4 {
		t.Errorf("by inputs: %v, want %q", got, want)
	}
	params := `"max_tokens":12,"temperature":0.8,"seed":5,"stop_words":"."`
	got = r.ok(inferText, `{"inputs":[`+text+`],"parameters":{`+params+`},"outputs":[{"name":"text_output"}]}`)
	if at(t, got, "outputs", 0, "data", 0) != want || len(at(t, got, "outputs").([]any)) != 1 {
		t.Errorf("by parameters: %v", got)
	}
	got = r.ok("/v2/models/pimoe-tiny/generate", `{"text_input":"`+prompt+`",`+params+`,"exclude_input_in_output":false,"id":"x"}`)
	if got["text_output"] != prompt+want.(string) || got["id"] != "x" || got["finish_reason"] == "" {
		t.Errorf("generate: %v", got)
	}
	var parts strings.Builder
	events := r.sse("/v2/models/pimoe-tiny/generate_stream", `{"text_input":"`+prompt+`","parameters":{`+params+`},"stream":true}`)
	for i, e := range events {
		var part map[string]any
		if err := json.Unmarshal([]byte(e), &part); err != nil {
			t.Fatal(err)
		}
		parts.WriteString(part["text_output"].(string))
		if last := i == len(events)-1; last != (part["finish_reason"] != "") {
			t.Errorf("event %d of %d: %s", i, len(events), e)
		}
	}
	if parts.String() != want || len(events) < 3 {
		t.Errorf("stream: %q in %d events, want %q", parts.String(), len(events), want)
	}
}

func TestServerAndModels(t *testing.T) {
	r := serve(t, nil, nil)
	h := openShared(t).Model.Hidden
	if got := r.get("/v2").json(t); got["name"] != "pimoe" || got["version"] == "" {
		t.Errorf("server: %v", got)
	}
	m := r.get("/v2/models/pimoe-tiny-hidden").json(t)
	if d := cmp.Diff(map[string]any{"name": "hidden_states", "datatype": "FP32", "shape": []any{-1.0, -1.0, float64(h)}}, at(t, m, "inputs", 0)); d != "" || m["platform"] != "pimoe" || at(t, m, "versions", 0) != r.modelVersion() {
		t.Errorf("%v %s", m, d)
	}
	if m := r.get("/v2/models/pimoe%2Dtiny").json(t); at(t, m, "inputs", 0, "name") != "text_input" {
		t.Errorf("an escaped name: %v", m)
	}
	for path, status := range map[string]int{
		"/v2/health/live": 200, "/v2/health/ready": 200, "/v2/models/pimoe-tiny/ready": 200, "/v2/models/other": 404, "/v2/models/other/ready": 404,
		"/v2/models/pimoe-tiny/versions/1": 404, "/v2/models/pimoe-tiny/versions/" + r.modelVersion() + "/ready": 200, "/v2/nothing": 404, "/v2/models/pimoe-tiny/infer": 405,
	} {
		a := r.get(path)
		if a.status != status {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
		if status != 200 && (a.json(t)["error"] == "" || a.json(t)["request_id"] != a.header.Get("X-Request-Id")) {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	if a := do(t, http.MethodPost, r.url+"/v2/repository/index", ""); a.status != 200 || !strings.Contains(string(a.body), `"name":"pimoe-tiny-hidden","version":"`+r.modelVersion()+`","state":"READY"`) {
		t.Errorf("index: %d %s", a.status, a.body)
	}
	svc := fakeService(&fakeEngine{})
	svc.ready = func() error { return fmt.Errorf("expert e0 is gone: %w", sdk.ErrUnavailable) }
	down := serve(t, svc, nil)
	for _, path := range []string{"/v2/health/ready", "/v2/models/fake/ready", "/v2/models/fake-hidden/ready"} {
		if a := down.get(path); a.status != 503 || a.json(t)["error"] == nil {
			t.Errorf("%s of a server that is not ready: %d %s", path, a.status, a.body)
		}
	}
	if a := down.post("/v2/repository/index", `{"ready":true}`); string(a.body) != "[]" {
		t.Errorf("index of what is ready: %s", a.body)
	}
	if a := down.post("/v2/repository/index", `{}`); !strings.Contains(string(a.body), "UNAVAILABLE") {
		t.Errorf("index: %s", a.body)
	}
}

// Each refusal has the protocol's shape and names the field.
func TestInferRefuses(t *testing.T) {
	e := &fakeEngine{hidden: func(x tensor.Matrix) (tensor.Matrix, error) { return x, nil }, script: hangs(0)}
	r := serve(t, fakeService(e), nil)
	const text, hidden = "/v2/models/fake/infer", "/v2/models/fake-hidden/infer"
	in := func(s string) string { return `{"inputs":[` + s + `]}` }
	for name, c := range map[string]struct {
		path, body, length string
		want               string
	}{
		"no JSON":            {text, `{`, "", "expected one JSON document"},
		"no inputs":          {text, `{}`, "", "inputs: expected an input text_input"},
		"unknown member":     {text, `{"inputs":[],"colour":1}`, "", "colour"},
		"unknown input":      {text, in(`{"name":"colour","datatype":"BYTES","shape":[1],"data":["red"]}`), "", "inputs[0].name: expected an input of this model: text_input"},
		"twice":              {text, in(`{"name":"text_input","datatype":"BYTES","shape":[1],"data":["a"]},{"name":"text_input","datatype":"BYTES","shape":[1],"data":["a"]}`), "", "each input once"},
		"datatype":           {text, in(`{"name":"text_input","datatype":"FP32","shape":[1],"data":["a"]}`), "", `inputs[0].datatype: expected BYTES, got "FP32"`},
		"no shape":           {text, in(`{"name":"text_input","datatype":"BYTES","data":["a"]}`), "", "inputs[0].shape"},
		"two texts":          {text, in(`{"name":"text_input","datatype":"BYTES","shape":[2],"data":["a","b"]}`), "", "inputs[0].shape: expected [1]"},
		"more data":          {text, in(`{"name":"text_input","datatype":"BYTES","shape":[1],"data":["a","b"]}`), "", "1 elements for this shape"},
		"no data":            {text, in(`{"name":"text_input","datatype":"BYTES","shape":[1]}`), "", "either data or parameters.binary_data_size"},
		"shared memory":      {text, in(`{"name":"text_input","datatype":"BYTES","shape":[1],"parameters":{"shared_memory_region":"a"}}`), "", "shared_memory_region"},
		"too many tokens":    {text, in(`{"name":"text_input","datatype":"BYTES","shape":[1],"data":["a"]},{"name":"max_tokens","datatype":"INT32","shape":[1],"data":[-7]}`), "", "max_tokens"},
		"wrong temperature":  {text, `{"inputs":[{"name":"text_input","datatype":"BYTES","shape":[1],"data":["a"]}],"parameters":{"temperature":9}}`, "", "temperature"},
		"input and param":    {text, `{"inputs":[{"name":"text_input","datatype":"BYTES","shape":[1],"data":["a"]},{"name":"seed","datatype":"INT64","shape":[1],"data":[7]}],"parameters":{"seed":9}}`, "", "seed: expected an input or a parameter"},
		"unknown parameter":  {text, `{"inputs":[],"parameters":{"colour":"red"}}`, "", "a parameter of this model"},
		"sequence":           {text, `{"inputs":[],"parameters":{"sequence_id":4}}`, "", "sequence_id"},
		"timeout":            {text, `{"inputs":[],"parameters":{"timeout":"soon"}}`, "", "timeout"},
		"stream":             {text, `{"inputs":[{"name":"text_input","datatype":"BYTES","shape":[1],"data":["a"]}],"parameters":{"stream":true}}`, "", "stream"},
		"unknown output":     {text, `{"inputs":[],"outputs":[{"name":"colour"}]}`, "", "an output of this model"},
		"classification":     {text, `{"inputs":[],"outputs":[{"name":"text_output","parameters":{"classification":3}}]}`, "", "classification"},
		"empty text":         {text, in(`{"name":"text_input","datatype":"BYTES","shape":[1],"data":[""]}`), "", "text_input"},
		"header too long":    {text, `{}`, "3", "Inference-Header-Content-Length"},
		"header no number":   {text, `{}`, "x", "Inference-Header-Content-Length"},
		"bytes left":         {text, `{"inputs":[]}abcd`, "13", "4 bytes that belong to no input"},
		"length of a text":   {text, in(`{"name":"text_input","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}}`) + "\x09\x00\x00\x00ab", "96", "9 bytes as its length says"},
		"broken UTF-8":       {text, in(`{"name":"text_input","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}}`) + "\x02\x00\x00\x00\xff\xfe", "96", "UTF-8 text"},
		"size beyond":        {text, in(`{"name":"text_input","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":9}}`), "96", "binary_data_size"},
		"other width":        {hidden, in(`{"name":"hidden_states","datatype":"FP32","shape":[1,1,3],"data":[1,2,3]}`), "", "inputs[0].shape"},
		"huge product":       {hidden, in(`{"name":"hidden_states","datatype":"FP32","shape":[4611686018427387904,8,2],"data":[1,2]}`), "", "at most 131072 elements"},
		"long batch":         {hidden, in(`{"name":"hidden_states","datatype":"FP32","shape":[33,1,2],"data":[` + strings.Repeat("1,", 65) + `1]}`), "", "a batch of 1 to 32"},
		"zero":               {hidden, in(`{"name":"hidden_states","datatype":"FP32","shape":[0,1,2],"data":[]}`), "", "inputs[0].shape"},
		"NaN":                {hidden, in(`{"name":"hidden_states","datatype":"FP32","shape":[1,1,2],"parameters":{"binary_data_size":8}}`) + "\x00\x00\x80\x3f\x00\x00\xc0\x7f", "108", "inputs[0][1]: expected a finite number, got NaN"},
		"beyond float32":     {hidden, in(`{"name":"hidden_states","datatype":"FP32","shape":[1,1,2],"data":[1,1e39]}`), "", "inputs[0].data[1]: expected a number that float32 can hold"},
		"dense layer":        {hidden, `{"parameters":{"layer":1},"inputs":[{"name":"hidden_states","datatype":"FP32","shape":[1,1,2],"data":[1,2]}]}`, "", "a layer with experts"},
		"layer of floats":    {hidden, `{"parameters":{"layer":0.5},"inputs":[]}`, "", "parameters.layer"},
		"generate on hidden": {"/v2/models/fake-hidden/generate", `{"text_input":"a"}`, "", "use infer"},
		"generate unknown":   {"/v2/models/fake/generate", `{"text_input":"a","colour":1}`, "", "colour"},
		"generate nothing":   {"/v2/models/fake/generate", `{}`, "", "text_input"},
		"stream unknown":     {"/v2/models/fake/generate_stream", `{"text_input":"a","top_p":7}`, "", "top_p"},
	} {
		t.Run(name, func(t *testing.T) {
			headers := []string{}
			if c.length == "96" || c.length == "108" {
				c.length = strconv.Itoa(strings.LastIndex(c.body, "}") + 1)
			}
			if c.length != "" {
				headers = []string{headerLength, c.length}
			}
			a := r.in(t).post(c.path, c.body, headers...)
			if message, _ := a.json(t)["error"].(string); a.status != http.StatusBadRequest || !strings.Contains(message, c.want) || a.json(t)["code"] == "" {
				t.Errorf("%d %s, want 400 about %q", a.status, a.body, c.want)
			}
		})
	}
	if a := r.post("/v2/models/none/infer", `{}`); a.status != 404 || a.json(t)["code"] != "model_not_found" {
		t.Errorf("another model: %d %s", a.status, a.body)
	}
	if a := r.post(text, `{}`, "Content-Type", "text/plain"); a.status != 415 || a.json(t)["error"] == nil {
		t.Errorf("another type: %d %s", a.status, a.body)
	}
	if e.slots.Load() != 0 {
		t.Errorf("%d slots are taken", e.slots.Load())
	}
}

// The parameter timeout ends a request, and a client that goes frees its slot.
func TestInferEnds(t *testing.T) {
	e := &fakeEngine{script: hangs(1)}
	r := serve(t, fakeService(e), nil)
	const text = `{"inputs":[{"name":"text_input","datatype":"BYTES","shape":[1],"data":["abc"]}],"parameters":{"max_tokens":50`
	if a := r.post("/v2/models/fake/infer", text+`,"timeout":50000}}`); a.status != http.StatusGatewayTimeout || a.json(t)["code"] != "deadline_exceeded" {
		t.Errorf("timeout: %d %s", a.status, a.body)
	}
	events := r.sse("/v2/models/fake/generate_stream", `{"text_input":"abc","timeout":50000}`)
	if last := events[len(events)-1]; !strings.Contains(last, `"error":"the request's time is up"`) {
		t.Errorf("timeout in a stream: %s", last)
	}
	for path, body := range map[string]string{"/v2/models/fake/infer": text + "}}", "/v2/models/fake/generate_stream": `{"text_input":"abc"}`} {
		c := dial(t, r.Addr(), path, body)
		eventually(t, 5*time.Second, "the request runs", func() bool { return e.slots.Load() == 1 })
		c.Close()
		eventually(t, 2*time.Second, "the slot is free", func() bool { return e.slots.Load() == 0 })
	}
	broken := serve(t, fakeService(&fakeEngine{script: fails(2, fmt.Errorf("secret"))}), nil)
	events = broken.sse("/v2/models/fake/generate_stream", `{"text_input":"abc"}`)
	if last := events[len(events)-1]; !strings.Contains(last, `"code":"internal_error"`) || strings.Contains(last, "secret") {
		t.Errorf("an error in a stream: %s", last)
	}
	nan := serve(t, fakeService(&fakeEngine{hidden: func(x tensor.Matrix) (tensor.Matrix, error) {
		y := tensor.NewMatrix(x.Rows, x.Cols)
		y.Row(0)[0] = float32(math.Inf(1))
		return y, nil
	}}), nil)
	a := nan.post("/v2/models/fake-hidden/infer", `{"inputs":[{"name":"hidden_states","datatype":"FP32","shape":[1,1,2],"data":[1,2]}]}`)
	if a.status != http.StatusBadGateway || a.json(t)["code"] != "invalid_expert_output" {
		t.Errorf("an output that is not finite: %d %s", a.status, a.body)
	}
}
