package acceptance

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/server/instance"
)

// swapRounds is how often each group is swapped there and back; PIMOE_SWAPS says how often in the long run.
func swapRounds() int { return rounds("PIMOE_SWAPS", 2) }

// TestSwap changes every group from cpu to int8 and back under load. No request is dropped, and each has the text of one
// state of all groups from its first token to its last: a request that began before a change ends as it began.
func TestSwap(t *testing.T) {
	i := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	requests := stories(i, 4)
	groups := i.Host.Groups()
	// The texts that are right: with the first n groups on int8, for all n.
	right := make([]map[string]bool, len(requests))
	note := func() {
		for n, r := range requests {
			if right[n] == nil {
				right[n] = map[string]bool{}
			}
			a := run(ctx, i, r)
			if a.err != nil {
				t.Fatal(a.err)
			}
			right[n][a.text] = true
		}
	}
	swap := func(name, backend string) *host.Swapped {
		done, err := i.Swap(ctx, name, instance.Change{Backend: backend})
		if err != nil {
			t.Fatalf("swap %s to %s: %v", name, backend, err)
		}
		return done
	}
	names := make([]string, 0, len(groups))
	for _, s := range i.Host.Status() {
		names = append(names, s.Group)
	}
	note()
	for _, name := range names {
		swap(name, "int8")
		note()
	}
	for n := len(names) - 1; n >= 0; n-- {
		if done := swap(names[n], "cpu"); done.Difference.Same || done.Difference.Relative == 0 {
			t.Errorf("int8 and cpu give the same bits: %+v", done)
		}
	}
	if done := swap(names[0], "cpu"); !done.Difference.Same { // the same program once more
		t.Errorf("cpu to cpu: %+v", done)
	}

	var asked atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for n, r := range requests {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a := run(ctx, i, r)
				asked.Add(1)
				if a.err != nil || !right[n][a.text] {
					t.Errorf("request %d: error %v, text %q is none of the %d right ones", n, a.err, a.text, len(right[n]))
					return
				}
			}
		})
	}
	began, swaps := time.Now(), 0
	for range swapRounds() {
		for _, name := range names {
			swap(name, "int8")
		}
		for n := len(names) - 1; n >= 0; n-- {
			swap(names[n], "cpu")
		}
		swaps += 2 * len(names)
	}
	close(stop)
	load.Wait()
	t.Logf("measured: %d swaps in %v under %d requests", swaps, time.Since(began), asked.Load())
	if asked.Load() < int64(swaps) {
		t.Errorf("%d requests during %d swaps: that was no load", asked.Load(), swaps)
	}
	if got := i.Host.Status(); len(got) != len(names) {
		t.Errorf("%d processes are listed at the end, want %d: %+v", len(got), len(names), got)
	}
}

// TestBadVersion: a new version that can't serve or lies changes nothing, whether it is swapped in or tried.
func TestBadVersion(t *testing.T) {
	dir := t.TempDir()
	nasty := build(t, dir, "nasty", "nasty")
	i := open(t, func(c *config.Config) { c.Plugins.Dev = true })
	want := run(t.Context(), i, greedy(story(i, "a fox and a lamp"), 40))
	if want.err != nil {
		t.Fatal(want.err)
	}
	before := i.Host.Status()[1]
	for _, mode := range []string{"exits-at-once", "refuses-load", "dies-in-load", "answers-nan", "zeros"} {
		path := filepath.Join(dir, "nasty-"+mode)
		if err := os.Link(nasty, path); err != nil {
			t.Fatal(err)
		}
		change := instance.Change{Plugin: path}
		began := time.Now()
		if done, err := i.Swap(t.Context(), before.Group, change); err == nil || strings.Contains(err.Error(), "catalogue") {
			t.Errorf("%s was swapped in: %+v, %v", mode, done, err)
		}
		for _, kind := range []string{"canary", "shadow"} {
			if trial, err := i.Try(t.Context(), before.Group, kind, 0.5, 0, change); err == nil {
				t.Errorf("%s became a %s: %+v", mode, kind, trial)
			}
		}
		t.Logf("measured: %s is refused three times in %v", mode, time.Since(began))
		a := run(t.Context(), i, greedy(story(i, "a fox and a lamp"), 40))
		if a.err != nil || a.text != want.text {
			t.Errorf("%s: text %q, want %q (error %v)", mode, a.text, want.text, a.err)
		}
	}
	if after := i.Host.Status()[1]; after.PID != before.PID || len(i.Host.Status()) != 8 {
		t.Errorf("the process is another one: %+v, before %+v", after, before)
	}
}

// TestTrial: a canary computes some of the requests, whole, and is promoted; a shadow repeats calls; a version that lies
// later is rolled back by itself.
func TestTrial(t *testing.T) {
	i := open(t)
	ask := func() string { // the text and every bit of the probabilities
		r := greedy(story(i, "a bear who lost a hat"), 40)
		r.Logprobs = 0
		a := run(t.Context(), i, r)
		if a.err != nil {
			t.Fatal(a.err)
		}
		bits := a.text
		for _, tok := range a.tokens {
			bits += fmt.Sprintf(" %x", math.Float32bits(tok.Logprob))
		}
		return bits
	}
	old := ask()
	if _, err := i.Try(t.Context(), "e1", "shadow", 1, 0, instance.Change{Backend: "int8"}); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != old {
		t.Errorf("a shadow changes the text: %q, want %q", got, old)
	}
	wait(t, "the shadow's comparisons", func() bool { return i.Trial().Checked > 20 })
	if d := i.Trial().Live; d.Same || d.Relative == 0 || d.Relative > 0.2 || d.Cosine < 0.99 {
		t.Errorf("shadow of another class: %+v", d)
	}
	if _, err := i.Rollback(t.Context(), "e1"); err != nil {
		t.Fatal(err)
	}
	if n := len(i.Host.Status()); n != 8 {
		t.Errorf("%d processes after the roll-back", n)
	}

	if _, err := i.Try(t.Context(), "e1", "canary", 0.5, 0, instance.Change{Backend: "int8"}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	wait(t, "both versions' texts", func() bool { seen[ask()]++; return len(seen) == 2 })
	if seen[old] == 0 || i.Trial().Calls == 0 {
		t.Errorf("texts %v, trial %+v", seen, i.Trial())
	}
	if _, err := i.Promote(t.Context(), "e1"); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got == old || seen[got] == 0 {
		t.Errorf("after the promotion: %q is not the canary's text", got)
	}
	if n := len(i.Host.Status()); n != 8 {
		t.Errorf("%d processes after the promotion", n)
	}
}

// TestTrialRollsBack: a canary that answers well at first and wrongly then costs no request its answer.
func TestTrialRollsBack(t *testing.T) {
	dir := t.TempDir()
	nasty := build(t, dir, "nasty", "nasty")
	for _, mode := range []string{"zeros", "nan-later"} {
		if err := os.Link(nasty, filepath.Join(dir, "nasty-"+mode)); err != nil {
			t.Fatal(err)
		}
	}
	i := open(t, func(c *config.Config) {
		c.Plugins.Dev = true
		c.Experts.Overrides = []config.Override{{Layers: "all", Experts: []any{1}, Plugin: filepath.Join(dir, "nasty-zeros")}}
	})
	request := greedy(story(i, "a fox and a lamp"), 40)
	want := run(t.Context(), i, request)
	if want.err != nil {
		t.Fatal(want.err)
	}
	began := time.Now()
	if _, err := i.Try(t.Context(), "e1", "canary", 1, 0, instance.Change{Plugin: filepath.Join(dir, "nasty-nan-later")}); err != nil {
		t.Fatal(err)
	}
	wait(t, "the roll-back", func() bool {
		a := run(t.Context(), i, request)
		if a.err != nil || a.text != want.text {
			t.Fatalf("error %v, text %q, want %q", a.err, a.text, want.text)
		}
		return i.Trial().State == "rolled back"
	})
	t.Logf("measured: rolled back %v after its start: %s", time.Since(began), i.Trial().Why)
	wait(t, "the end of its process", func() bool { return len(i.Host.Status()) == 8 })
}

// wait asks again and again until something holds.
func wait(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}
