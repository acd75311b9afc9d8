package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/pimoe/pimoe/core/config"
)

func TestConsole(t *testing.T) {
	var out bytes.Buffer
	log := New(&out, config.Log{Level: "info", Format: "auto"}, true, false)
	log.Debug("not shown")
	log.With("process", "e0").Info("from a plugin\n2026 [ERROR] forged", "text", "a\x1b[2Jb", "err", errors.New("x\ny"), "d", 3*time.Millisecond, "n", 5)
	got := out.String()
	if strings.Count(got, "\n") != 1 || strings.Contains(got, "\x1b") {
		t.Errorf("a value made a line or moved the cursor: %q", got)
	}
	for _, want := range []string{"[INFO]  pimoe: from a plugin\\n2026", "process=e0", `\x1b[2Jb`, `x\ny`, "d=3ms", "n=5"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}

func TestLevels(t *testing.T) {
	var out bytes.Buffer
	log := New(&out, config.Log{Level: "trace", Format: "json"}, true, false)
	for _, l := range []slog.Level{LevelTrace, slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		log.Log(context.Background(), l, "m")
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		got = append(got, m["@level"].(string))
	}
	if strings.Join(got, " ") != "trace debug info warn error" {
		t.Error(got)
	}
	if New(&out, config.Log{Level: "warn"}, true, false).Enabled(context.Background(), slog.LevelInfo) {
		t.Error("info is enabled at level warn")
	}
}

// TestHandler runs the standard library's suite on the JSON form.
func TestHandler(t *testing.T) {
	var out bytes.Buffer
	log := New(&out, config.Log{Level: "trace", Format: "auto"}, false, false)
	results := func() []map[string]any {
		var ms []map[string]any
		for line := range strings.Lines(out.String()) {
			flat := map[string]any{}
			if err := json.Unmarshal([]byte(line), &flat); err != nil {
				t.Fatal(err)
			}
			ms = append(ms, unflatten(flat))
		}
		return ms
	}
	err := slogtest.TestHandler(log.Handler(), results)
	for _, e := range unjoin(err) {
		if strings.Contains(e.Error(), `key "time"`) { // hclog stamps every line itself, also records without a time
			continue
		}
		t.Error(e)
	}
}

func unjoin(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return j.Unwrap()
	}
	if err != nil {
		return []error{err}
	}
	return nil
}

// unflatten turns hclog's names and dotted keys into slog's.
func unflatten(flat map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range flat {
		if name, ok := map[string]string{"@message": "msg", "@level": "level", "@timestamp": "time"}[k]; ok {
			k = name
		}
		m := out
		for {
			head, rest, nested := strings.Cut(k, ".")
			if !nested {
				break
			}
			if m[head] == nil {
				m[head] = map[string]any{}
			}
			m, k = m[head].(map[string]any), rest
		}
		m[k] = v
	}
	return out
}
