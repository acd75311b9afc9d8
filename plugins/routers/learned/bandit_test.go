package learned

import (
	"math"
	"testing"
)

// TestRegression: without forgetting to speak of, the bound is that of a ridge regression, which is computed here from its
// normal equations, and an arm that was never played has the bound of ignorance.
func TestRegression(t *testing.T) {
	b := newBandit(2, 0.5, 0)
	var a matrix
	var sum vector
	for d := range a {
		a[d][d] = 1
	}
	for i := range 60 {
		x := vector{1, float64(i%7) / 7, float64(i%5) / 5}
		reward := 0.3 - 0.2*x[1] + 0.1*x[2]
		b.learn(0, x, reward)
		for r := range a {
			sum[r] = keep*sum[r] + reward*x[r]
			for c := range a[r] {
				a[r][c] = keep*a[r][c] + x[r]*x[c]
			}
			a[r][r] += 1 - keep
		}
		y := a.solve(x)
		for r := range a {
			if got := dot(a[r], y); math.Abs(got-x[r]) > 1e-9 {
				t.Fatalf("solve: row %d of A y is %g, want %g", r, got, x[r])
			}
		}
		played := dot(a.solve(sum), x) + 0.5*math.Sqrt(dot(x, y))
		ignorant := 0.5 * math.Sqrt(dot(x, x))
		want := 0
		if ignorant > played {
			want = 1
		}
		if math.Abs(ignorant-played) > 1e-9 && b.choose(x) != want {
			t.Fatalf("after %d rewards: bounds %g and %g, chosen arm %d", i+1, played, ignorant, b.choose(x))
		}
	}
	if theta := b.arms[0].a.solve(b.arms[0].b); math.Abs(theta[0]-0.3) > 0.05 || math.Abs(theta[1]+0.2) > 0.1 {
		t.Errorf("the arm's model is %v, want about 0.3 -0.2 0.1", theta)
	}
}
