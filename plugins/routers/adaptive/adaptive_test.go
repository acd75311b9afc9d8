package adaptive_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/plugins/routers/adaptive"
	"github.com/pimoe/pimoe/plugins/routers/internal/choicetest"
	"github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

var suite = choicetest.Suite{New: func() router.Router { return adaptive.New() }, ReadsLogits: true}

func TestRouter(t *testing.T) { choicetest.Test(t, suite) }

func spec(experts, k int, params map[string]string) router.Spec {
	return router.Spec{Layers: []int{0, 1}, Experts: experts, TopK: k, Rule: router.Rule{Score: router.SoftmaxTopK}, Params: params}
}

func route(t *testing.T, r router.Router, b router.Batch, k int) router.Routes {
	t.Helper()
	routes, err := choicetest.Do(r, b, k)
	if err != nil {
		t.Fatal(err)
	}
	return routes
}

func observe(t *testing.T, r router.Router, o router.Observation) {
	t.Helper()
	if err := r.(router.Observer).Observe(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

// hot is an observation in which expert 0 of layer 0 took all the time.
func hot(waiting time.Duration) router.Observation {
	return router.Observation{Loads: []router.Load{{Layer: 0, Expert: 0, Rows: 10, Busy: time.Second}}, Waiting: waiting}
}

// TestIdle: while nobody waits the routes are the checkpoint's own, however uneven the load.
func TestIdle(t *testing.T) {
	for _, s := range choicetest.Specs() {
		plain := model.New()
		own := s
		own.Rule = model.AnyChoice(own.Rule)
		if err := plain.Configure(t.Context(), own); err != nil {
			t.Fatal(err)
		}
		r := suite.Configured(t, s)
		for i := range 3 {
			b := choicetest.Batch(uint64(i), 0, 12, s.Experts)
			got, want := route(t, r, b, s.TopK), route(t, plain, b, s.TopK)
			if !slices.Equal(got.IDs, want.IDs) || !slices.Equal(got.Weights, want.Weights) {
				t.Fatalf("after %d observations: ids %v, want %v", i, got.IDs, want.IDs)
			}
			observe(t, r, hot(0))
		}
	}
}

// TestFormula follows two observations by hand, with rate 1/2, balance 2 and no noise. Patience as long as the wait makes
// a pressure of 1/2 in each: u is 1/4, then 3/8. All of the time on expert 0 of two makes loads of 2 and 0: L is 3/2 and
// 1/2, then 7/4 and 1/4. So expert 0 loses u * 2 * ln(L_0 / L_1) against expert 1: 0.549, then 1.459.
func TestFormula(t *testing.T) {
	r := suite.Configured(t, spec(2, 1, map[string]string{"rate": "0.5", "balance": "2", "temperature": "0", "patience": "40ms"}))
	for i, lost := range []float64{0, 2. / 4 * math.Log(3), 6. / 8 * math.Log(7)} {
		for _, by := range []float64{-.01, .01} {
			logits := tensor.MatrixOf(1, 2, []float32{float32(lost + by), 0})
			want := int32(0)
			if by < 0 {
				want = 1
			}
			got := choicetest.Route(t, r, 0, 1, logits)
			if got.IDs[0] != want {
				t.Errorf("after %d observations, expert 0 is ahead by %.3f: chosen %d, want %d", i, lost+by, got.IDs[0], want)
			}
			if p := 1 / (1 + math.Exp(float64(logits.Row(0)[1-want]-logits.Row(0)[want]))); math.Abs(float64(got.Weights[0])-p) > 1e-6 {
				t.Errorf("after %d observations: weight %g, want %g: the bias must not count", i, got.Weights[0], p)
			}
			if got := choicetest.Route(t, r, 1, 1, logits); got.IDs[0] == 1 && lost+by > 0 {
				t.Error("the load of layer 0 counts in layer 1")
			}
		}
		observe(t, r, hot(40*time.Millisecond))
	}
}

// TestTemperature: under full pressure the choices of many rows with the same logits have the probabilities of the softmax
// at the temperature, within five standard deviations, and without pressure they are one.
func TestTemperature(t *testing.T) {
	const rows = 40_000
	logits, temperature := []float32{1, 0.5, 0}, 0.5
	r := suite.Configured(t, spec(3, 1, map[string]string{"rate": "1", "balance": "0", "temperature": "0.5", "patience": "1ns", "seed": "3"}))
	b := router.Batch{Logits: tensor.NewMatrix(rows, 3), Tokens: make([]int32, rows), Positions: make([]int32, rows)}
	for row := range rows {
		copy(b.Logits.Row(row), logits)
		b.Positions[row] = int32(row)
	}
	count := func() (n [3]float64) {
		for _, id := range route(t, r, b, 1).IDs {
			n[id]++
		}
		return n
	}
	if n := count(); n != [3]float64{rows, 0, 0} {
		t.Errorf("without pressure: %v", n)
	}
	observe(t, r, router.Observation{Waiting: time.Hour})
	n, sum := count(), 0.
	for _, v := range logits {
		sum += math.Exp(float64(v) / temperature)
	}
	for e, v := range logits {
		p := math.Exp(float64(v)/temperature) / sum
		if want, five := rows*p, 5*math.Sqrt(rows*p*(1-p)); math.Abs(n[e]-want) > five {
			t.Errorf("expert %d has %g rows, want %g within %g", e, n[e], want, five)
		}
	}
}

// TestSeed: the noise is the same for the same seed, whatever else is in the batch, and another for another.
func TestSeed(t *testing.T) {
	ids := func(seed string, rows int) []int32 {
		r := suite.Configured(t, spec(16, 4, map[string]string{"rate": "1", "temperature": "4", "seed": seed}))
		observe(t, r, hot(time.Minute))
		return route(t, r, choicetest.Slice(choicetest.Batch(8, 0, 10, 16), 0, rows), 4).IDs
	}
	a, same, few, other := ids("5", 10), ids("5", 10), ids("5", 3), ids("6", 10)
	if !slices.Equal(a, same) || !slices.Equal(a[:12], few) || slices.Equal(a, other) {
		t.Errorf("routes %v and %v, of three rows %v, with another seed %v", a, same, few, other)
	}
}

func TestRefusesParams(t *testing.T) {
	for says, params := range map[string]map[string]string{
		`params: balance "-1": must be a finite number`:     {"balance": "-1"},
		`params: temperature "hot"`:                         {"temperature": "hot"},
		`params: rate "0": must be a finite number from`:    {"rate": "0"},
		`params: patience "0s": must be a duration above 0`: {"patience": "0s"},
		`params: patience "100"`:                            {"patience": "100"},
		`params: seed "x"`:                                  {"seed": "x"},
	} {
		if err := adaptive.New().Configure(t.Context(), spec(4, 1, params)); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestObserveRefuses(t *testing.T) {
	if err := adaptive.New().Observe(t.Context(), router.Observation{}); !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("before Configure: %v", err)
	}
}
