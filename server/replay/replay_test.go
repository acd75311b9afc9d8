package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/sdk"
)

// sample is a record with everything in it.
func sample(t testing.TB) *Record {
	t.Helper()
	seed, instead := uint64(1<<63+5), 3
	r := &Record{
		Model: "m", Digest: "sha256:aa", Class: "f32", Router: "model",
		Processes: []Process{{Group: "e0", PID: 7, Backend: "cpu", Class: "f32", Program: "sha256:bb", Version: "1"}},
		Runs: []Run{{
			Prompt: []int32{1, 2}, Sampling: Sampling{Temperature: 0.7, TopP: 0.9, Seed: &seed, LogitBias: map[int32]float32{5: 1.5}}, MaxTokens: 3, Stop: []string{"."},
			Form: &Form{Kind: "json_schema", Schema: json.RawMessage(`{"type":"object"}`)}, Finish: "length",
			Tokens: []Token{
				{Position: 2, ID: 9, Logprob: -0.25, Top: []Alternative{{9, -0.25}, {8, -1.5}}, Queue: 3, Step: 4, Layers: []Layer{{Layer: 0, Experts: []Expert{{Expert: 1, Weight: 0.5, Process: 0, Attempts: 2}, {Expert: 2, Process: -1, Instead: &instead}}}}},
				{Position: 3, ID: 4, Logprob: -1e-7, Quality: &Quality{Status: "degraded", Policy: "renormalise", Layers: 1, Dropped: 0.1}},
				{Position: 4, ID: 5},
			},
		}},
	}
	if err := r.Seal(); err != nil {
		t.Fatal(err)
	}
	return r
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A record is read back as it was, also out of an answer, formatted anew and by a reader without 64-bit integers.
func TestParse(t *testing.T) {
	r := sample(t)
	plain := encode(t, r)
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, plain, "", "\t"); err != nil {
		t.Fatal(err)
	}
	var loose any // as JavaScript reads it: numbers are float64
	if err := json.Unmarshal(plain, &loose); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"plain": plain, "indented": pretty.Bytes(), "reordered": encode(t, loose), "answer": encode(t, map[string]any{"id": "cmpl-1", "pimoe": r}),
	} {
		got, err := Parse(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := cmp.Diff(r, got, cmp.Comparer(func(a, b json.RawMessage) bool { return string(encode(t, a)) == string(encode(t, b)) })); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	without := r.WithoutLayers()
	if err := without.Seal(); err != nil {
		t.Fatal(err)
	}
	if got, err := Parse(encode(t, without)); err != nil || got.Runs[0].Tokens[0].Layers != nil || r.Runs[0].Tokens[0].Layers == nil {
		t.Errorf("without layers: %v", err)
	}
}

// What was changed by hand is refused, with the field where that can be known.
func TestParseRefuses(t *testing.T) {
	plain := string(encode(t, sample(t)))
	change := func(from, to string) string {
		if !strings.Contains(plain, from) {
			t.Fatalf("the record has no %s", from)
		}
		return strings.Replace(plain, from, to, 1)
	}
	for name, c := range map[string]struct{ file, says string }{
		"empty":             {"", "not JSON"},
		"cut":               {plain[:len(plain)/2], "not JSON"},
		"list":              {"[]", "not JSON"},
		"other object":      {`{"id":"cmpl-1"}`, "unknown field"},
		"nothing":           {`{}`, "format: missing"},
		"newer":             {change(Format, "pimoe-replay/2"), "format:"},
		"unknown field":     {change(`"router":`, `"colour":1,"router":`), `unknown field "colour"`},
		"an id":             {change(`"id":9`, `"id":10`), "checksum"},
		"a seed":            {change(`"seed":"9`, `"seed":"8`), "checksum"},
		"a digest":          {change("sha256:aa", "sha256:ab"), "checksum"},
		"no checksum":       {change("sha256:"+plain[strings.Index(plain, `"checksum":"sha256:`)+len(`"checksum":"sha256:`):len(plain)-2], ""), "checksum"},
		"no prompt":         {change(`"prompt":[1,2]`, `"prompt":[]`), "runs[0].prompt:"},
		"negative id":       {change(`"prompt":[1,2]`, `"prompt":[1,-2]`), "runs[0].prompt[1]:"},
		"large id":          {change(`"prompt":[1,2]`, `"prompt":[1,5000000000]`), "runs.prompt"},
		"temperature":       {change(`"temperature":0.7`, `"temperature":-1`), "runs[0].sampling.temperature:"},
		"tokens":            {change(`"max_tokens":3`, `"max_tokens":2`), "runs[0].tokens:"},
		"no tokens allowed": {change(`"max_tokens":3`, `"max_tokens":0`), "runs[0].max_tokens:"},
		"position":          {change(`"position":3`, `"position":7`), "runs[0].tokens[1].position:"},
		"process":           {change(`"process":0`, `"process":1`), "runs[0].tokens[0].layers:"},
		"stop":              {change(`"stop":["."]`, `"stop":[""]`), "runs[0].stop[0]:"},
		"type":              {change(`"max_tokens":3`, `"max_tokens":"3"`), "max_tokens"},
	} {
		_, err := Parse([]byte(c.file))
		if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want one about %s", name, err, c.says)
		}
	}
	if _, err := Read(bytes.NewReader(make([]byte, MaxFile+1))); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("too large: %v", err)
	}
}

func TestCompare(t *testing.T) {
	was := sample(t)
	if rep := Compare(was, sample(t)); !rep.Same || len(rep.Changes) != 0 {
		t.Errorf("the same: %+v", rep)
	}
	now := sample(t)
	now.Digest, now.Class, now.Router = "sha256:cc", "int8g32", "hash"
	now.Processes = []Process{{Group: "e0", Backend: "int8", Class: "int8g32", Program: "sha256:dd"}}
	now.Runs[0].Tokens[0] = Token{Position: 2, ID: 8, Logprob: -0.5, Top: []Alternative{{8, -0.5}, {9, -0.75}}}
	rep := Compare(was, now)
	var what []string
	for _, c := range rep.Changes {
		what = append(what, c.What)
	}
	if d := cmp.Diff([]string{"model", "precision", "backend", "plugin", "router"}, what); d != "" {
		t.Errorf("changes: %s", d)
	}
	if rep.Same || len(rep.Runs) != 1 {
		t.Fatalf("report %+v", rep)
	}
	diff := rep.Runs[0]
	if diff.Token != 0 || diff.Position != 2 || diff.Was.ID != 9 || diff.Now.ID != 8 || *diff.GapWas != 1.25 || *diff.GapNow != -0.25 {
		t.Errorf("difference %s", diff)
	}
	if s := diff.String(); !strings.Contains(s, "token 0 at position 2: was 9") || !strings.Contains(s, "+1.2500") || !strings.Contains(s, "-0.2500") {
		t.Errorf("text %q", s)
	}

	short := sample(t)
	short.Runs[0].Tokens = short.Runs[0].Tokens[:1]
	short.Runs[0].Finish = "stop"
	if d := Compare(was, short).Runs[0]; d.Token != 1 || d.Now != nil || d.Was.ID != 4 || d.GapWas != nil {
		t.Errorf("an earlier end: %s", d)
	}
	if d := Compare(short, was).Runs[0]; d.Token != 1 || d.Was != nil || !strings.Contains(d.String(), "the end (stop)") {
		t.Errorf("a later end: %s", d)
	}
	other := sample(t)
	other.Runs[0].Finish = "stop"
	if d := Compare(was, other).Runs[0]; d.Was != nil || d.Now != nil || !strings.Contains(d.String(), "was length, now stop") {
		t.Errorf("another reason: %s", d)
	}
	if rep := Compare(was, &Record{}); rep.Same {
		t.Error("a run that was not run counts as the same")
	}
}

// FuzzParse feeds files of strangers: whatever is taken has the values that its checksum was made of.
func FuzzParse(f *testing.F) {
	f.Add(encode(f, sample(f)))
	f.Add(encode(f, map[string]any{"pimoe": sample(f)}))
	f.Add([]byte(`{"format":"pimoe-replay/1","runs":[{"prompt":[1],"max_tokens":1,"tokens":null}],"checksum":""}`))
	f.Add([]byte(`{"pimoe":{"pimoe":null}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			if !errors.Is(err, sdk.ErrInvalid) {
				t.Errorf("%v is not of the class invalid", err)
			}
			return
		}
		again, err := Parse(encode(t, r))
		if err != nil {
			t.Fatalf("a record that was taken is refused: %v", err)
		}
		if rep := Compare(r, again); !rep.Same || len(rep.Changes) > 0 {
			t.Errorf("a record differs from itself: %+v", rep)
		}
	})
}
