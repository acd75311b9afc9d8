package sampler

import (
	"math"
	"math/rand/v2"
	"slices"
)

// None is what Next returns when no token can be chosen: a logit is NaN or +Inf, or every one is -Inf. The model's
// output is broken then, and the request should fail.
const None int32 = -1

// Sampler chooses the tokens of one continuation. It is not safe for concurrent use.
type Sampler struct {
	params Params
	seed   uint64
	step   uint64
	prompt map[int32]struct{} // ids of the prompt; nil unless there is a repetition penalty
	counts map[int32]int      // ids of the continuation; nil unless there is a penalty

	logits []float32   // scratch: logits after penalties and bias
	kept   []candidate // scratch
}

// candidate is a token that is still in the race; p is its probability times a common factor.
type candidate struct {
	id    int32
	logit float32
	p     float64
}

// New makes the sampler of a request. The prompt counts for the repetition penalty alone.
func New(p Params, prompt []int32) *Sampler {
	s := &Sampler{params: p, seed: p.Seed}
	if !p.Seeded {
		s.seed = rand.Uint64()
	}
	if s.repeats() {
		s.prompt = make(map[int32]struct{}, len(prompt))
		for _, id := range prompt {
			s.prompt[id] = struct{}{}
		}
	}
	if s.repeats() || p.FrequencyPenalty != 0 || p.PresencePenalty != 0 {
		s.counts = map[int32]int{}
	}
	return s
}

func (s *Sampler) repeats() bool {
	return s.params.RepetitionPenalty != 0 && s.params.RepetitionPenalty != 1
}

// Next chooses a token and counts it as part of the continuation: penalties, bias, temperature, top-k, top-p, min-p,
// draw. It does not modify logits. It returns None if nothing can be chosen.
func (s *Sampler) Next(logits []float32) int32 {
	id := s.choose(s.penalise(logits))
	s.Push(id)
	return id
}

// Push counts a token that somebody else has chosen as the next of the continuation.
func (s *Sampler) Push(id int32) {
	s.step++
	if s.counts != nil && id >= 0 {
		s.counts[id]++
	}
}

// penalise applies penalties and bias to a copy of the logits, or returns them as they are if there are none.
func (s *Sampler) penalise(logits []float32) []float32 {
	p := &s.params
	if s.counts == nil && len(p.LogitBias) == 0 {
		return logits
	}
	s.logits = append(s.logits[:0], logits...)
	at := func(id int32) *float32 {
		if id < 0 || int(id) >= len(s.logits) {
			return nil
		}
		return &s.logits[id]
	}
	if s.repeats() {
		repeat := func(id int32) {
			if l := at(id); l != nil && *l > 0 {
				*l /= p.RepetitionPenalty
			} else if l != nil {
				*l *= p.RepetitionPenalty
			}
		}
		for id := range s.prompt {
			repeat(id)
		}
		for id := range s.counts {
			if _, seen := s.prompt[id]; !seen {
				repeat(id)
			}
		}
	}
	for id, n := range s.counts {
		if l := at(id); l != nil {
			*l -= float32(float32(n)*p.FrequencyPenalty) + p.PresencePenalty
		}
	}
	for id, bias := range p.LogitBias {
		if l := at(id); l != nil {
			*l += bias
		}
	}
	return s.logits
}

// choose takes the best token or draws one.
func (s *Sampler) choose(logits []float32) int32 {
	best := Argmax(logits)
	if best == None || s.params.Temperature <= 0 || s.params.TopK == 1 {
		return best
	}
	top := logits[best]
	inverse := 1 / float64(s.params.Temperature)
	kept := s.filter(logits, top, inverse)
	total := 0.0
	for i := range kept {
		total += kept[i].p
	}
	// Walk the cumulated weights to the drawn point; rounding may leave the point behind the last one.
	point := s.uniform() * total
	for i := range kept {
		if point -= kept[i].p; point < 0 {
			return kept[i].id
		}
	}
	for i := len(kept) - 1; i >= 0; i-- {
		if kept[i].p > 0 {
			return kept[i].id
		}
	}
	return best
}

// filter keeps the tokens that top-k, top-p and min-p leave, with their weights.
func (s *Sampler) filter(logits []float32, top float32, inverse float64) []candidate {
	k, topP, minP := s.params.TopK, float64(s.params.TopP), float64(s.params.MinP)
	weigh := func(l float32) float64 { return math.Exp((float64(l) - float64(top)) * inverse) }
	total := math.NaN() // weight of all tokens; only top-p without top-k needs it
	switch {
	case k > 0 && k < len(logits):
		s.largest(logits, k)
	case topP > 0 && topP < 1:
		total = 0
		for _, l := range logits {
			total += weigh(l)
		}
		s.nucleus(logits, top, inverse, topP*total)
	default:
		s.kept = s.kept[:0]
		for id, l := range logits {
			s.kept = append(s.kept, candidate{id: int32(id), logit: l})
		}
	}
	for i := range s.kept {
		s.kept[i].p = weigh(s.kept[i].logit)
	}
	if topP > 0 && topP < 1 {
		s.cut(topP, total)
	}
	if minP > 0 {
		// The best weight is 1.
		s.kept = slices.DeleteFunc(s.kept, func(c candidate) bool { return c.p < minP })
	}
	return s.kept
}

// better orders candidates by falling logit, the lower id first among equals.
func better(a, b candidate) int {
	switch {
	case a.logit > b.logit:
		return -1
	case a.logit < b.logit:
		return 1
	}
	return int(a.id) - int(b.id)
}

// largest keeps the k best in order, in a heap whose root is the worst of them.
func (s *Sampler) largest(logits []float32, k int) {
	h := s.kept[:0]
	for id, l := range logits {
		c := candidate{id: int32(id), logit: l}
		if len(h) < k {
			h = append(h, c)
			up(h)
		} else if better(c, h[0]) < 0 {
			h[0] = c
			down(h)
		}
	}
	slices.SortFunc(h, better)
	s.kept = h
}

func up(h []candidate) {
	for i := len(h) - 1; i > 0; {
		parent := (i - 1) / 2
		if better(h[i], h[parent]) < 0 {
			return
		}
		h[i], h[parent] = h[parent], h[i]
		i = parent
	}
}

func down(h []candidate) {
	for i := 0; ; {
		worst := 2*i + 1
		if worst >= len(h) {
			return
		}
		if worst+1 < len(h) && better(h[worst+1], h[worst]) > 0 {
			worst++
		}
		if better(h[i], h[worst]) > 0 {
			return
		}
		h[i], h[worst] = h[worst], h[i]
		i = worst
	}
}

// nucleus keeps, in order, at least the best tokens whose weights reach enough. It sorts only those that are near the
// best, and more of them if these are not enough: a vocabulary has many tokens and few probable ones.
func (s *Sampler) nucleus(logits []float32, top float32, inverse, enough float64) {
	for reach := 8.0; ; reach *= 4 {
		all := reach > 1000
		s.kept = s.kept[:0]
		sum := 0.0
		for id, l := range logits {
			d := (float64(l) - float64(top)) * inverse
			if all || d >= -reach {
				s.kept = append(s.kept, candidate{id: int32(id), logit: l})
				sum += math.Exp(d)
			}
		}
		if all || sum > enough*(1+1e-9) {
			slices.SortFunc(s.kept, better)
			return
		}
	}
}

// cut keeps the shortest run of the best whose weights reach topP of the total, which is that of the kept ones if it
// is not given.
func (s *Sampler) cut(topP, total float64) {
	if math.IsNaN(total) {
		total = 0
		for i := range s.kept {
			total += s.kept[i].p
		}
	}
	sum := 0.0
	for i := range s.kept {
		if sum += s.kept[i].p; sum >= topP*total {
			s.kept = s.kept[:i+1]
			return
		}
	}
}

// uniform is the step's random number in [0, 1): a function of seed and step alone (splitmix64, Steele et al. 2014,
// twice, so that neither near seeds nor near steps give near numbers).
func (s *Sampler) uniform() float64 {
	return float64(mix(mix(s.seed)+s.step*0x9e3779b97f4a7c15)>>11) / (1 << 53)
}

func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
