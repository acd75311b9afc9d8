package engine_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/grammar"
	"github.com/pimoe/pimoe/core/sampler"
)

// embedded is the model that a clone has.
const embedded = "../weights/embedded/pimoe-tiny"

// compile makes a form for the parts' vocabulary.
func (p parts) compile(t testing.TB, f grammar.Form) *grammar.Grammar {
	t.Helper()
	v := must(grammar.NewVocabulary(p.text.Size(), func(id int32) []byte { b, _ := p.text.Writes(id); return b }, p.cfg.EOS, nil))(t)
	return must(grammar.Compile(f, v))(t)
}

const animals = `{"type":"array","minItems":%d,"items":{"type":"object","properties":{"name":{"type":"string","maxLength":20},
	"legs":{"type":"integer","minimum":0,"maximum":120},"kind":{"enum":["fox","hen","bear"]}},"required":["name","legs","kind"],"additionalProperties":false}}`

// Answers have their form and are complete within their tokens, with every way of sampling, beside answers without one;
// the same request has the same answer.
func TestForm(t *testing.T) {
	p := load(t, filepath.FromSlash(embedded))
	e := p.open(t, nil)
	defer e.Close()
	g := p.compile(t, grammar.JSON(fmt.Appendf(nil, animals, 1)))
	base := engine.Request{Prompt: p.text.Encode("Once upon a time", true), Logprobs: -1}
	var wg sync.WaitGroup
	for name, s := range map[string]sampler.Params{
		"greedy": {}, "all": {Temperature: 1, Seed: 1, Seeded: true}, "hot": {Temperature: 2, Seed: 2, Seeded: true},
		"nucleus": {Temperature: 1, TopP: 0.9, TopK: 20, MinP: 0.05, Seed: 3, Seeded: true},
		"biased":  {Temperature: 1, FrequencyPenalty: 2, RepetitionPenalty: 1.5, LogitBias: map[int32]float32{5: 100, 900: -100}, Seed: 4, Seeded: true},
	} {
		for _, most := range []int{g.Least(), g.Least() + 1, 40, 100} {
			wg.Go(func() {
				r := base
				r.Sampling, r.MaxTokens, r.Form = s, most, g.Matcher()
				a := answer(t, e, r)
				var list []struct{ Name, Kind string }
				if err := json.Unmarshal([]byte(a.text), &list); err != nil || len(list) == 0 || a.finish != engine.FinishStop || len(a.ids) > most {
					t.Errorf("%s, %d tokens: %q: %v, %s", name, most, a.text, err, a.finish)
				}
				r.Form = g.Matcher()
				if b := answer(t, e, r); b.text != a.text {
					t.Errorf("%s, %d tokens: %q, then %q", name, most, a.text, b.text)
				}
			})
		}
		wg.Go(func() {
			r := base
			r.Sampling, r.MaxTokens = s, 30
			answer(t, e, r)
		})
	}
	wg.Wait()

	r := base
	r.MaxTokens, r.Form, r.Stop = 100, g.Matcher(), []string{`"legs"`}
	if a := answer(t, e, r); a.finish != engine.FinishStop || strings.Contains(a.text, "legs") || !strings.HasPrefix(a.text, "[{") {
		t.Errorf("a stop string within a form: %q, %s", a.text, a.finish)
	}
	r.Stop, r.Form, r.IgnoreEOS = nil, g.Matcher(), true
	if _, err := e.Submit(t.Context(), r); err == nil {
		t.Error("a form without the end of the text was taken")
	}
}

// A text that may go on ends when its tokens are used up, and that is no cut.
func TestFormAtTheLimit(t *testing.T) {
	p := load(t, filepath.FromSlash(embedded))
	e := p.open(t, nil)
	defer e.Close()
	g := p.compile(t, grammar.Regex(`[0-9]+`))
	a := answer(t, e, engine.Request{Prompt: p.text.Encode("1 2 3", true), MaxTokens: 6, Logprobs: -1, Form: g.Matcher(), Sampling: sampler.Params{Temperature: 1, Seeded: true, LogitBias: map[int32]float32{2: -100, 0: -100}}})
	if a.finish != engine.FinishStop || len(a.ids) != 6 || strings.Trim(a.text, "0123456789") != "" {
		t.Errorf("%q, %s", a.text, a.finish)
	}
}

// BenchmarkForm is what a form costs at batch 8: rounds with and without take turns, and the median of the rounds' ratios
// is the share of tokens/s that is lost.
func BenchmarkForm(b *testing.B) {
	for name, schema := range map[string]string{ // no answer is shorter than what is read
		"objects": fmt.Sprintf(animals, 40), "text": `{"type":"string","minLength":600}`,
	} {
		b.Run(name, func(b *testing.B) { benchmarkForm(b, schema) })
	}
}

func benchmarkForm(b *testing.B, schema string) {
	const batch, tokens = 8, 128
	p := load(b, filepath.FromSlash(embedded))
	e := p.open(b, nil)
	defer e.Close()
	g := p.compile(b, grammar.JSON([]byte(schema)))
	round := func(form bool, n int) time.Duration {
		began := time.Now()
		var wg sync.WaitGroup
		for i := range batch {
			wg.Go(func() {
				r := engine.Request{
					Prompt: p.text.Encode(fmt.Sprintf("Once upon a time %d", i), true), Logprobs: -1,
					Sampling: sampler.Params{Temperature: 1, Seeded: true, Seed: uint64(n*batch + i)},
				}
				if form {
					r.Form = g.Matcher()
				} else {
					r.IgnoreEOS = true
				}
				s, err := e.Submit(b.Context(), r)
				if err != nil {
					b.Error(err)
					return
				}
				defer s.Close()
				for range tokens {
					if _, err := s.Next(b.Context()); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		return time.Since(began)
	}
	for n := range 3 { // fills the caches of masks
		round(true, n)
	}
	var free, formed, lost []float64
	for n := 0; b.Loop(); n++ {
		f, w := round(false, n), round(true, n)
		free, formed = append(free, batch*tokens/f.Seconds()), append(formed, batch*tokens/w.Seconds())
		lost = append(lost, 100*(1-f.Seconds()/w.Seconds()))
	}
	median := func(x []float64) float64 { slices.Sort(x); return x[len(x)/2] }
	b.ReportMetric(median(free), "free-tok/s")
	b.ReportMetric(median(formed), "form-tok/s")
	b.ReportMetric(median(lost), "lost-%")
}
