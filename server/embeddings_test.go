package server

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	modelrouter "github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/server/instance"
)

// embed returns the vectors of an answer, and the tokens it counts.
func embed(r *running, body string) ([][]float32, int) {
	r.t.Helper()
	a := r.post(embeddingsPath, body)
	var v struct {
		Data []struct {
			Index     int
			Embedding []float32
		}
		Usage struct {
			Prompt int `json:"prompt_tokens"`
		}
	}
	if err := json.Unmarshal(a.body, &v); err != nil || a.status != 200 {
		r.t.Fatalf("%s: %d %s", body, a.status, a.body)
	}
	var out [][]float32
	for i, d := range v.Data {
		if d.Index != i {
			r.t.Errorf("index %d at %d", d.Index, i)
		}
		out = append(out, d.Embedding)
	}
	return out, v.Usage.Prompt
}

// The embedding of golden ids is the mean of what transformers has after the last norm, scaled to length 1.
func TestEmbeddingsEqualReference(t *testing.T) {
	for _, model := range []string{"qwen3_moe", "granitemoe", "llama"} {
		t.Run(model, func(t *testing.T) {
			dir := coretest.Golden(t, "models", model)
			cfg := testConfig(t.TempDir())
			cfg.Model = dir
			inst, err := instance.Open(t.Context(), instance.Options{Config: cfg, Log: slog.New(slog.DiscardHandler), Builtin: instance.Builtin{
				Expert: func(string) (expert.Expert, error) { return ffn.New(cpu.New(), ffn.Options{}), nil },
				Router: func(string) (router.Router, error) { return modelrouter.New(), nil },
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := inst.Close(); err != nil {
					t.Error(err)
				}
			}()
			svc := serviceOf(inst)
			r := serveConfig(t, &svc, cfg, nil)
			defer r.stop()
			want, ids := goldenMean(t, dir)
			got, tokens := embed(r, fmt.Sprintf(`{"model":%q,"input":%s}`, inst.ID, mustJSON(ids)))
			if tokens != len(ids) || len(got[0]) != len(want) {
				t.Fatalf("%d tokens and %d dimensions, want %d and %d", tokens, len(got[0]), len(ids), len(want))
			}
			dot := 0.0
			for i, v := range got[0] {
				dot += float64(v) * want[i]
				if math.Abs(float64(v)-want[i]) > 1e-4 {
					t.Errorf("dimension %d: %g, want %g", i, v, want[i])
				}
			}
			if dot < 0.999999 {
				t.Errorf("cosine %g", dot)
			}
		})
	}
}

// goldenMean is computed from the reference's own numbers, in float64.
func goldenMean(t *testing.T, dir string) ([]float64, []int32) {
	t.Helper()
	f, err := weights.Open(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	norm, ok1 := f.Tensor("seq7.final_norm")
	ids, ok2 := f.Tensor("seq7.input_ids")
	if !ok1 || !ok2 {
		t.Fatal("golden tensors are missing")
	}
	n, width := norm.Shape[0], norm.Shape[1]
	sum := make([]float64, width)
	for i := range n * width {
		sum[i%width] += float64(math.Float32frombits(binary.LittleEndian.Uint32(norm.Data[4*i:])))
	}
	length := 0.0
	for _, v := range sum {
		length += v * v
	}
	for i := range sum {
		sum[i] /= math.Sqrt(length)
	}
	var out []int32
	for i := range n {
		out = append(out, int32(binary.LittleEndian.Uint32(ids.Data[4*i:])))
	}
	return sum, out
}

// An input has the same bits alone, in a batch, as ids, in base64, and beside other work.
func TestEmbeddingsOfABatch(t *testing.T) {
	r := serve(t, nil, nil)
	texts := []string{"Once upon a time", "The dog", strings.Repeat("A long story about a fox. ", 40)}
	for i := range 40 {
		texts = append(texts, fmt.Sprintf("Text number %d.", i))
	}
	all, tokens := embed(r, `{"model":"pimoe-tiny","input":`+string(mustJSON(texts))+`}`)
	if len(all) != len(texts) {
		t.Fatalf("%d vectors, want %d", len(all), len(texts))
	}
	tok := openShared(t).Tokenizer
	count := 0
	for i, text := range texts {
		ids := tok.Encode(text, true)
		count += len(ids)
		length := 0.0
		for _, v := range all[i] {
			length += float64(v) * float64(v)
		}
		if math.Abs(length-1) > 1e-5 || len(all[i]) != openShared(t).Model.Hidden {
			t.Errorf("%q: length %g, %d dimensions", text, length, len(all[i]))
		}
		if i > 4 {
			continue
		}
		for _, input := range []string{quote(text), string(mustJSON(ids))} {
			if alone, _ := embed(r, `{"model":"pimoe-tiny","input":`+input+`}`); !cmp.Equal(alone[0], all[i]) {
				t.Errorf("%.40s alone differs from the batch", input)
			}
		}
		a := r.ok(embeddingsPath, `{"model":"pimoe-tiny","input":`+quote(text)+`,"encoding_format":"base64"}`)
		b, err := base64.StdEncoding.DecodeString(at(t, a, "data", 0, "embedding").(string))
		if err != nil {
			t.Fatal(err)
		}
		for j, v := range all[i] {
			if math.Float32frombits(binary.LittleEndian.Uint32(b[4*j:])) != v {
				t.Fatalf("base64 differs at %d", j)
			}
		}
	}
	if tokens != count {
		t.Errorf("%d tokens, want %d", tokens, count)
	}
	cut, _ := embed(r, `{"model":"pimoe-tiny","input":"Once upon a time","dimensions":8}`)
	scale := float64(cut[0][0]) / float64(all[0][0])
	length := 0.0
	for j, v := range cut[0] {
		length += float64(v) * float64(v)
		if math.Abs(float64(v)-scale*float64(all[0][j])) > 1e-6 {
			t.Errorf("dimension %d of 8: %g is not in proportion", j, v)
		}
	}
	if len(cut[0]) != 8 || math.Abs(length-1) > 1e-5 {
		t.Errorf("8 dimensions: %v", cut[0])
	}
}

func TestEmbeddingsRefusals(t *testing.T) {
	r := serve(t, nil, nil)
	for body, want := range map[string][2]string{
		`{"model":"pimoe-tiny"}`: {"input", "missing_required_parameter"}, `{"model":"pimoe-tiny","input":""}`: {"input", "invalid_value"},
		`{"model":"pimoe-tiny","input":["a",""]}`: {"input[1]", "invalid_value"}, `{"model":"pimoe-tiny","input":[]}`: {"input", "invalid_value"},
		`{"model":"pimoe-tiny","input":[[1],[99999999]]}`: {"input[1]", "invalid_value"}, `{"model":"pimoe-tiny","input":"a","dimensions":0}`: {"dimensions", "invalid_value"},
		`{"model":"pimoe-tiny","input":"a","dimensions":100000}`: {"dimensions", "invalid_value"}, `{"model":"pimoe-tiny","input":"a","encoding_format":"hex"}`: {"encoding_format", "invalid_value"},
		`{"model":"nope","input":"a"}`: {"model", "model_not_found"}, `{"model":"pimoe-tiny","input":` + quote(strings.Repeat("fox ", 4000)) + `}`: {"input", "context_length_exceeded"},
		`{"model":"pimoe-tiny","input":"a","n":1}`: {"n", "unknown_parameter"}, `{"model":"pimoe-tiny","input":[` + strings.Repeat(`"a",`, 2048) + `"a"]}`: {"input", "invalid_value"},
	} {
		a := r.post(embeddingsPath, body)
		if a.status < 400 || a.status > 404 || at(t, a.json(t), "error", "param") != want[0] || at(t, a.json(t), "error", "code") != want[1] {
			t.Errorf("%.80s: %d %s, want %v", body, a.status, a.body, want)
		}
	}
}
