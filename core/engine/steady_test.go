//go:build !race

// Thousands of tokens take too long under the race detector, which makes garbage of its own.

package engine_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/engine"
)

// Decoding with the embedded model makes no garbage in the steady state, from the plan of a step through trunk and
// experts to the sampled token. The streams are read afterwards: turning ids into text is the reader's part.
func TestNoGarbageInModel(t *testing.T) {
	const requests, tokens, first, steps = 8, 600, 300, 200
	p, g := load(t, coretest.PimoeTiny(t)), readGolden(t)
	e := p.open(t, func(o *engine.Options) { o.Buffer = 2 * tokens; o.Cache.Pages = 1024 })
	defer e.Close()
	for i := range requests {
		r := engine.Request{ID: fmt.Sprint(i), Prompt: g.Prompts[i%len(g.Prompts)].InputIDs, MaxTokens: tokens, IgnoreEOS: true, Logprobs: -1}
		s, err := e.Submit(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
	}
	at := func(tokens uint64) (stats runtime.MemStats, steps uint64) {
		for end := time.Now().Add(time.Minute); e.Stats().CompletionTokens < tokens; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d tokens did not come in a minute", tokens)
			}
		}
		runtime.ReadMemStats(&stats)
		return stats, e.Stats().Steps
	}
	before, from := at(requests * first)
	after, to := at(requests * (first + steps))
	if got := after.Mallocs - before.Mallocs; got > (to-from)/2 { // streams that nobody reads grow, and so does scratch memory when an expert gets more rows than ever
		t.Errorf("%d allocations of %d bytes in %d steps", got, after.TotalAlloc-before.TotalAlloc, to-from)
	}
}
