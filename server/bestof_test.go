package server

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// best_of answers with the most probable of as many continuations as n would give, and counts all of them.
func TestBestOf(t *testing.T) {
	r := serve(t, nil, nil)
	body := `{"model":"pimoe-tiny","prompt":["Once upon a time","The dog"],"max_tokens":8,"seed":5,"temperature":1.5`
	all := r.ok("/v1/completions", body+`,"n":4,"logprobs":0}`)
	var want []any
	for p := range 2 {
		type scored struct {
			text any
			mean float64
		}
		var list []scored
		for i := range 4 {
			probs := at(t, all, "choices", p*4+i, "logprobs", "token_logprobs").([]any)
			sum := 0.0
			for _, x := range probs {
				sum += x.(float64)
			}
			list = append(list, scored{at(t, all, "choices", p*4+i, "text"), sum / float64(len(probs))})
		}
		slices.SortStableFunc(list, func(a, b scored) int {
			if a.mean > b.mean {
				return -1
			}
			return 1
		})
		want = append(want, list[0].text, list[1].text)
	}
	best := r.ok("/v1/completions", body+`,"n":2,"best_of":4}`)
	var got []any
	for i, c := range at(t, best, "choices").([]any) {
		if at(t, c, "index") != float64(i) || at(t, c, "logprobs") != nil {
			t.Errorf("choice %d: %v", i, c)
		}
		got = append(got, at(t, c, "text"))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the best two of four: %s", d)
	}
	if a, b := at(t, all, "usage", "completion_tokens"), at(t, best, "usage", "completion_tokens"); a != b {
		t.Errorf("%v tokens are counted, want %v: all that were made", b, a)
	}
}
