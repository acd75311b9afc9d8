package model

import "math"

// rope is the rotary embedding: dimension i and i + len(inv) of a head turn by position x inv[i]; cos and sin are
// multiplied by scale.
type rope struct {
	inv   []float32
	scale float32
	// original is the context the frequencies were trained for, times the factor: how far yarn reaches; 0 = says nothing.
	reach int
}

// readRope reads rope_theta with rope_scaling, or rope_parameters, as the different versions of transformers write
// them. theta is the architecture's default; required if it has no single one.
func readRope(o *object, headDim, maxPositions int, theta float64) rope {
	const hiTheta, hiFactor = 1e12, 1e4 // far beyond any model; keeps every later result finite
	old, now := o.child("rope_scaling"), o.child("rope_parameters")
	s := old
	if s == nil {
		s = now
	} else if now != nil {
		o.refuse("rope_scaling", "rope_parameters is there too")
	}
	if s == nil {
		return rope{inv: frequencies(o.number("rope_theta", 1, hiTheta, theta), headDim), scale: 1}
	}
	if s.has("rope_theta") {
		inner := s.number("rope_theta", 1, hiTheta, required)
		if o.has("rope_theta") && o.number("rope_theta", 1, hiTheta, required) != inner {
			s.fail("rope_theta", "%g differs from the one outside", inner)
		}
		theta = inner
	} else {
		theta = o.number("rope_theta", 1, hiTheta, theta)
	}
	kind := s.text("rope_type", "")
	switch other := s.text("type", ""); {
	case kind == "":
		kind = other
	case other != "" && other != kind:
		s.fail("type", "%q, but rope_type is %q", other, kind)
	}
	r := rope{inv: frequencies(theta, headDim), scale: 1}
	switch kind {
	case "default":
	case "linear":
		factor := float32(s.number("factor", 1, hiFactor, required))
		for i := range r.inv {
			r.inv[i] /= factor
		}
	case "llama3":
		r.llama3(s, hiFactor)
	case "yarn":
		r.yarn(s, theta, headDim, maxPositions, hiFactor)
	case "":
		s.fail("rope_type", "missing")
	default:
		key := "rope_type"
		if !s.has(key) {
			key = "type"
		}
		s.refuse(key, "supported are default, linear, llama3 and yarn")
		return r
	}
	s.rest(false)
	return r
}

// frequencies is theta^(-2i/dim) in float32.
func frequencies(theta float64, dim int) []float32 {
	inv := make([]float32, dim/2)
	for i := range inv {
		exponent := float32(2*i) / float32(dim)
		inv[i] = 1 / float32(math.Pow(theta, float64(exponent)))
	}
	return inv
}

// llama3 stretches long wavelengths by the factor, leaves short ones, and blends between (Llama 3.1).
func (r *rope) llama3(s *object, hiFactor float64) {
	factor := s.number("factor", 1, hiFactor, required)
	low := s.number("low_freq_factor", 1e-6, 1e6, required)
	high := s.number("high_freq_factor", 1e-6, 1e6, required)
	original := float64(s.integer("original_max_position_embeddings", 1, maxPositionsLimit, required))
	if high <= low {
		s.fail("high_freq_factor", "%g is not above low_freq_factor %g", high, low)
		return
	}
	for i, f := range r.inv {
		wavelength := 2 * math.Pi / float64(f)
		switch {
		case wavelength > original/low:
			r.inv[i] = float32(float64(f) / factor)
		case wavelength >= original/high:
			smooth := (original/wavelength - low) / (high - low)
			r.inv[i] = float32(float64(float64(1-smooth)*float64(f))/factor + float64(smooth*float64(f)))
		}
	}
}

// yarn is Peng et al. 2023 (arXiv:2309.00071) as transformers computes it: frequencies are blended at every position,
// also below the original context.
func (r *rope) yarn(s *object, theta float64, dim, maxPositions int, hiFactor float64) {
	original := s.integer("original_max_position_embeddings", 1, maxPositionsLimit, maxPositions)
	factor := s.number("factor", 1, hiFactor, math.Max(1, float64(maxPositions)/float64(original)))
	fast := s.number("beta_fast", 1e-6, 1e6, 32)
	slow := s.number("beta_slow", 1e-6, 1e6, 1)
	truncate := s.boolean("truncate", true)
	mscale := s.number("mscale", 0, 1e3, 0)
	mscaleAll := s.number("mscale_all_dim", 0, 1e3, 0)
	s.has("finetuned") // says how the model was made
	attention := yarnScale(factor, 1)
	if mscale != 0 && mscaleAll != 0 {
		attention = yarnScale(factor, mscale) / yarnScale(factor, mscaleAll)
	}
	attention = s.number("attention_factor", 0, 1e3, attention)
	if theta == 1 {
		s.fail("rope_theta", "yarn needs a base above 1")
		return
	}
	// The dimension at which a wave turns so many times within the original context.
	turns := func(n float64) float64 {
		return float64(dim) * math.Log(float64(original)/(n*2*math.Pi)) / (2 * math.Log(theta))
	}
	low, high := turns(fast), turns(slow)
	if truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = math.Max(low, 0), math.Min(high, float64(dim-1))
	if low == high {
		high += 0.001
	}
	for i := range r.inv {
		ramp := math.Min(math.Max((float64(i)-low)/(high-low), 0), 1)
		f := 1 / math.Pow(theta, float64(2*i)/float64(dim))
		r.inv[i] = float32(float64(f/factor*ramp) + float64(f*(1-ramp)))
	}
	r.scale = float32(attention)
	r.reach = int(math.Min(float64(original)*factor, maxPositionsLimit))
}

func yarnScale(factor, mscale float64) float64 {
	if factor <= 1 {
		return 1
	}
	return float64(0.1*mscale*math.Log(factor)) + 1
}

// tables fills one row of cos and sin for a position.
func (r *rope) tables(position int, cos, sin []float32) {
	for i, f := range r.inv {
		s, c := sincos(float64(f * float32(position)))
		cos[i], sin[i] = float32(c)*r.scale, float32(s)*r.scale
	}
}
