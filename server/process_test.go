package server

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// hiddenStates are the same numbers on every run.
func hiddenStates(rows, cols int) tensor.Matrix {
	rng := rand.New(rand.NewPCG(1, 2))
	m := tensor.NewMatrix(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64())
	}
	return m
}

func nested(m tensor.Matrix, batch int) string {
	out := make([][][]float32, batch)
	for row := range m.Rows {
		b := row * batch / m.Rows
		out[b] = append(out[b], m.Row(row))
	}
	return string(mustJSON(out))
}

func bits(b []byte) []uint32 {
	out := make([]uint32, len(b)/4)
	for i := range out {
		out[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return out
}

// floats reads nested JSON numbers as float32 bits.
func floats(t *testing.T, v any) []uint32 {
	t.Helper()
	var out []uint32
	var walk func(any)
	walk = func(v any) {
		if list, ok := v.([]any); ok {
			for _, e := range list {
				walk(e)
			}
			return
		}
		out = append(out, math.Float32bits(float32(v.(float64))))
	}
	walk(v)
	return out
}

// All three forms of a tensor give the engine's own answer to the bit, in the form in which they came.
func TestProcessTensor(t *testing.T) {
	r := serve(t, nil, nil)
	inst := openShared(t)
	x := hiddenStates(6, inst.Model.Hidden)
	want, routes, _, err := inst.Engine.Hidden(context.Background(), 2, x, false, moe.AcceptExact)
	if err != nil {
		t.Fatal(err)
	}
	wantBits := bits(littleEndian(want))

	got := r.ok(processPath, `{"input_tensor":`+nested(x, 2)+`,"layer":2,"return_comprehensive_info":true,"request_id":"mine-7"}`)
	if d := cmp.Diff(wantBits, floats(t, got["output"])); d != "" {
		t.Errorf("nested: %s", d)
	}
	if got["request_id"] != "mine-7" || got["success"] != true || got["error"] != nil || got["processing_time"].(float64) <= 0 {
		t.Errorf("envelope %v", got["request_id"])
	}
	if d := cmp.Diff([]any{2.0, 3.0, float64(inst.Model.Hidden)}, got["shape"]); d != "" {
		t.Error(d)
	}
	listed := at(t, got, "comprehensive_info", "routes").([]any)
	if len(listed) != len(routes) || len(routes) != 6 {
		t.Fatalf("%d routes listed, %d made", len(listed), len(routes))
	}
	if at(t, listed[4], "batch") != 1.0 || at(t, listed[4], "position") != 1.0 || at(t, listed[4], "layer") != 2.0 || at(t, listed[4], "experts", 0) != float64(routes[4].IDs[0]) {
		t.Errorf("route of row 4: %v", listed[4])
	}

	data := base64.StdEncoding.EncodeToString(littleEndian(x))
	got = r.ok(processPath, fmt.Sprintf(`{"shape":[2,3,%d],"input_tensor":"%s","layer":2}`, x.Cols, data))
	b, err := base64.StdEncoding.DecodeString(got["output"].(string))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(wantBits, bits(b)); d != "" {
		t.Errorf("base64: %s", d)
	}
	if got["comprehensive_info"] != nil {
		t.Errorf("info that nobody asked for: %v", got["comprehensive_info"])
	}

	raw := r.post(processPath+"?layer=2", string(littleEndian(x)), "Content-Type", mimeBytes, "Accept", mimeBytes, "X-Tensor-Shape", fmt.Sprintf("2,3,%d", x.Cols))
	if raw.status != http.StatusOK || raw.header.Get("Content-Type") != mimeBytes || raw.header.Get("X-Tensor-Shape") != fmt.Sprintf("2,3,%d", x.Cols) || raw.header.Get("Pimoe-Status") != "exact" {
		t.Fatalf("binary: %d %v", raw.status, raw.header)
	}
	if d := cmp.Diff(wantBits, bits(raw.body)); d != "" {
		t.Errorf("binary: %s", d)
	}
	asJSON := r.post(fmt.Sprintf("%s?layer=2&shape=2,3,%d&request_id=q", processPath, x.Cols), string(littleEndian(x)), "Content-Type", mimeBytes).json(t)
	if asJSON["output"] != base64.StdEncoding.EncodeToString(littleEndian(want)) || asJSON["request_id"] != "q" {
		t.Error("binary in, JSON out: another output")
	}
}

func TestProcessLayersAndMask(t *testing.T) {
	r := serve(t, nil, nil)
	inst := openShared(t)
	x := hiddenStates(4, inst.Model.Hidden)
	run := func(extra string) []uint32 {
		return floats(t, r.ok(processPath, `{"input_tensor":`+nested(x, 1)+extra+`}`)["output"])
	}
	first := run("")
	if d := cmp.Diff(run(fmt.Sprintf(`,"layer":%d`, inst.Model.SparseLayers()[0])), first); d != "" {
		t.Error("the default is not the first MoE layer")
	}
	all, _, _, err := inst.Engine.Hidden(context.Background(), -1, x, true, moe.AcceptExact)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(bits(littleEndian(all)), run(`,"all_layers":true`)); d != "" {
		t.Errorf("all layers: %s", d)
	}
	masked, h := run(`,"attention_mask":[[1,0,1,0]]`), inst.Model.Hidden
	for row := range 4 {
		want := first[row*h : (row+1)*h]
		if row%2 == 1 {
			want = make([]uint32, h)
		}
		if d := cmp.Diff(want, masked[row*h:(row+1)*h]); d != "" {
			t.Errorf("masked row %d: %s", row, d)
		}
	}
	if d := cmp.Diff(make([]uint32, 4*h), run(`,"attention_mask":[[0,0,0,0]]`)); d != "" {
		t.Errorf("all masked: %s", d)
	}
}

func TestProcessRefuses(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{hidden: func(x tensor.Matrix) (tensor.Matrix, error) { return x, nil }}), nil)
	floatsOf := func(x ...float32) string {
		return base64.StdEncoding.EncodeToString(littleEndian(tensor.MatrixOf(1, len(x), x)))
	}
	nan := float32(math.NaN())
	for name, c := range map[string]struct{ body, field, expected, got string }{
		"ragged":         {`{"input_tensor":[[[1,2],[1]]]}`, "input_tensor[0][1]", "2 elements as in its neighbours", "1"},
		"other width":    {`{"input_tensor":[[[1,2,3]]]}`, "input_tensor", "2 numbers for each position: the model's hidden size", "3"},
		"flat":           {`{"input_tensor":[1,2]}`, "input_tensor[0]", "an array", "1"},
		"beyond float32": {`{"input_tensor":[[[1,2],[3,1e39]]]}`, "input_tensor[0][1][1]", "a number that float32 can hold", "1e39"},
		"null inside":    {`{"input_tensor":[[[1,null]]]}`, "input_tensor[0][0][1]", "a number", "null"},
		"text inside":    {`{"input_tensor":[[[1,"2"]]]}`, "input_tensor[0][0][1]", "a number", `"2"`},
		"empty":          {`{"input_tensor":[]}`, "input_tensor", "at least one element", "an empty array"},
		"no shape":       {`{"input_tensor":"` + floatsOf(1, 2) + `"}`, "shape", "[batch, sequence, hidden] of the base64 data", "nothing"},
		"shape differs":  {`{"input_tensor":[[[1,2]]],"shape":[1,2,2]}`, "shape", "[1 1 2]", "[1 2 2]"},
		"short data":     {`{"input_tensor":"` + floatsOf(1, 2) + `","shape":[1,2,2]}`, "input_tensor", "24 characters of base64 for this shape", "12"},
		"no base64":      {`{"input_tensor":"????????????","shape":[1,1,2]}`, "input_tensor", "standard base64 with padding", `"????????????"`},
		"nan in base64":  {`{"input_tensor":"` + floatsOf(1, 2, 3, nan) + `","shape":[2,1,2]}`, "input_tensor[1][0][1]", "a finite number", "NaN"},
		"infinity":       {`{"input_tensor":"` + floatsOf(float32(math.Inf(1)), 0) + `","shape":[1,1,2]}`, "input_tensor[0][0][0]", "a finite number", "+Inf"},
		"huge shape":     {`{"input_tensor":"AAAA","shape":[2147483647,2147483647,2]}`, "shape", "a batch of 1 to 32", "2147483647"},
		"long sequence":  {`{"input_tensor":"AAAA","shape":[1,100000,2]}`, "shape", "a sequence of 1 to 2048", "100000"},
		"zero batch":     {`{"input_tensor":"AAAA","shape":[0,1,2]}`, "shape[0]", "a whole number from 1 to 2147483647", "0"},
		"mask rows":      {`{"input_tensor":[[[1,2]]],"attention_mask":[[1],[1]]}`, "attention_mask", "1 rows as in input_tensor", "2"},
		"mask length":    {`{"input_tensor":[[[1,2]]],"attention_mask":[[1,1]]}`, "attention_mask[0]", "1 numbers as in input_tensor", "2"},
		"mask value":     {`{"input_tensor":[[[1,2]]],"attention_mask":[[2]]}`, "attention_mask[0][0]", "a whole number from 0 to 1", "2"},
		"dense layer":    {`{"input_tensor":[[[1,2]]],"layer":1}`, "layer", "a layer with experts: one of [0 2]", "1"},
		"request id":     {`{"input_tensor":[[[1,2]]],"request_id":"a b"}`, "request_id", "1 to 128 letters, digits and . _ : / -", `"a b"`},
	} {
		t.Run(name, func(t *testing.T) {
			a := r.in(t).post(processPath, c.body)
			if a.status != http.StatusUnprocessableEntity {
				t.Fatalf("%d %s", a.status, a.body)
			}
			got := at(t, a.json(t), "errors", 0)
			if d := cmp.Diff(map[string]any{"field": c.field, "expected": c.expected, "got": c.got}, got); d != "" {
				t.Error(d)
			}
		})
	}
	for query, field := range map[string]string{
		"": "shape", "shape=1,1": "shape", "shape=1,1,x": "shape", "shape=1,1,3": "shape", "shape=1,1,2&layer=x": "layer", "shape=1,1,2&layer=1": "layer",
		"shape=1,1,2&colour=red": "colour", "shape=1,1,2&layer=0&layer=2": "layer", "shape=1,2,2": "body", "shape=1,1,2&all_layers=perhaps": "all_layers",
	} {
		a := r.post(processPath+"?"+query, "\x00\x00\x80\x3f\x00\x00\x00\x40", "Content-Type", mimeBytes)
		if a.status != 422 || at(t, a.json(t), "errors", 0, "field") != field {
			t.Errorf("binary with %q: %d %s, want 422 about %s", query, a.status, a.body, field)
		}
	}
	a := r.post(processPath+"?shape=1,1,2", "\x00\x00\xc0\x7f\x00\x00\x00\x40", "Content-Type", mimeBytes)
	if a.status != 422 || at(t, a.json(t), "errors", 0, "field") != "body[0][0][0]" {
		t.Errorf("NaN in a binary body: %d %s", a.status, a.body)
	}
}

// An answer that is not finite never leaves the host.
func TestProcessChecksItsOutput(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{hidden: func(x tensor.Matrix) (tensor.Matrix, error) {
		y := tensor.NewMatrix(x.Rows, x.Cols)
		y.Row(x.Rows - 1)[1] = float32(math.Inf(-1))
		return y, nil
	}}), nil)
	a := r.post(processPath, `{"input_tensor":[[[1,2],[3,4]]]}`)
	if a.status != http.StatusBadGateway || a.json(t)["code"] != "invalid_expert_output" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestProcessText(t *testing.T) {
	r := serve(t, nil, nil)
	want := at(t, r.ok("/v1/completions", story+`,"temperature":0}`), "choices", 0, "text")
	got := r.ok(processPath, `{"text":"Once upon a time, a little","max_tokens":12,"temperature":0,"return_comprehensive_info":true}`)
	if got["output"] != want || got["success"] != true {
		t.Errorf("output %q, want %q", got["output"], want)
	}
	if at(t, got, "comprehensive_info", "finish_reason") != "length" || at(t, got, "comprehensive_info", "completion_tokens") != 12.0 {
		t.Errorf("info %v", got["comprehensive_info"])
	}
	chat := `"messages":[{"role":"user","content":"Tell me a story about a fox and a lamp."}],"temperature":0,"max_tokens":10`
	want = at(t, r.ok("/v1/chat/completions", `{"model":"pimoe-tiny",`+chat+`}`), "choices", 0, "message", "content")
	if got := r.ok(processPath, `{`+chat+`}`); got["output"] != want {
		t.Errorf("messages: %q, want %q", got["output"], want)
	}
	if a := r.post(processPath, `{"text":"`+strings.Repeat("fox ", 3000)+`"}`); a.status != 422 || a.json(t)["code"] != "context_length_exceeded" {
		t.Errorf("too long text: %d %s", a.status, a.body)
	}
}
