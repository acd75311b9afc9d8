package recorder

import (
	"testing"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/moe"
)

// What a trace holds is bounded; a position that is computed again begins anew.
func TestTraceIsBounded(t *testing.T) {
	r := New(false)
	r.left = 5
	f := r.Follow(&engine.Request{Prompt: []int32{1, 2}, MaxTokens: 3}, nil, true)
	by := &moe.Answer{Group: "e0", PID: 1, Attempts: 2}
	hop := func(position, layer int) {
		f.hop(position, &moe.Hop{Layer: layer, Experts: []moe.Served{{Expert: 0, Other: 0, By: by}, {Expert: 1, Other: 2}}})
	}
	hop(1, 0)
	hop(1, 0) // again, after an outage
	if got := f.Take(engine.Token{ID: 7, HasToken: true}); len(got[0].Layers) != 1 || got[0].Layers[0].Experts[0].Attempts != 2 ||
		got[0].Layers[0].Experts[1].Process != -1 || *got[0].Layers[0].Experts[1].Instead != 2 {
		t.Errorf("token %+v", got)
	}
	hop(2, 0)
	if got := f.Take(engine.Token{ID: 7, HasToken: true, Finish: engine.FinishLength}); got[0].Layers != nil || !r.truncated || f.run.Finish != "length" {
		t.Errorf("beyond the bound: %+v, truncated %v", got, r.truncated)
	}
}
