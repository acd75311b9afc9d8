package replay

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Report says how a second run of a record differs from the first.
type Report struct {
	Same    bool         `json:"same"`    // all tokens and ends are the same
	Changes []Change     `json:"changes"` // of what computed them, whether or not it shows
	Runs    []Difference `json:"runs"`    // one for each run with another outcome
}

// Change is something that was one thing and is another.
type Change struct {
	What string `json:"what"` // model, precision, backend, plugin, router, routing
	Was  string `json:"was"`
	Now  string `json:"now"`
}

func (c Change) String() string { return fmt.Sprintf("%s: was %s, now %s", c.What, c.Was, c.Now) }

// Difference is the first place at which a run differs.
type Difference struct {
	Run      int    `json:"run"`
	Token    int    `json:"token"` // number in the continuation, from 0
	Position int    `json:"position"`
	Was      *Token `json:"was"` // nil = the first run had ended
	Now      *Token `json:"now"` // nil = the second run had ended
	// GapWas is how far the token of the first run was ahead of that of the second in the first run's logits, GapNow the
	// same in the second run's: where it is negative the order has changed. nil = not recorded.
	GapWas    *float64 `json:"gap_was"`
	GapNow    *float64 `json:"gap_now"`
	FinishWas string   `json:"finish_reason_was"`
	FinishNow string   `json:"finish_reason_now"`
}

func (d Difference) String() string {
	if d.Was == nil && d.Now == nil {
		return fmt.Sprintf("run %d: finish reason: was %s, now %s", d.Run, d.FinishWas, d.FinishNow)
	}
	id := func(t *Token, finish string) string {
		if t == nil {
			return "the end (" + finish + ")"
		}
		return fmt.Sprintf("%d (log-probability %.4f)", t.ID, t.Logprob)
	}
	text := fmt.Sprintf("run %d: token %d at position %d: was %s, now %s", d.Run, d.Token, d.Position, id(d.Was, d.FinishWas), id(d.Now, d.FinishNow))
	if d.GapWas != nil {
		text += fmt.Sprintf("; gap of their logits then %+.4f", *d.GapWas)
	}
	if d.GapNow != nil {
		text += fmt.Sprintf("; now %+.4f", *d.GapNow)
	}
	return text
}

// Compare says how now differs from was, of which it is the second run.
func Compare(was, now *Record) Report {
	r := Report{Changes: []Change{}, Runs: []Difference{}}
	change := func(what, a, b string) {
		if a != b {
			r.Changes = append(r.Changes, Change{what, orNone(a), orNone(b)})
		}
	}
	change("model", was.Digest, now.Digest)
	change("precision", was.Class, now.Class)
	for _, of := range []struct {
		what string
		get  func(Process) string
	}{
		{"precision", func(p Process) string { return p.Class }}, {"backend", func(p Process) string { return p.Backend }},
		{"plugin", func(p Process) string { return p.Program }},
	} {
		if a, b := each(was, of.get), each(now, of.get); !slices.ContainsFunc(r.Changes, func(c Change) bool { return c.What == of.what }) {
			change(of.what, a, b)
		}
	}
	change("router", was.Router, now.Router)
	change("routing", was.Routing, now.Routing)
	for i := range was.Runs {
		if i >= len(now.Runs) {
			r.Runs = append(r.Runs, Difference{Run: i, FinishWas: was.Runs[i].Finish, FinishNow: "not run"})
			continue
		}
		if d := differ(&was.Runs[i], &now.Runs[i]); d != nil {
			d.Run = i
			r.Runs = append(r.Runs, *d)
		}
	}
	r.Same = len(r.Runs) == 0
	return r
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// each joins what the processes have of something, each once.
func each(r *Record, get func(Process) string) string {
	seen := map[string]bool{}
	for _, p := range r.Processes {
		if v := get(p); v != "" {
			seen[v] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), ",")
}

// differ is the first difference of two runs; nil if there is none.
func differ(was, now *Run) *Difference {
	d := &Difference{FinishWas: was.Finish, FinishNow: now.Finish}
	for i := range max(len(was.Tokens), len(now.Tokens)) {
		if i < len(was.Tokens) {
			d.Was = &was.Tokens[i]
		}
		if i < len(now.Tokens) {
			d.Now = &now.Tokens[i]
		}
		if d.Was != nil && d.Now != nil && d.Was.ID == d.Now.ID {
			d.Was, d.Now = nil, nil
			continue
		}
		d.Token, d.Position = i, len(was.Prompt)+i
		if d.Was != nil && d.Now != nil {
			d.GapWas, d.GapNow = gap(d.Was, d.Was.ID, d.Now.ID), gap(d.Now, d.Was.ID, d.Now.ID)
		}
		return d
	}
	if was.Finish != now.Finish {
		return d
	}
	return nil
}

// gap is how far logit a is ahead of logit b at a token; nil unless both are known. Log-probabilities differ as logits do.
func gap(t *Token, a, b int32) *float64 {
	of := func(id int32) (float64, bool) {
		if t.ID == id {
			return float64(t.Logprob), true
		}
		i := slices.IndexFunc(t.Top, func(x Alternative) bool { return x.ID == id })
		if i < 0 {
			return 0, false
		}
		return float64(t.Top[i].Logprob), true
	}
	x, okA := of(a)
	y, okB := of(b)
	if !okA || !okB {
		return nil
	}
	d := x - y
	return &d
}
