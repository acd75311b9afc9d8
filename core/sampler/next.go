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
	sums   []float64   // scratch
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

// NextOf is Next among the tokens that a mask allows, one bit for each: the others have the logit -Inf before everything
// else. A mask of fewer tokens than logits allows none beyond its end.
func (s *Sampler) NextOf(logits []float32, mask []uint64) int32 {
	changed := s.penalise(logits)
	if len(changed) > 0 && &changed[0] == &logits[0] {
		s.logits = append(s.logits[:0], logits...)
	}
	hide(s.logits, mask)
	id := s.choose(s.logits)
	s.Push(id)
	return id
}

// hide makes the logits of what a mask leaves out -Inf.
func hide(logits []float32, mask []uint64) {
	none := float32(math.Inf(-1))
	for at := 0; at < len(logits); at += 64 {
		word := uint64(0)
		if at>>6 < len(mask) {
			word = mask[at>>6]
		}
		part := logits[at:min(at+64, len(logits))]
		switch word {
		case 0:
			for i := range part {
				part[i] = none
			}
		case math.MaxUint64:
		default:
			for i := range part {
				if word>>i&1 == 0 {
					part[i] = none
				}
			}
		}
	}
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
	w := weigher{top: float64(logits[best]), inverse: 1 / float64(s.params.Temperature)}
	kept, total, all := s.filter(logits, w)
	point := s.uniform()
	if all {
		return s.drawAll(logits, w, point, best)
	}
	// Walk the cumulated weights to the drawn point; rounding may leave the point behind the last one.
	point *= total
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

// weigher turns logits into weights, of which the best one's is 1.
type weigher struct{ top, inverse float64 }

func (w weigher) exponent(logit float32) float64 { return (float64(logit) - w.top) * w.inverse }

func (w weigher) weight(logit float32) float64 { return math.Exp(w.exponent(logit)) }

// filter keeps the tokens that top-k, top-p and min-p leave, with their weights and the sum of these; all = no token is
// left out, and kept is not filled.
func (s *Sampler) filter(logits []float32, w weigher) (kept []candidate, total float64, all bool) {
	k, topP, minP := s.params.TopK, float64(s.params.TopP), float64(s.params.MinP)
	cuts := topP > 0 && topP < 1
	switch {
	case k > 0 && k < len(logits):
		s.largest(logits, k)
		for i := range s.kept {
			s.kept[i].p = w.weight(s.kept[i].logit)
		}
		if cuts {
			s.cut(topP * sum(s.kept))
		}
	case cuts:
		s.nucleus(logits, w, topP)
	case minP > 0:
		s.above(logits, w, math.Log(minP)-1e-9)
	default:
		return nil, 0, true
	}
	if minP > 0 { // the best weight is 1
		s.kept = slices.DeleteFunc(s.kept, func(c candidate) bool { return c.p < minP })
	}
	return s.kept, sum(s.kept), false
}

func sum(kept []candidate) float64 {
	total := 0.0
	for i := range kept {
		total += kept[i].p
	}
	return total
}

// drawBlock is how many weights are summed before the sum is noted: enough that the notes are few, few enough that the
// second look is short.
const drawBlock = 256

// drawAll draws from the whole vocabulary: it notes the sums of blocks and then looks at the block of the point again.
func (s *Sampler) drawAll(logits []float32, w weigher, point float64, best int32) int32 {
	s.sums = s.sums[:0]
	total := 0.0
	for block := range slices.Chunk(logits, drawBlock) {
		sum := 0.0
		for _, l := range block {
			sum += w.weight(l)
		}
		s.sums = append(s.sums, sum)
		total += sum
	}
	point *= total
	for b, sum := range s.sums {
		if point >= sum {
			point -= sum
			continue
		}
		from := b * drawBlock
		for i, l := range logits[from:min(from+drawBlock, len(logits))] {
			if point -= w.weight(l); point < 0 {
				return int32(from + i)
			}
		}
	}
	return best // rounding has left the point behind the last one
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
	for id, l := range logits[:k] {
		h = append(h, candidate{id: int32(id), logit: l})
		up(h)
	}
	for at := k; ; at++ {
		if at += below(logits[at:], h[0].logit); at == len(logits) { // among equals the first stays
			break
		}
		h[0] = candidate{id: int32(at), logit: logits[at]}
		down(h)
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

// near is how far below the best, as an exponent, a token is looked at for the nucleus at first: a vocabulary has many
// tokens and few probable ones.
const near = 8.0

// nucleus keeps the shortest run of the best tokens whose weights reach topP of all.
func (s *Sampler) nucleus(logits []float32, w weigher, topP float64) {
	s.kept = s.kept[:0]
	total, reached := 0.0, 0.0
	for id, l := range logits {
		d := w.exponent(l)
		p := math.Exp(d)
		total += p
		if d >= -near {
			s.kept = append(s.kept, candidate{int32(id), l, p})
			reached += p
		}
	}
	if reached <= topP*total*(1+1e-9) {
		s.above(logits, w, math.Inf(-1))
	}
	s.heaviest(topP * total)
}

// above keeps the tokens whose weights are e^least or more, in the order of their ids.
func (s *Sampler) above(logits []float32, w weigher, least float64) {
	s.kept = s.kept[:0]
	for id, l := range logits {
		if d := w.exponent(l); d >= least {
			s.kept = append(s.kept, candidate{int32(id), l, math.Exp(d)})
		}
	}
}

// heaviest cuts the kept ones to the shortest run of the best whose weights reach enough, by quickselect: only what lies
// around the boundary is ordered (Hoare 1961).
func (s *Sampler) heaviest(enough float64) {
	const few = 24 // so many are sorted
	lo, hi := 0, len(s.kept)
	for hi-lo > few {
		m := lo + partition(s.kept[lo:hi])
		if upper := sum(s.kept[lo:m]); upper >= enough {
			hi = m
		} else {
			enough -= upper
			lo = m
		}
	}
	slices.SortFunc(s.kept[lo:hi], better)
	for ; lo < hi && enough > 0; lo++ {
		enough -= s.kept[lo].p
	}
	s.kept = s.kept[:max(lo, 1)]
}

// partition moves the better ones of at least three candidates to the front and returns how many they are: some, but not
// all.
func partition(h []candidate) int {
	a, b, c := h[0], h[len(h)/2], h[len(h)-1]
	if better(b, a) < 0 {
		a, b = b, a
	}
	if better(c, b) < 0 {
		if b = c; better(c, a) < 0 {
			b = a
		}
	}
	i, j := 0, len(h)-1 // b is the median of three: neither the best nor the worst
	for {
		for better(h[i], b) < 0 {
			i++
		}
		for better(h[j], b) > 0 {
			j--
		}
		if i >= j {
			return i
		}
		h[i], h[j] = h[j], h[i]
		i++
		j--
	}
}

// cut keeps the shortest run of the best, which are in order, whose weights reach enough.
func (s *Sampler) cut(enough float64) {
	sum := 0.0
	for i := range s.kept {
		if sum += s.kept[i].p; sum >= enough {
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
