package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/clients"
	"github.com/pimoe/pimoe/server/replay"
)

// changesOf are what a report says has changed.
func changesOf(r replay.Report) []string {
	var out []string
	for _, c := range r.Changes {
		out = append(out, c.What)
	}
	return out
}

// replayed runs a file again and returns the report, whatever it says.
func replayed(t *testing.T, args ...string) replay.Report {
	t.Helper()
	res := pimoe(t, append([]string{"replay", "-o", "json"}, args...)...)
	var r replay.Report
	if err := json.Unmarshal([]byte(res.out), &r); err != nil {
		t.Fatalf("%v: %+v", err, res)
	}
	if (res.code == exitOK) != r.Same {
		t.Errorf("exit code %d for %s", res.code, res.out)
	}
	return r
}

// A record runs again to the same tokens with the same processes, and says what is different with others.
func TestReplay(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "fox.json")
	text := pimoe(t, "generate", "--record", file, "--temperature", "1.3", "-n", "24", "Tell me a story about a fox.").ok(t).out
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the record: %v %v", info, err)
	}
	if again := pimoe(t, "replay", file).ok(t).out; again != "the same 24 tokens\n" && !strings.HasPrefix(again, "the same ") {
		t.Errorf("again: %q", again)
	}
	if r := replayed(t, file); !r.Same || len(r.Changes) > 0 {
		t.Errorf("the same processes: %+v", r)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	was, err := replay.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(was.Runs[0].Tokens); n < 4 || len(was.Processes) < 2 || was.Processes[0].Program == "" || was.Runs[0].Tokens[0].Layers == nil || text == "" {
		t.Errorf("record of %d tokens, processes %+v", n, was.Processes)
	}

	if r := replayed(t, "--isolation", "inproc", file); !r.Same || !slices.Equal(changesOf(r), []string{"plugin"}) {
		t.Errorf("in this process: %+v", r)
	}
	if r := replayed(t, "--backend", "int8", file); !slices.Equal(changesOf(r), []string{"precision", "backend", "plugin"}) || r.Changes[0].Now != "int8g32" {
		t.Errorf("another precision: %+v", r)
	}
	r := replayed(t, "--router", "hash", file)
	if r.Same || !slices.Equal(changesOf(r), []string{"router"}) || len(r.Runs) != 1 || r.Runs[0].Was == nil || r.Runs[0].Now == nil || r.Runs[0].Was.ID == r.Runs[0].Now.ID {
		t.Errorf("another router: %+v", r)
	}
	if res := pimoe(t, "replay", "--router", "hash", file); res.code != exitFailure || !strings.Contains(res.out, "changed: router: was model, now hash\ndiffers: run 0: token ") {
		t.Errorf("another router, as text: %+v", res)
	}

	edited := write(t, "edited.json", bytes.Replace(b, []byte(`"temperature": 1.3`), []byte(`"temperature": 1.2`), 1))
	for name, c := range map[string]struct {
		file, says string
		code       int
	}{
		"edited": {edited, "changed after it was written", exitUsage}, "no record": {write(t, "x.json", []byte(`{"id":"cmpl-1"}`)), "unknown field", exitUsage},
		"no JSON": {write(t, "x.txt", []byte("hello")), "not JSON", exitUsage}, "no file": {filepath.Join(dir, "nothing"), "no such file", exitNotFound},
	} {
		if res := pimoe(t, "replay", c.file); res.code != c.code || !strings.Contains(res.err, c.says) || res.out != "" {
			t.Errorf("%s: %+v", name, res)
		}
	}
	none := *was
	none.Runs = slices.Clone(was.Runs)
	none.Runs[0].Sampling.Seed = nil
	if err := none.Seal(); err != nil {
		t.Fatal(err)
	}
	if res := pimoe(t, "replay", "--isolation", "inproc", write(t, "none.json", none)); res.code != exitUsage || !strings.Contains(res.err, "runs[0].sampling.seed") {
		t.Errorf("without a seed: %+v", res)
	}
}

// What a client has saved of an answer runs again, here and on the server that gave it.
func TestReplayOfAnAnswer(t *testing.T) {
	cfg := config.Default()
	cfg.Home, cfg.Plugins.Dir, cfg.Log.Level = store(t), coretest.Binaries(t), "error"
	a := &app{in: strings.NewReader(""), out: io.Discard, err: io.Discard}
	o := clients.Options{Model: "fox"}
	stop, err := a.serveBench(t.Context(), cfg, &o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	base := strings.TrimSuffix(o.URL, "/v1/completions")
	ask := func(path, body string) string {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+o.Key)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v: %s %s", err, resp.Status, b)
		}
		return write(t, "answer.json", b)
	}
	defer http.DefaultClient.CloseIdleConnections()
	const messages = `{"model":"fox","messages":[{"role":"user","content":"Tell me a story."}],"max_tokens":40,"pimoe":{"trace":true}`
	schema := `,"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"object","properties":{"legs":{"type":"integer","maximum":8,"minimum":0}},"required":["legs"]}}}`
	for name, file := range map[string]string{
		"chat":       ask("/v1/chat/completions", messages+`,"temperature":1.2,"seed":-3,"n":2,"frequency_penalty":0.5,"logit_bias":{"7":2},"stop":["zzz"]}`),
		"form":       ask("/v1/chat/completions", messages+schema+"}"),
		"completion": ask("/v1/completions", `{"model":"fox","prompt":["Once","The dog"],"temperature":0,"max_tokens":9,"pimoe":{"trace":true}}`),
	} {
		if r := replayed(t, file); !r.Same || len(r.Changes) > 0 {
			t.Errorf("%s here: %+v", name, r)
		}
		res := pimoeIn(t, "", []string{"PIMOE_API_KEY=" + o.Key}, "replay", "--url", base, file)
		if res.code != exitOK || !strings.HasPrefix(res.out, "the same ") {
			t.Errorf("%s there: %+v", name, res)
		}
	}
	calls := ask("/v1/chat/completions", messages+`,"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"required"}`)
	if res := pimoeIn(t, "", []string{"PIMOE_API_KEY=" + o.Key}, "replay", "--url", base, calls); res.code != exitUsage || !strings.Contains(res.err, "runs[0].form.kind") {
		t.Errorf("calls of tools: %+v", res)
	}
	if res := pimoeIn(t, "", []string{"PIMOE_API_KEY=" + o.Key + "x"}, "replay", "--url", base, calls); res.code != exitUsage || !strings.Contains(res.err, "401") {
		t.Errorf("a wrong key: %+v", res)
	}
	if res := pimoe(t, "replay", "--url", "http://127.0.0.1:1", calls); res.code != exitUnavailable {
		t.Errorf("no server: %+v", res)
	}
}
