package sampler

import (
	"math"
	"slices"
)

// TopLogprob is one token with its log-probability.
type TopLogprob struct {
	ID      int32
	Logprob float32
}

// Argmax is the id of the largest logit, the lower of equals; None if one is NaN or +Inf, or all are -Inf.
func Argmax(logits []float32) int32 {
	best, top := None, float32(math.Inf(-1))
	for id, l := range logits {
		if l > top {
			best, top = int32(id), l
		}
		if l != l {
			return None
		}
	}
	if math.IsInf(float64(top), 1) {
		return None
	}
	return best
}

// LogSumExp is log(sum of e^logit) in float64.
func LogSumExp(logits []float32) float64 {
	top := math.Inf(-1)
	for _, l := range logits {
		top = max(top, float64(l))
	}
	if math.IsInf(top, 0) || math.IsNaN(top) {
		return top
	}
	sum := 0.0
	for _, l := range logits {
		sum += math.Exp(float64(l) - top)
	}
	return top + math.Log(sum)
}

// LogSoftmax is the log-probability of a token under softmax(logits), in float64; NaN for an id out of range.
func LogSoftmax(logits []float32, id int32) float64 {
	if id < 0 || int(id) >= len(logits) {
		return math.NaN()
	}
	return float64(logits[id]) - LogSumExp(logits)
}

// Logprob is LogSoftmax rounded to float32.
func Logprob(logits []float32, id int32) float32 { return float32(LogSoftmax(logits, id)) }

// TopLogprobs are the n most probable tokens, best first, the lower id among equals. It sorts no more than n.
func TopLogprobs(logits []float32, n int) []TopLogprob {
	n = min(n, len(logits))
	if n <= 0 {
		return nil
	}
	var s Sampler
	s.largest(logits, n)
	norm := LogSumExp(logits)
	top := make([]TopLogprob, len(s.kept))
	for i, c := range slices.Clip(s.kept) {
		top[i] = TopLogprob{ID: c.id, Logprob: float32(float64(c.logit) - norm)}
	}
	return top
}

// Logprobs is Logprob of an id and TopLogprobs in one go.
func (s *Sampler) Logprobs(logits []float32, id int32, n int) (float32, []TopLogprob) {
	return Logprob(logits, id), TopLogprobs(logits, n)
}
