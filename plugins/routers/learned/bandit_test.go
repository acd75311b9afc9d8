package learned

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestSolve(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	m := newBandit(1, 0, 0).arms[0]
	for range 500 {
		x := vector{1, rng.Float64(), rng.Float64()}
		m.forget()
		m.learn(x, rng.NormFloat64())
		y := m.a.solve(x)
		for r := range m.a {
			if got := dot(m.a[r], y); math.Abs(got-x[r]) > 1e-9 {
				t.Fatalf("row %d of A y is %g, want %g", r, got, x[r])
			}
		}
	}
}

// TestRegression: an arm learns the plane that its rewards lie on, noise and a wandering level aside, and how far it is to
// be trusted.
func TestRegression(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	b := newBandit(2, 0, 0)
	level := 5.
	for i := range 4000 {
		x := vector{1, rng.Float64(), rng.Float64()}
		level += 0.02 * rng.NormFloat64()
		noise := 0.1 * rng.NormFloat64()
		if i%2 == 0 {
			b.learn(0, x, level+noise)
		} else {
			b.learn(1, x, level+0.3-0.2*x[1]+0.1*x[2]+noise)
		}
	}
	for _, x := range []vector{{1, 0, 0}, {1, 1, 0}, {1, 0, 1}, {1, 1, 1}} {
		rule, _ := b.arms[0].judge(x)
		mean, width := b.arms[1].judge(x)
		if want := 0.3 - 0.2*x[1] + 0.1*x[2]; math.Abs(mean-rule-want) > 0.05 || width > 0.2 {
			t.Errorf("in %v the arm promises %.3f more within %.3f, want %.3f", x, mean-rule, width, want)
		}
	}
	if s := math.Sqrt(b.square); s < 0.08 || s > 0.15 {
		t.Errorf("the noise is taken for %.3f, is 0.1", s)
	}
}

// TestConservative: an arm that is no better is played in the explored share alone, one that is better nearly always.
func TestConservative(t *testing.T) {
	for _, gain := range []float64{-0.1, 0, 0.3} {
		rng := rand.New(rand.NewPCG(5, 6))
		b := newBandit(2, 0.1, 0)
		arm, played, x := 0, 0, vector{1}
		const rounds = 4000
		for i := range rounds {
			reward := 0.2 * rng.NormFloat64()
			if arm == 1 {
				reward += gain
			}
			b.learn(arm, x, reward)
			x = vector{1, rng.Float64(), 0}
			if arm = b.choose(x); arm == 1 && i >= rounds/2 {
				played++
			}
		}
		share := float64(played) / (rounds / 2)
		if gain <= 0 && share > 0.12 || gain > 0 && share < 0.85 {
			t.Errorf("an arm that gains %g has a share of %.2f", gain, share)
		}
	}
}
