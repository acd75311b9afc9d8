package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/server/recorder"
	"github.com/pimoe/pimoe/server/replay"
)

// recordOf is the record in an answer.
func recordOf(t *testing.T, body []byte) *replay.Record {
	t.Helper()
	r, err := replay.Parse(body)
	if err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return r
}

// routesOf asks the engine itself for the routes of given tokens.
func routesOf(t *testing.T, ids []int32) map[[2]int]map[int32]float32 {
	t.Helper()
	routes := map[[2]int]map[int32]float32{}
	s, err := openShared(t).Engine.Submit(t.Context(), engine.Request{
		Prompt: ids, MaxTokens: engine.PromptOnly, Logprobs: -1,
		Observe: &engine.Observer{Route: func(layer, position int, ids []int32, weights []float32) {
			m := map[int32]float32{}
			for i, id := range ids {
				m[id] = weights[i]
			}
			routes[[2]int{layer, position}] = m
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for err == nil {
		_, err = s.Next(t.Context())
	}
	if err != io.EOF {
		t.Fatal(err)
	}
	return routes
}

// checkRun holds a traced run against routes that were observed on another way, over the same tokens given as a prompt.
func checkRun(t *testing.T, r *replay.Record, run *replay.Run, prompt bool) {
	t.Helper()
	inst := openShared(t)
	ids := slices.Clone(run.Prompt)
	for _, tok := range run.Tokens {
		ids = append(ids, tok.ID)
	}
	want := routesOf(t, ids)
	check := func(what string, position int, layers []replay.Layer) {
		if len(layers) != len(inst.Model.SparseLayers()) {
			t.Fatalf("%s: %d layers, want %d", what, len(layers), len(inst.Model.SparseLayers()))
		}
		for i, l := range layers {
			if l.Layer != inst.Model.SparseLayers()[i] || l.Route < 0 || l.Combine < 0 {
				t.Errorf("%s: layer %+v", what, l)
			}
			got := map[int32]float32{}
			for _, e := range l.Experts {
				got[int32(e.Expert)] = e.Weight
				p := r.Processes[e.Process]
				if p.Group != fmt.Sprint("e", e.Expert) || p.PID == 0 || p.Backend != "cpu" || p.Class == "" || e.Call < 0 || e.Instead != nil {
					t.Errorf("%s layer %d: expert %+v was computed by %+v", what, l.Layer, e, p)
				}
			}
			if d := cmp.Diff(want[[2]int{l.Layer, position}], got); d != "" {
				t.Errorf("%s layer %d: %s", what, l.Layer, d)
			}
		}
	}
	for i, tok := range run.Tokens {
		if tok.Position != len(run.Prompt)+i || tok.Step <= 0 || tok.Queue < 0 || len(tok.Top) != recorder.Top || tok.Quality != nil {
			t.Errorf("token %d: %+v", i, tok)
		}
		check(fmt.Sprint("token ", i), tok.Position-1, tok.Layers)
	}
	if !prompt {
		if run.PromptTokens != nil {
			t.Error("the prompt is traced, too")
		}
		return
	}
	for i, tok := range run.PromptTokens {
		if tok.ID != run.Prompt[i] || tok.Position != i {
			t.Errorf("prompt token %d: %+v", i, tok)
		}
		check(fmt.Sprint("prompt token ", i), i, tok.Layers)
	}
}

// A traced answer is the untraced one, with the routes that the engine has for its tokens.
func TestTrace(t *testing.T) {
	r := serve(t, nil, nil)
	chat := `{"model":"pimoe-tiny","messages":[{"role":"user","content":"Tell me a story about a fox and a lamp."}],"max_tokens":6,"seed":4`
	for path, body := range map[string]string{
		"/v1/completions":      story + `,"seed":4,"n":2,"logprobs":1`,
		"/v1/chat/completions": chat + `,"logprobs":true`,
		responsesPath:          `{"model":"pimoe-tiny","input":"Tell me a story about a fox and a lamp.","max_output_tokens":6,"seed":4`,
	} {
		t.Run(path, func(t *testing.T) {
			r := r.in(t)
			plain := r.ok(path, body+"}")
			if _, ok := plain["pimoe"]; ok || strings.Contains(string(mustJSON(plain)), "experts") {
				t.Errorf("an answer that was not asked for a trace: %v", plain)
			}
			for _, prompt := range []bool{false, true} {
				a := r.post(path, fmt.Sprintf(`%s,"pimoe":{"trace":true,"prompt":%v}}`, body, prompt))
				rec := recordOf(t, a.body)
				for i := range rec.Runs {
					checkRun(t, rec, &rec.Runs[i], prompt)
				}
				if rec.Digest != openShared(t).Digest || rec.Router != "model" || rec.Class != "bf16w-f32" || *rec.Runs[0].Sampling.Seed != 4 {
					t.Errorf("record %+v", rec)
				}
				traced := a.json(t)
				delete(traced, "pimoe")
				same := cmpopts.IgnoreMapEntries(func(k string, _ any) bool {
					return slices.Contains([]string{"id", "created", "created_at", "usage"}, k)
				})
				if d := cmp.Diff(plain, traced, same); d != "" {
					t.Errorf("a trace changes the answer: %s", d)
				}
			}
		})
	}
}

// The events of a stream have the traces of their tokens, and the record at the end is a replay file.
func TestTraceOfAStream(t *testing.T) {
	r := serve(t, nil, nil)
	rec := recordOf(t, r.post("/v1/completions", story+`,"seed":4,"n":2,"pimoe":{"trace":true}}`).body)
	tokens := map[int][]replay.Token{}
	var processes []replay.Process
	var last *replay.Record
	for _, e := range r.sse("/v1/completions", story+`,"seed":4,"n":2,"stream":true,"stream_options":{"include_usage":true},"pimoe":{"trace":true}}`) {
		var v struct {
			Choices []struct{ Index int }
			Pimoe   json.RawMessage
		}
		if e == "[DONE]" {
			continue
		}
		if err := json.Unmarshal([]byte(e), &v); err != nil {
			t.Fatal(err)
		}
		if v.Pimoe == nil {
			continue
		}
		if len(v.Choices) == 0 {
			last = recordOf(t, []byte(e))
			continue
		}
		var p tracePiece
		if err := json.Unmarshal(v.Pimoe, &p); err != nil || p.Index != v.Choices[0].Index {
			t.Fatalf("%v: %s", err, e)
		}
		processes = append(processes, p.Processes...)
		tokens[p.Index] = append(tokens[p.Index], p.Tokens...)
	}
	if last == nil {
		t.Fatal("the stream has no record")
	}
	for i := range last.Runs {
		run := rec.Runs[i]
		run.Tokens = tokens[i]
		checkRun(t, &replay.Record{Processes: processes}, &run, false)
	}
	times := cmpopts.IgnoreFields(replay.Token{}, "Queue", "Step")
	if d := cmp.Diff(rec.WithoutLayers(), last, times, cmpopts.IgnoreFields(replay.Record{}, "Checksum", "Processes")); d != "" {
		t.Errorf("whole (-) and streamed (+) records differ: %s", d)
	}
}

// Requests that run at the same time have the traces that each has alone: nothing of a neighbour's.
func TestTracesOfABatchAreApart(t *testing.T) {
	r := serve(t, nil, nil)
	body := func(i int) string {
		return fmt.Sprintf(`{"model":"pimoe-tiny","prompt":"Story %d: once upon a time","max_tokens":5,"temperature":0,"pimoe":{"trace":true,"prompt":true}}`, i)
	}
	const n = 8
	var wg sync.WaitGroup
	got := make([]answer, n)
	for i := range n {
		wg.Go(func() { got[i] = r.post("/v1/completions", body(i)) })
	}
	wg.Wait()
	for i := range n {
		together, alone := recordOf(t, got[i].body), recordOf(t, r.post("/v1/completions", body(i)).body)
		times := cmp.Options{
			cmpopts.IgnoreFields(replay.Token{}, "Queue", "Step"), cmpopts.IgnoreFields(replay.Layer{}, "Route", "Combine"),
			cmpopts.IgnoreFields(replay.Expert{}, "Call", "Process"), cmpopts.IgnoreFields(replay.Record{}, "Checksum", "Processes"),
		}
		if d := cmp.Diff(alone, together, times); d != "" {
			t.Errorf("request %d alone (-) and in a batch (+): %s", i, d)
		}
		checkRun(t, together, &together.Runs[0], true)
	}
	if strings.Contains(r.log.String(), "experts") {
		t.Error("the log has experts of a request")
	}
}

// A request without a seed gets one with its trace, so that its draw can be had again.
func TestTraceDrawsASeed(t *testing.T) {
	r := serve(t, nil, nil)
	rec := recordOf(t, r.post("/v1/completions", story+`,"temperature":1.5,"pimoe":{"trace":true}}`).body)
	seed := rec.Runs[0].Sampling.Seed
	if seed == nil {
		t.Fatal("no seed in the record")
	}
	again := recordOf(t, r.post("/v1/completions", fmt.Sprintf(`%s,"temperature":1.5,"seed":%d,"pimoe":{"trace":true}}`, story, int64(*seed))).body)
	if rep := replay.Compare(rec, again); !rep.Same || len(rep.Changes) > 0 {
		t.Errorf("the same seed: %+v", rep)
	}
}

func TestTraceRefusals(t *testing.T) {
	r := serve(t, nil, nil)
	for extra, param := range map[string]string{
		`"pimoe":{"trace":1}`: "pimoe.trace", `"pimoe":{"colour":1}`: "pimoe.colour", `"pimoe":[]`: "pimoe", `"pimoe":{"prompt":true}`: "pimoe.prompt",
		`"pimoe":{"trace":true},"max_tokens":0,"echo":true`: "max_tokens",
	} {
		a := r.post("/v1/completions", begin+","+extra+"}")
		if a.status != 400 || at(t, a.json(t), "error", "param") != param {
			t.Errorf("%s: %d %s", extra, a.status, a.body)
		}
	}
}

// What a request without a trace costs is what it cost before: run with -bench to compare.
func BenchmarkTrace(b *testing.B) {
	inst := openShared(b)
	for name, traced := range map[string]bool{"off": false, "on": true} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				r := engine.Request{Prompt: []int32{1, 2, 3, 4}, MaxTokens: 64, Logprobs: -1, IgnoreEOS: true}
				if traced {
					recorder.New(false).Follow(&r, nil, true)
				}
				s, err := inst.Engine.Submit(context.Background(), r)
				for err == nil {
					_, err = s.Next(context.Background())
				}
				if err != io.EOF {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*64/b.Elapsed().Seconds(), "tok/s")
		})
	}
}
