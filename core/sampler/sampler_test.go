package sampler_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/core/sampler"
)

var inf = float32(math.Inf(1))

func next(p sampler.Params, prompt []int32, logits ...float32) int32 {
	p.Seeded = true
	return sampler.New(p, prompt).Next(logits)
}

func TestGreedy(t *testing.T) {
	for _, c := range []struct {
		logits []float32
		want   int32
	}{
		{[]float32{1, 3, 2}, 1}, {[]float32{2, 3, 3}, 1}, {[]float32{-5}, 0}, {[]float32{-inf, -7, -inf}, 1},
		{[]float32{0, 0, 0}, 0}, {nil, sampler.None}, {[]float32{-inf, -inf}, sampler.None},
		{[]float32{1, float32(math.NaN()), 2}, sampler.None}, {[]float32{1, inf}, sampler.None},
	} {
		if got := next(sampler.Params{}, nil, c.logits...); got != c.want {
			t.Errorf("%v: %d, want %d", c.logits, got, c.want)
		}
	}
	// The smallest temperature there is leaves the best alone without dividing by zero.
	for seed := range uint64(100) {
		if got := next(sampler.Params{Temperature: math.SmallestNonzeroFloat32, Seed: seed}, nil, 1, 2.5, 2.4999); got != 1 {
			t.Fatalf("coldest: %d, want 1", got)
		}
	}
}

// TestOneLeft: whatever the settings, a single possible token is chosen, and broken logits give None.
func TestOneLeft(t *testing.T) {
	for _, p := range []sampler.Params{
		{Temperature: 1}, {Temperature: 100}, {Temperature: 1, TopK: 2}, {Temperature: 1, TopP: 0.5}, {Temperature: 1, MinP: 0.1},
		{Temperature: 1, TopK: 3, TopP: 0.9, MinP: 0.1, FrequencyPenalty: 1, RepetitionPenalty: 1.2},
	} {
		for seed := range uint64(50) {
			p.Seed = seed
			if got := next(p, nil, -inf, -inf, -3, -inf); got != 2 {
				t.Errorf("%+v: %d, want 2", p, got)
			}
		}
		for _, bad := range [][]float32{{1, float32(math.NaN())}, {inf, 1}, {-inf, -inf}} {
			if got := next(p, nil, bad...); got != sampler.None {
				t.Errorf("%+v on %v: %d, want None", p, bad, got)
			}
		}
	}
}

// TestArgmaxCases: settings under which only the best token is left.
func TestArgmaxCases(t *testing.T) {
	for name, p := range map[string]sampler.Params{
		"tiny top_p": {Temperature: 1, TopP: 1e-9}, "top_k 1": {Temperature: 5, TopK: 1}, "min_p 1": {Temperature: 5, MinP: 1},
		"tiny top_p after top_k": {Temperature: 5, TopK: 3, TopP: 1e-9},
	} {
		for p.Seed = range uint64(200) {
			if got := next(p, nil, 1, 1.01, 0.99, 1); got != 1 {
				t.Fatalf("%s: %d, want 1", name, got)
			}
		}
	}
}

// chiSquare draws n tokens, one for each seed, and holds the counts to probabilities (0 = never).
func chiSquare(t *testing.T, name string, p sampler.Params, logits []float32, want []float64) {
	t.Helper()
	const n = 20000
	counts := make([]float64, len(logits))
	p.Seeded = true
	s := sampler.New(p, nil)
	for i := range n {
		if i%2 == 0 { // half along a continuation, half over seeds
			p.Seed = uint64(i)
			counts[sampler.New(p, nil).Next(logits)]++
		} else {
			counts[s.Next(logits)]++
		}
	}
	chi, freedom := 0.0, -1
	for i, w := range want {
		if w == 0 {
			if counts[i] > 0 {
				t.Errorf("%s: token %d was drawn %g times, want never", name, i, counts[i])
			}
			continue
		}
		chi += (counts[i] - w*n) * (counts[i] - w*n) / (w * n)
		freedom++
	}
	// Mean plus five standard deviations of the distribution: the seeds are fixed, so this never flickers.
	if limit := float64(freedom) + 5*math.Sqrt(2*float64(freedom)); freedom > 0 && chi > limit {
		t.Errorf("%s: chi square %.1f above %.1f: %v", name, chi, limit, counts)
	}
}

func normalised(w ...float64) []float64 {
	sum := 0.0
	for _, v := range w {
		sum += v
	}
	for i := range w {
		w[i] /= sum
	}
	return w
}

func TestDistribution(t *testing.T) {
	w := []float64{8, 1, 16, 2, 4} // out of 31
	logits := make([]float32, len(w))
	for i, v := range w {
		logits[i] = float32(math.Log(v))
	}
	for name, c := range map[string]struct {
		p    sampler.Params
		want []float64
	}{
		"plain":            {sampler.Params{Temperature: 1}, normalised(8, 1, 16, 2, 4)},
		"hot":              {sampler.Params{Temperature: 2}, normalised(math.Sqrt(8), 1, 4, math.Sqrt(2), 2)},
		"cold":             {sampler.Params{Temperature: 0.5}, normalised(64, 1, 256, 4, 16)},
		"top_k":            {sampler.Params{Temperature: 1, TopK: 3}, normalised(8, 0, 16, 0, 4)},
		"top_k of all":     {sampler.Params{Temperature: 1, TopK: 99}, normalised(8, 1, 16, 2, 4)},
		"top_p":            {sampler.Params{Temperature: 1, TopP: 0.8}, normalised(8, 0, 16, 0, 4)},  // 16+8 is 0.774
		"top_p just below": {sampler.Params{Temperature: 1, TopP: 0.77}, normalised(8, 0, 16, 0, 0)}, // enough
		"top_p 1":          {sampler.Params{Temperature: 1, TopP: 1}, normalised(8, 1, 16, 2, 4)},
		"top_p when hot":   {sampler.Params{Temperature: 2, TopP: 0.5}, normalised(math.Sqrt(8), 0, 4, 0, 0)},
		"top_k then top_p": {sampler.Params{Temperature: 1, TopK: 3, TopP: 0.8}, normalised(8, 0, 16, 0, 0)}, // 24/28 is 0.857
		"min_p":            {sampler.Params{Temperature: 1, MinP: 0.2}, normalised(8, 0, 16, 0, 4)},
		"min_p when hot":   {sampler.Params{Temperature: 2, MinP: 0.34}, normalised(math.Sqrt(8), 0, 4, math.Sqrt(2), 2)},
		"top_p then min_p": {sampler.Params{Temperature: 1, TopP: 0.95, MinP: 0.3}, normalised(8, 0, 16, 0, 0)},
		"bias":             {sampler.Params{Temperature: 1, LogitBias: map[int32]float32{1: float32(math.Log(8)), 2: -inf, 77: 5}}, normalised(8, 8, 0, 2, 4)},
	} {
		chiSquare(t, name, c.p, logits, c.want)
	}
}

// TestPenalties: the repetition penalty counts the prompt, the others only the continuation.
func TestPenalties(t *testing.T) {
	logits := []float32{2, 1.9, -1}
	for name, c := range map[string]struct {
		p      sampler.Params
		prompt []int32
		pushed []int32
		want   int32
	}{
		"none":                            {sampler.Params{}, []int32{0, 0}, []int32{0, 0}, 0},
		"repetition of the prompt":        {sampler.Params{RepetitionPenalty: 1.1}, []int32{0}, nil, 1},
		"repetition of the continuation":  {sampler.Params{RepetitionPenalty: 1.1}, nil, []int32{0}, 1},
		"repetition counts once":          {sampler.Params{RepetitionPenalty: 1.1}, []int32{0, 1, 1, 1}, []int32{0, 1, 1}, 0},
		"reward":                          {sampler.Params{RepetitionPenalty: 0.5}, []int32{1}, nil, 1},
		"presence ignores the prompt":     {sampler.Params{PresencePenalty: 1}, []int32{0}, nil, 0},
		"presence":                        {sampler.Params{PresencePenalty: 0.2}, nil, []int32{0}, 1},
		"presence counts once":            {sampler.Params{PresencePenalty: 0.2}, nil, []int32{0, 1, 1, 1, 1}, 0},
		"frequency ignores the prompt":    {sampler.Params{FrequencyPenalty: 1}, []int32{0, 0}, nil, 0},
		"frequency below the lead":        {sampler.Params{FrequencyPenalty: 0.06}, nil, []int32{0}, 0},
		"frequency counts":                {sampler.Params{FrequencyPenalty: 0.06}, nil, []int32{0, 0}, 1},
		"ids out of range do not matter":  {sampler.Params{RepetitionPenalty: 2, PresencePenalty: 1}, []int32{99, -1}, []int32{98}, 0},
		"bias":                            {sampler.Params{LogitBias: map[int32]float32{2: 3.1}}, nil, nil, 2},
		"a repeated negative logit falls": {sampler.Params{RepetitionPenalty: 4, LogitBias: map[int32]float32{0: -100, 1: -100, 2: 0}}, []int32{2}, nil, 2},
	} {
		s := sampler.New(c.p, c.prompt)
		for _, id := range c.pushed {
			s.Push(id)
		}
		if got := s.Next(slices.Clone(logits)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	// CTRL's rule divides positive and multiplies negative logits: -1 becomes -4, below -3.
	if got := next(sampler.Params{RepetitionPenalty: 4}, []int32{0}, -1, -3); got != 1 {
		t.Errorf("negative logit: %d, want 1", got)
	}
}

// TestOwnChoicesCount: Next counts what it returns.
func TestOwnChoicesCount(t *testing.T) {
	s := sampler.New(sampler.Params{PresencePenalty: 1}, nil)
	logits := []float32{2, 1.5, 1.2}
	var got []int32
	for range 4 {
		got = append(got, s.Next(logits))
	}
	if want := []int32{0, 1, 2, 0}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if !slices.Equal(logits, []float32{2, 1.5, 1.2}) {
		t.Errorf("the logits were changed: %v", logits)
	}
}

// TestSeeded: a seed gives the same choices, whoever else draws in between; other seeds and no seed give others.
func TestSeeded(t *testing.T) {
	logits := make([]float32, 1000)
	draw := func(s *sampler.Sampler) (ids []int32) {
		for range 20 {
			ids = append(ids, s.Next(logits))
		}
		return ids
	}
	p := sampler.Params{Temperature: 1, Seed: 42, Seeded: true}
	a, b, other := sampler.New(p, nil), sampler.New(p, []int32{1, 2}), sampler.New(p, nil)
	first := draw(a)
	for range 7 {
		other.Next(logits)
	}
	if second := draw(b); !slices.Equal(first, second) {
		t.Errorf("%v, then %v", first, second)
	}
	p.Seed = 43
	if slices.Equal(first, draw(sampler.New(p, nil))) {
		t.Error("seeds 42 and 43 give the same")
	}
	p.Seeded = false
	if slices.Equal(draw(sampler.New(p, nil)), draw(sampler.New(p, nil))) {
		t.Error("two samplers without a seed give the same")
	}
	p.Seeded = true
	p.Seed = 42
	forced := sampler.New(p, nil)
	for _, id := range first[:10] {
		forced.Push(id)
	}
	if rest := draw(forced); !slices.Equal(rest[:10], first[10:]) {
		t.Error("a pushed token is not a step")
	}
}

// TestFilterProperties: over random logits, what is drawn is always in the set that a slow and obvious filter leaves.
func TestFilterProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		logits := make([]float32, 1+rng.IntN(200))
		for i := range logits {
			if logits[i] = float32(rng.NormFloat64() * 6); rng.IntN(10) == 0 {
				logits[i] = -inf
			} else if rng.IntN(5) == 0 {
				logits[i] = float32(rng.IntN(4)) // ties
			}
		}
		logits[rng.IntN(len(logits))] = 1
		p := sampler.Params{
			Temperature: 0.1 + 3*rng.Float32(), TopK: rng.IntN(30), TopP: rng.Float32() * 1.1, MinP: rng.Float32() * 0.3,
			Seed: rng.Uint64(), Seeded: true,
		}
		allowed := slowFilter(p, logits)
		if id := sampler.New(p, nil).Next(logits); !slices.Contains(allowed, id) {
			t.Fatalf("%+v drew %d, allowed are %v of %v", p, id, allowed, logits)
		}
	}
}

// slowFilter sorts everything and cuts. It leaves one more than top-p's boundary where rounding could decide.
func slowFilter(p sampler.Params, logits []float32) []int32 {
	ids := make([]int32, len(logits))
	for i := range ids {
		ids[i] = int32(i)
	}
	slices.SortStableFunc(ids, func(a, b int32) int {
		switch {
		case logits[a] > logits[b]:
			return -1
		case logits[a] < logits[b]:
			return 1
		}
		return 0
	})
	if p.TopK > 0 && p.TopK < len(ids) {
		ids = ids[:p.TopK]
	}
	weight := func(id int32) float64 {
		return math.Exp((float64(logits[id]) - float64(logits[ids[0]])) / float64(p.Temperature))
	}
	total := 0.0
	for _, id := range ids {
		total += weight(id)
	}
	if p.TopP > 0 && p.TopP < 1 {
		sum := 0.0
		for i, id := range ids {
			if sum += weight(id); sum >= float64(p.TopP)*total*(1+1e-12) {
				ids = ids[:i+1]
				break
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id int32) bool {
		return logits[id] == -inf || weight(id) < float64(p.MinP)*(1-1e-12)
	})
}

func TestLogprobs(t *testing.T) {
	logits := []float32{1000, 1001, 999, 1001, -inf}
	norm := math.Log(1 + 2*math.E + math.Exp(-1))
	for id, want := range []float64{-norm, 1 - norm, -1 - norm, 1 - norm, math.Inf(-1)} {
		if got := sampler.LogSoftmax(logits, int32(id)); got != want && math.Abs(got-want) > 1e-12 {
			t.Errorf("log-probability of %d is %.15g, want %.15g", id, got, want)
		}
	}
	if got := sampler.LogSoftmax(logits, 5); got == got {
		t.Errorf("an id out of range has log-probability %g", got)
	}
	var ids []int32
	for i, top := range sampler.TopLogprobs(logits, 3) {
		ids = append(ids, top.ID)
		if want := sampler.Logprob(logits, top.ID); top.Logprob != want {
			t.Errorf("alternative %d: %g, want %g", i, top.Logprob, want)
		}
	}
	if !slices.Equal(ids, []int32{1, 3, 0}) {
		t.Errorf("best are %v", ids)
	}
	if got := sampler.TopLogprobs(logits, 99); len(got) != 5 || got[4].ID != 4 {
		t.Errorf("all: %v", got)
	}
	if got := sampler.TopLogprobs(logits, 0); got != nil {
		t.Errorf("none: %v", got)
	}
	sum := 0.0
	rng := rand.New(rand.NewPCG(1, 1))
	many := make([]float32, 5000)
	for i := range many {
		many[i] = float32(rng.NormFloat64() * 10)
	}
	for i := range many {
		sum += math.Exp(sampler.LogSoftmax(many, int32(i)))
	}
	if math.Abs(sum-1) > 1e-9 {
		t.Errorf("probabilities sum to %.12f", sum)
	}
}

func BenchmarkNext(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	logits := make([]float32, 151936)
	for i := range logits {
		logits[i] = float32(rng.NormFloat64() * 3)
	}
	for name, p := range map[string]sampler.Params{
		"greedy": {}, "plain": {Temperature: 1}, "top_p": {Temperature: 1, TopP: 0.9},
		"qwen": {Temperature: 0.6, TopK: 20, TopP: 0.95},
	} {
		b.Run(name, func(b *testing.B) {
			s := sampler.New(p, nil)
			b.ReportAllocs()
			for b.Loop() {
				s.Next(logits)
			}
		})
	}
}

// TestMask: only what the mask allows is drawn, with the probabilities that it has among those, after bias and before
// every cut; a mask of nothing leaves nothing.
func TestMask(t *testing.T) {
	logits := make([]float32, 200)
	logits[3], logits[130], logits[199] = 9, 1, 1+float32(math.Log(3))
	mask := []uint64{0, 1 << 5, 1 << 2, 1 << 7} // 69, 130, 199
	counts := map[int32]int{}
	p := sampler.Params{Temperature: 1, TopK: 2, Seeded: true}
	for p.Seed = range uint64(4000) {
		counts[sampler.New(p, nil).NextOf(logits, mask)]++
	}
	if len(counts) != 2 || counts[130] < 900 || counts[130] > 1100 {
		t.Errorf("drawn %v, want 130 and 199 as 1 to 3", counts)
	}
	if got := sampler.New(sampler.Params{LogitBias: map[int32]float32{69: 50}}, nil).NextOf(logits, mask); got != 69 {
		t.Errorf("%d, want 69: the bias comes before the choice", got)
	}
	if got := sampler.New(sampler.Params{}, nil).NextOf(logits, mask[:3]); got != 130 {
		t.Errorf("%d, want 130: a short mask allows nothing behind its end", got)
	}
	if got := sampler.New(p, nil).NextOf(logits, make([]uint64, 4)); got != sampler.None {
		t.Errorf("%d out of nothing", got)
	}
	if logits[3] != 9 {
		t.Error("the logits were changed")
	}
}
