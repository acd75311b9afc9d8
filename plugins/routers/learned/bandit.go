package learned

import "math"

// keep is what an observation leaves of the older ones' weight: a hundred of them count, half a minute of work.
const keep = 0.99

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
}

// arm is the ridge regression of one arm's rewards on contexts.
type arm struct {
	a matrix
	b vector
}

func newBandit(arms int, explore float64, seed uint64) *bandit {
	b := &bandit{explore: explore, order: shuffled(arms, seed), arms: make([]arm, arms)}
	for i := range b.arms {
		for d := range b.arms[i].b {
			b.arms[i].a[d][d] = 1
		}
	}
	return b
}

// learn takes the reward of an arm that was played in a context.
func (b *bandit) learn(played int, x vector, reward float64) {
	for i := range b.arms {
		m := &b.arms[i]
		for r := range m.a {
			m.b[r] *= keep
			for c := range m.a[r] {
				m.a[r][c] *= keep
			}
			m.a[r][r] += 1 - keep
		}
	}
	m := &b.arms[played]
	for r := range m.a {
		m.b[r] += float64(reward * x[r])
		for c := range m.a[r] {
			m.a[r][c] += float64(x[r] * x[c])
		}
	}
}

// choose is the arm with the highest upper bound of its reward in a context.
func (b *bandit) choose(x vector) int {
	best, highest := b.order[0], math.Inf(-1)
	for _, i := range b.order {
		m := b.arms[i]
		y := m.a.solve(x) // a is symmetric: x' inv(A) b = (inv(A) x)' b
		if bound := dot(y, m.b) + float64(b.explore*math.Sqrt(max(dot(y, x), 0))); bound > highest {
			best, highest = i, bound
		}
	}
	return best
}

// solve gives the y of m y = x by Gauss's elimination. m is symmetric with eigenvalues of at least 1, so that no
// pivot is small.
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
