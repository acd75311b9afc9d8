package learned_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/plugins/routers/internal/choicetest"
	"github.com/pimoe/pimoe/plugins/routers/learned"
	"github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

var suite = choicetest.Suite{New: func() router.Router { return learned.New() }, ReadsLogits: true}

func TestRouter(t *testing.T) { choicetest.Test(t, suite) }

func spec(params map[string]string) router.Spec {
	return router.Spec{Layers: []int{0, 1}, Experts: 2, TopK: 1, Rule: router.Rule{Score: router.SoftmaxTopK}, Params: params}
}

func observe(t *testing.T, r router.Router, o router.Observation) {
	t.Helper()
	if err := r.(router.Observer).Observe(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

// world answers for a machine on which expert 0 is slow times slower than expert 1 and costs quality nats less: it sees what
// the router does with rows whose logits differ by all amounts up to 4, and makes the observation of it.
type world struct {
	slow, quality float64
	waiting       time.Duration
}

const rows = 800

func (w world) logits() tensor.Matrix {
	m := tensor.NewMatrix(rows, 2)
	for row := range rows {
		m.Row(row)[0] = 4 * (float32(row) + .5) / rows // all rows prefer expert 0
	}
	return m
}

// step is one observation: how many rows went to the slow expert, and what the router is told of it.
func (w world) step(t *testing.T, r router.Router) (slow int) {
	t.Helper()
	for _, id := range choicetest.Route(t, r, 0, 1, w.logits()).IDs {
		if id == 0 {
			slow++
		}
	}
	o := router.Observation{Tokens: rows, LogProb: -2 - w.quality*float64(rows-slow)/rows, Waiting: w.waiting}
	for e, n := range []int{slow, rows - slow} {
		if n > 0 {
			each := time.Millisecond
			if e == 0 {
				each = time.Duration(w.slow * float64(each))
			}
			o.Loads = append(o.Loads, router.Load{Layer: 0, Expert: e, Rows: n, Busy: time.Duration(n) * each})
		}
	}
	observe(t, r, o)
	return slow
}

// share runs the world and gives the slow expert's share of the last half of the observations.
func (w world) share(t *testing.T, r router.Router, steps int) float64 {
	t.Helper()
	sum := 0
	for i := range steps {
		if slow := w.step(t, r); i >= steps/2 {
			sum += slow
		}
	}
	return float64(sum) / float64(rows*(steps-steps/2))
}

// known is a router that has been told what both experts of layer 0 cost.
func known(t *testing.T, params map[string]string, slow float64) router.Router {
	t.Helper()
	r := suite.Configured(t, spec(params))
	observe(t, r, router.Observation{Loads: []router.Load{
		{Layer: 0, Expert: 0, Rows: 1, Busy: time.Duration(slow * float64(time.Millisecond))}, {Layer: 0, Expert: 1, Rows: 1, Busy: time.Millisecond},
	}})
	return r
}

// TestBegins: before anything is known, and for as long as no token was scored, the routes are the checkpoint's own.
func TestBegins(t *testing.T) {
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
			got, err := choicetest.Do(r, b, s.TopK)
			if err != nil {
				t.Fatal(err)
			}
			want, err := choicetest.Do(plain, b, s.TopK)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.IDs, want.IDs) || !slices.Equal(got.Weights, want.Weights) {
				t.Fatalf("after %d observations: ids %v, want %v", i, got.IDs, want.IDs)
			}
			observe(t, r, router.Observation{Loads: []router.Load{{Layer: 0, Expert: 0, Rows: 9, Busy: time.Second}}})
		}
	}
}

// TestLearnsSpeed: where a slow expert costs time and its rows are as well served elsewhere, it loses most of its rows.
func TestLearnsSpeed(t *testing.T) {
	w := world{slow: 8}
	if got := w.share(t, known(t, map[string]string{"speed": "1", "explore": "0.3"}, w.slow), 400); got > 0.5 {
		t.Errorf("the slow expert has %.2f of the rows", got)
	}
}

// TestLearnsQuality: where its rows are badly served elsewhere, it keeps them.
func TestLearnsQuality(t *testing.T) {
	w := world{slow: 8, quality: 5}
	if got := w.share(t, known(t, map[string]string{"explore": "0.05"}, w.slow), 400); got < 0.9 {
		t.Errorf("the expert that nobody can stand in for has %.2f of the rows", got)
	}
}

// TestFollows: what it has learned gives way when the world changes.
func TestFollows(t *testing.T) {
	r := known(t, map[string]string{"speed": "1", "explore": "0.3"}, 8)
	before := world{slow: 8}.share(t, r, 400)
	after := world{slow: 8, quality: 20}.share(t, r, 4000)
	if before > 0.5 || after < 0.85 {
		t.Errorf("the slow expert has %.2f of the rows, and %.2f when they need it", before, after)
	}
}

// TestContext: with requests waiting it is worth giving up quality that is not given up otherwise, when the world says so.
func TestContext(t *testing.T) {
	r := known(t, map[string]string{"speed": "0.3", "explore": "0.3"}, 8)
	idle, busy := world{slow: 8, quality: 1.2}, world{slow: 8, quality: 0, waiting: time.Minute}
	shares := [2]float64{}
	for range 40 { // long stretches of each
		shares[0], shares[1] = idle.share(t, r, 40), busy.share(t, r, 40)
	}
	if shares[0] < shares[1]+0.3 {
		t.Errorf("the slow expert has %.2f of the rows while nobody waits and %.2f while somebody does", shares[0], shares[1])
	}
}

// TestPrice: the biggest price moves exactly the rows whose logits differ by less than price * ln(cost ratio).
func TestPrice(t *testing.T) {
	w := world{slow: math.E}
	r := known(t, map[string]string{"explore": "1"}, w.slow) // what is not known is tried
	seen := map[int]bool{}
	for range 40 {
		seen[w.step(t, r)] = true
	}
	for _, price := range []float64{0, .25, .5, 1, 2} {
		if want := int(rows * (1 - price/4)); !seen[want] {
			t.Errorf("no observation had %d rows for the slow expert, those of price %g: %v", want, price, seen)
		}
	}
	if len(seen) != 5 {
		t.Errorf("%d kinds of routes, want 5: %v", len(seen), seen)
	}
}

// TestSeed: the seed decides the order in which arms of the same promise are tried, and the same seed the same order.
func TestSeed(t *testing.T) {
	run := func(seed string) (out []int) {
		r := known(t, map[string]string{"explore": "1", "seed": seed}, math.E)
		for range 5 {
			out = append(out, world{slow: math.E}.step(t, r))
		}
		return out
	}
	if a, same, other := run("1"), run("1"), run("2"); !slices.Equal(a, same) || slices.Equal(a, other) {
		t.Errorf("seed 1: %v and %v, seed 2: %v", a, same, other)
	}
}

func TestRefusesParams(t *testing.T) {
	for says, params := range map[string]map[string]string{
		`params: speed "-1": must be a finite number from`:           {"speed": "-1"},
		`params: explore "1.5": must be a finite number from 0 to 1`: {"explore": "1.5"},
		`params: seed "-1"`: {"seed": "-1"},
	} {
		if err := learned.New().Configure(t.Context(), spec(params)); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	if err := learned.New().Observe(t.Context(), router.Observation{}); !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("Observe before Configure: %v", err)
	}
}
