package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Tokens that are given are computed in chunks and give the answer that choosing them gives, with its log-probabilities:
// from an empty cache, from one that has all of them, with a short buffer, and where the text ends among them.
func TestGivenTokens(t *testing.T) {
	f := newFake(64, 4)
	p := prompt("given", 10)
	ids := oracle(p, 40)
	for _, test := range []struct {
		name     string
		logprobs int
		buffer   int
		stop     string
		steps    int64 // at most; 40 and more without chunks
	}{
		{"plain", -1, 64, "", 12},
		{"log-probabilities", 3, 64, "", 13},
		{"short buffer", 3, 4, "", 30},
		{"short buffer, no log-probabilities", -1, 4, "", 30},
		{"stop", 2, 64, spell(ids)[20:23], 12},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := testSetup(f)
			s.buffer = test.buffer
			e := launchTest(t, f, s)
			r := plain("", p, 40)
			r.Logprobs = test.logprobs
			if test.stop != "" {
				r.Stop = []string{test.stop}
			}
			want := ask(t, e, r)
			r.Forced = ids[:32]
			for _, reuse := range []bool{false, true, true} {
				r.NoReuse = !reuse
				before := f.calls.Load()
				got := ask(t, e, r)
				if n := f.calls.Load() - before; n > test.steps {
					t.Errorf("reuse %v: %d steps, want at most %d", reuse, n, test.steps)
				}
				if diff := cmp.Diff([]any{want.tokens, want.text, want.finish}, []any{got.tokens, got.text, got.finish}); diff != "" {
					t.Errorf("reuse %v: %s", reuse, diff)
				}
			}
		})
	}
}

// A given end of text ends the answer, and what is given behind it is not said.
func TestGivenEnd(t *testing.T) {
	f := newFake(64, 4)
	s := testSetup(f)
	s.eos = []int32{7}
	e := launchTest(t, f, s)
	r := plain("", prompt("end", 10), 40)
	r.IgnoreEOS, r.Forced = false, []int32{1, 2, 3, 7, 4, 5}
	if a := ask(t, e, r); a.err != nil || len(a.ids) != 3 || a.finish != FinishStop || a.usage.CompletionTokens != 3 {
		t.Errorf("%+v", a)
	}
}

// Requests with given tokens lose none when they are preempted among others.
func TestGivenPreempted(t *testing.T) {
	f := newFake(24, 4)
	g := hold(f)
	e := launchTest(t, f, testSetup(f))
	var streams []Stream
	for i := range 8 {
		p := prompt(string(rune('a'+i)), 5)
		r := plain("", p, 60)
		r.Forced = oracle(p, 60)[:20+5*i]
		r.Logprobs = i%2 - 1
		st, err := e.Submit(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, st)
	}
	g.open()
	for i, st := range streams {
		wantAnswer(t, read(t.Context(), st), prompt(string(rune('a'+i)), 5), 60)
	}
	if e.Stats().Preemptions == 0 {
		t.Error("nobody was preempted")
	}
}

// An observer of routes alone goes with given tokens whose log-probabilities are asked for.
func TestGivenObserved(t *testing.T) {
	f := newFake(64, 4)
	p := prompt("given", 10)
	ids := oracle(p, 20)
	r := plain("", p, 20)
	r.Logprobs = 0
	want := ask(t, launchTest(t, f, testSetup(f)), r)
	seen := 0
	r.Forced, r.Observe = ids, &Observer{Route: func(int, int, []int32, []float32) { seen++ }}
	got := ask(t, launchTest(t, f, testSetup(f)), r)
	if diff := cmp.Diff(want.tokens, got.tokens); diff != "" || got.err != nil {
		t.Errorf("%v: %s", got.err, diff)
	}
	if rows := len(p) + len(ids) - 1; seen < rows {
		t.Errorf("%d routes for %d rows", seen, rows)
	}
}
