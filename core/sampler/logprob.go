package sampler

import "math"

// TopLogprob is one token with its log-probability.
type TopLogprob struct {
	ID      int32
	Logprob float32
}

// Argmax is the id of the largest logit, the lower of equals; None if one is NaN or +Inf, or all are -Inf.
func Argmax(logits []float32) int32 {
	best, top := None, float32(math.Inf(-1))
	for at := 0; at < len(logits); {
		at += below(logits[at:], top)
		if at == len(logits) {
			break
		}
		if top = logits[at]; top != top {
			return None
		}
		best = int32(at)
		at++
	}
	if math.IsInf(float64(top), 1) {
		return None
	}
	return best
}

// below is how many of the first logits are at most top. One comparison finds larger ones and NaN; eight in a row are
// three times as fast as a loop over one.
func below(logits []float32, top float32) int {
	at := 0
	for ; at+8 <= len(logits); at += 8 {
		x := logits[at : at+8 : at+8]
		if !(x[0] <= top) || !(x[1] <= top) || !(x[2] <= top) || !(x[3] <= top) ||
			!(x[4] <= top) || !(x[5] <= top) || !(x[6] <= top) || !(x[7] <= top) {
			break
		}
	}
	for at < len(logits) && logits[at] <= top {
		at++
	}
	return at
}

// LogSumExp is log(sum of e^logit) in float64.
func LogSumExp(logits []float32) float64 {
	best := Argmax(logits)
	if best == None {
		return unusual(logits)
	}
	top := float64(logits[best])
	sum := 0.0
	for _, l := range logits {
		sum += math.Exp(float64(l) - top)
	}
	return top + math.Log(sum)
}

// unusual is LogSumExp of logits of which one is NaN or +Inf, or none is more than -Inf.
func unusual(logits []float32) float64 {
	sum := math.Inf(-1)
	for _, l := range logits {
		sum = max(sum, float64(l))
	}
	return sum
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
	var s Sampler
	return s.top(logits, n, LogSumExp(logits))
}

// top are the n most probable tokens under e^(logit - norm).
func (s *Sampler) top(logits []float32, n int, norm float64) []TopLogprob {
	if n = min(n, len(logits)); n <= 0 {
		return nil
	}
	s.largest(logits, n)
	top := make([]TopLogprob, len(s.kept))
	for i, c := range s.kept {
		top[i] = TopLogprob{ID: c.id, Logprob: float32(float64(c.logit) - norm)}
	}
	return top
}

// Logprobs is Logprob of an id that is in range, and TopLogprobs, in one go and in the sampler's memory.
func (s *Sampler) Logprobs(logits []float32, id int32, n int) (float32, []TopLogprob) {
	norm := LogSumExp(logits)
	return float32(float64(logits[id]) - norm), s.top(logits, n, norm)
}
