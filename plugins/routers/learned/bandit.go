package learned

import "math"

const (
	// keep is what an observation leaves of the older ones' weight: a thousand of them count, minutes of work. With fewer
	// there is no proof of differences that are small against the noise.
	keep = 0.999
	// levelRate and noiseRate are the shares by which the level and the noise move. The level must follow the texts, which
	// change within seconds, and so be much faster than what is learned of an arm.
	levelRate, noiseRate = 0.1, 0.05
	// confidence is the width of a bound in standard deviations: one proof of forty is none.
	confidence = 2
	// hope is what an arm may be worth that was never tried, in nats: about all that speed and quality can bring.
	hope = 1
)

// vector is a context, and matrix what goes with it.
type (
	vector [3]float64
	matrix [3]vector
)

// bandit is the linear bandit of the package comment. It is a value without clock or randomness; the conversions keep
// compilers from fusing, so that every machine learns the same.
type bandit struct {
	explore float64
	order   []int // in which equals are tried
	arms    []arm
	level   float64
	square  float64 // mean of the squared errors
	budget  float64 // of exploring: 1 is one try
	begun   bool    // the level is known
}

// arm is the ridge regression of one arm's surplus on contexts.
type arm struct {
	a matrix
	b vector
}

func newBandit(arms int, explore float64, seed uint64) *bandit {
	b := &bandit{explore: explore, order: shuffled(arms, seed), arms: make([]arm, arms), square: 1}
	for i := range b.arms {
		for d := range b.arms[i].b {
			b.arms[i].a[d][d] = 1
		}
	}
	return b
}

// learn takes the reward of an arm that was played in a context.
func (b *bandit) learn(played int, x vector, reward float64) {
	if !b.begun {
		b.level, b.begun = reward, true
	}
	surplus := reward - b.level
	promised, _ := b.arms[played].judge(x)
	miss := surplus - promised
	b.level += float64(levelRate * miss)
	b.square += float64(noiseRate * (float64(miss*miss) - b.square))
	for i := range b.arms {
		b.arms[i].forget()
	}
	b.arms[played].learn(x, surplus)
}

// choose is the arm to be played in a context.
func (b *bandit) choose(x vector) int {
	noise := float64(confidence * math.Sqrt(b.square))
	if b.budget += b.explore; b.budget >= 1 {
		b.budget--
		return b.hopeful(x, noise+hope)
	}
	best := 0
	rule, doubt := b.arms[0].judge(x)
	highest := rule
	for i := 1; i < len(b.arms); i++ {
		mean, width := b.arms[i].judge(x)
		if mean-rule > float64(noise*(width+doubt)) && mean > highest {
			best, highest = i, mean
		}
	}
	return best
}

// hopeful is the arm with the highest upper bound.
func (b *bandit) hopeful(x vector, doubt float64) int {
	best, highest := b.order[0], math.Inf(-1)
	for _, i := range b.order {
		mean, width := b.arms[i].judge(x)
		if bound := mean + float64(doubt*width); bound > highest {
			best, highest = i, bound
		}
	}
	return best
}

// forget takes a little of the weight of all that was learned.
func (m *arm) forget() {
	for r := range m.a {
		m.b[r] *= keep
		for c := range m.a[r] {
			m.a[r][c] *= keep
		}
		m.a[r][r] += 1 - keep
	}
}

func (m *arm) learn(x vector, surplus float64) {
	for r := range m.a {
		m.b[r] += float64(surplus * x[r])
		for c := range m.a[r] {
			m.a[r][c] += float64(x[r] * x[c])
		}
	}
}

// judge is what an arm promises in a context, and the width of its doubt, in the noise's unit.
func (m *arm) judge(x vector) (mean, width float64) {
	y := m.a.solve(x) // a is symmetric: x' inv(A) b = (inv(A) x)' b
	return dot(y, m.b), math.Sqrt(max(dot(y, x), 0))
}

// solve gives the y of m y = x by Gauss's elimination. m is symmetric with eigenvalues of at least 1, so that no pivot is
// small.
func (m matrix) solve(x vector) vector {
	for p := range m {
		for r := p + 1; r < len(m); r++ {
			f := m[r][p] / m[p][p]
			for c := p; c < len(m); c++ {
				m[r][c] -= float64(f * m[p][c])
			}
			x[r] -= float64(f * x[p])
		}
	}
	for r := len(m) - 1; r >= 0; r-- {
		for c := r + 1; c < len(m); c++ {
			x[r] -= float64(m[r][c] * x[c])
		}
		x[r] /= m[r][r]
	}
	return x
}

func dot(x, y vector) (sum float64) {
	for i, v := range x {
		sum += float64(v * y[i])
	}
	return sum
}
