package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/sdk"
)

// keep writes entries as a run does, through a pen and Keep, and returns the file.
func keep(t *testing.T, entries ...Entry) string {
	t.Helper()
	var b bytes.Buffer
	pen := NewPen(&b)
	for _, e := range entries {
		pen.Write(e)
	}
	path := filepath.Join(t.TempDir(), "ledger")
	if n, err := Keep(path, &b); err != nil || n != len(entries) || pen.Err() != nil {
		t.Fatal(n, err, pen.Err())
	}
	return path
}

func oracle(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "oracle")
	text := `{"question":0,"answer":{"text":"zero"}}` + "\n" + `{"question":1,"answer":{"text":"one"}}` + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func entry(event Event, id string, question int, rest ...string) Entry {
	e := Entry{Event: event, ID: id, Question: question, Era: 5}
	if event == Answered {
		e.Answer = json.RawMessage(rest[0])
	} else if len(rest) > 0 {
		e.Why = rest[0]
	}
	return e
}

// TestJudge: every outcome is told from every other one.
func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		rest []Entry
		want Verdict
		says string
	}{
		"right":       {[]Entry{entry(Accepted, "a", 1), entry(Answered, "a", 1, `{ "text": "one" }`)}, Verdict{Requests: 1, Answered: 1}, ""},
		"wrong":       {[]Entry{entry(Answered, "a", 1, `{"text":"onf"}`)}, Verdict{Requests: 1, Answered: 1, Wrong: 1}, "onf"},
		"another's":   {[]Entry{entry(Answered, "a", 0, `{"text":"zero"}`)}, Verdict{Requests: 1, Answered: 1, Wrong: 1}, "zero"},
		"refused":     {[]Entry{entry(Refused, "a", 1, "too busy")}, Verdict{Requests: 1, Failed: 1}, "too busy"},
		"broken":      {[]Entry{entry(Accepted, "a", 1), entry(Broken, "a", 1, "reset")}, Verdict{Requests: 1, Lost: 1}, "reset"},
		"never ended": {[]Entry{entry(Accepted, "a", 1)}, Verdict{Requests: 1, Lost: 1}, "ledger ends"},
		"answered twice": {[]Entry{entry(Answered, "a", 1, `{"text":"one"}`), entry(Answered, "a", 1, `{"text":"one"}`)},
			Verdict{Requests: 1, Answered: 1, Wrong: 1}, "second outcome"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Judge(keep(t, append([]Entry{entry(Asked, "a", 1)}, c.rest...)...), oracle(t))
			if err != nil {
				t.Fatal(err)
			}
			if got.Requests != c.want.Requests || got.Answered != c.want.Answered || got.Failed != c.want.Failed || got.Wrong != c.want.Wrong || got.Lost != c.want.Lost {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if c.says == "" && (got.Examples != nil || got.Eras != nil) || !strings.Contains(strings.Join(got.Examples, "\n"), c.says) {
				t.Errorf("examples %q, want %q", got.Examples, c.says)
			}
			if c.says != "" && !slices.Equal(got.Eras, []uint64{5}) {
				t.Errorf("eras %v", got.Eras)
			}
		})
	}
}

// TestJudgeRefuses: a ledger that can't be is no verdict.
func TestJudgeRefuses(t *testing.T) {
	for name, entries := range map[string][]Entry{
		"asked twice":         {entry(Asked, "a", 1), entry(Asked, "a", 1)},
		"never asked":         {entry(Refused, "a", 1, "no")},
		"unknown question":    {entry(Asked, "a", 9), entry(Answered, "a", 9, `{}`)},
		"an unknown event":    {entry(Asked, "a", 1), entry("forgotten", "a", 1)},
		"asked after its end": {entry(Asked, "a", 1), entry(Refused, "a", 1, "no"), entry(Asked, "a", 1)},
	} {
		if v, err := Judge(keep(t, entries...), oracle(t)); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	if _, err := Judge(keep(t), oracle(t)); err == nil {
		t.Error("an empty ledger is judged")
	}
}

// TestKeepKeeps: what came before the end of a sender that died is there, and no second run writes to the same file.
func TestKeepKeeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	n, err := Keep(path, strings.NewReader(`{"event":"asked","id":"a"}`+"\n"+`{"event":"asked","i`))
	if n != 1 || err == nil {
		t.Errorf("%d entries, %v", n, err)
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != `{"event":"asked","id":"a"}`+"\n" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := Keep(path, strings.NewReader("")); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second run: %v", err)
	}
}
