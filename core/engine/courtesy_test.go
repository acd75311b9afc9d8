package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pimoe/pimoe/core/model"
)

// The parts of a step's time are found from steps of all kinds, though some are held up by something else, and followed when they
// change.
func TestPrice(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var p price
	for _, want := range [][3]float64{{1e-3, 300e-6, 100e-6}, {5e-3, 200e-6, 50e-6}, {0, 1e-3, 1e-3}} {
		for range 2000 {
			l := load{decoding: rng.IntN(8)}
			if rng.IntN(4) == 0 {
				l.prompt = 16 + rng.IntN(100)
			}
			if l == (load{}) {
				continue
			}
			took := want[0] + want[1]*float64(l.decoding) + want[2]*float64(l.prompt)
			took *= 0.95 + rng.Float64()/10
			if rng.IntN(50) == 0 {
				took += 20e-3
			}
			p.took(l, time.Duration(took*1e9))
		}
		for _, l := range []load{{1, 0}, {4, 0}, {0, 60}, {6, 80}} {
			exact := want[0] + want[1]*float64(l.decoding) + want[2]*float64(l.prompt)
			if got := p.step(l); math.Abs(got/exact-1) > 0.15 {
				t.Errorf("%+v of %v: %v s, want %v", l, want, got, exact)
			}
		}
	}
}

// What time buys: nothing that it does not pay for, a grain of a prompt or its end, and all where rows cost nothing yet.
func TestBuys(t *testing.T) {
	p := price{parts: [3]float64{1, 2, 0.5}}
	for _, test := range []struct {
		seconds       float64
		pending, want int
	}{
		{1.9, 1, 0}, {2, 1, 1}, {-1, 1, 0}, {7.9, 100, 0}, {8, 100, 16}, {9.6, 100, 19}, {50, 100, 100}, {2, 4, 4}, {1.9, 4, 0}, {1, 2, 2},
	} {
		if got := p.buys(test.seconds, test.pending); got != test.want {
			t.Errorf("%v s buy %d of %d tokens, want %d", test.seconds, got, test.pending, test.want)
		}
	}
	if got := (&price{}).buys(0, 100); got != 100 {
		t.Errorf("%d of 100 tokens that cost nothing", got)
	}
}

// crowd is tenants that send requests to an engine whose steps take time, all in virtual time.
type crowd struct {
	rates map[string]float64 // requests a second
	burst map[string]int     // how many of them come together, 1 unless said
	warm  time.Time          // requests from then on are measured

	mu      sync.Mutex // guards all below
	took    map[string][]float64
	refused map[string]int
	failed  error
}

// warmUp is how long requests are sent before they are measured: what rows cost is not known at first.
const warmUp = 2 * time.Second

// run sends requests for so long and waits for their answers. Steps take 1 ms, 300 us for each decoding row and 100 us for each row
// of a prompt: a request alone takes 25 ms, and 32 at a time leave room for some 100 a second.
func (c *crowd) run(t *testing.T, percent int, length time.Duration) {
	c.took, c.refused = map[string][]float64{}, map[string]int{}
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1024, 16)
		s := testSetup(f)
		s.limits.MaxBatchSize, s.limits.MaxBatchTokens, s.limits.MaxConcurrentRequests = 32, 512, 32
		s.limits.MaxQueueTime, s.limits.SlowdownPercent = 200*time.Millisecond, percent
		f.before = func(_ context.Context, spans []model.Span) error {
			var l load
			for _, sp := range spans {
				l.add(len(sp.Tokens))
			}
			time.Sleep(time.Millisecond + time.Duration(l.decoding)*300*time.Microsecond + time.Duration(l.prompt)*100*time.Microsecond)
			return nil
		}
		e := start(s)
		defer stopTest(t, e, f)
		c.warm = time.Now().Add(warmUp)
		var all sync.WaitGroup
		defer all.Wait()
		for i, name := range slices.Sorted(maps.Keys(c.rates)) {
			rng := rand.New(rand.NewPCG(uint64(i), 3))
			all.Go(func() {
				for at := c.warm.Add(length); ; {
					time.Sleep(time.Duration(rng.ExpFloat64() / c.rates[name] * float64(max(c.burst[name], 1)) * 1e9))
					if time.Now().After(at) {
						return
					}
					for range max(c.burst[name], 1) {
						r := plain("", prompt(fmt.Sprint(name, rng.Uint64()), 40), 16)
						r.Tenant = name
						all.Go(func() { c.send(t, e, r) })
					}
				}
			})
		}
	})
	if c.failed != nil {
		t.Error(c.failed)
	}
}

func (c *crowd) send(t *testing.T, e *Engine, r Request) {
	began := time.Now()
	if began.Before(c.warm) {
		began = time.Time{}
	}
	s, err := e.Submit(t.Context(), r)
	if err == nil {
		err = read(t.Context(), s).err
		s.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case began.IsZero() && (err == nil || errors.Is(err, ErrQueueFull)):
	case errors.Is(err, ErrQueueFull):
		c.refused[r.Tenant]++
	case err != nil:
		c.failed = err
	default:
		c.took[r.Tenant] = append(c.took[r.Tenant], time.Since(began).Seconds())
	}
}

// quiet is what the tenants but the flood had.
func (c *crowd) quiet() (took []float64, refused int) {
	for name := range c.rates {
		if name != "flood" {
			took = append(took, c.took[name]...)
			refused += c.refused[name]
		}
	}
	return took, refused
}

// Nine tenants at half of their share hardly notice one at fifty times its own, which is what the courtesy does: without it they do.
// The flood still has more than its share, and as much as ever when it is alone.
func TestCourtesy(t *testing.T) {
	const share = 10
	rates := map[string]float64{}
	for i := range 9 {
		rates[fmt.Sprint("quiet", i)] = share / 2.
	}
	run := func(flood float64, percent int) (p float64, floods int) {
		c := &crowd{rates: map[string]float64{}}
		for name, rate := range rates {
			c.rates[name] = rate
		}
		if flood > 0 {
			c.rates["flood"] = flood
		}
		const length = 10
		c.run(t, percent, length*time.Second)
		took, refused := c.quiet()
		if refused > 0 {
			t.Errorf("%d requests of quiet tenants were refused", refused)
		}
		if len(took) > 0 {
			p = p99(took)
		}
		floods = len(c.took["flood"]) / length
		t.Logf("flood of %.0f/s, %d %%: p99 of %d quiet requests %.1f ms; %d/s of the flood", flood, percent, len(took), p*1e3, floods)
		return p, floods
	}
	alone, _ := run(0, 5)
	with, floods := run(50*share, 5)
	without, _ := run(50*share, 0)
	if with > 1.2*alone {
		t.Errorf("p99 %.1f ms beside a flood, %.1f ms alone", with*1e3, alone*1e3)
	}
	if without < 1.5*alone {
		t.Errorf("p99 %.1f ms beside a flood without courtesy, %.1f ms alone: this test shows nothing", without*1e3, alone*1e3)
	}
	if floods < share {
		t.Errorf("the flood had %d answers a second, its share is %d", floods, share)
	}
	rates = nil
	_, restrained := run(50*share, 5)
	_, free := run(50*share, 0)
	if restrained < free*95/100 {
		t.Errorf("alone the flood had %d answers a second, %d without courtesy", restrained, free)
	}
}

// A quiet tenant whose requests come six at a time, more than it has places in a step, is not taken for a flood.
func TestCourtesyToBursts(t *testing.T) {
	run := func(flood float64) float64 {
		c := &crowd{rates: map[string]float64{"bursts": 5}, burst: map[string]int{"bursts": 6}}
		for i := range 8 {
			c.rates[fmt.Sprint("quiet", i)] = 5
		}
		if flood > 0 {
			c.rates["flood"] = flood
		}
		c.run(t, 5, 20*time.Second)
		p := p99(c.took["bursts"])
		t.Logf("flood of %.0f/s: p99 of %d requests %.1f ms", flood, len(c.took["bursts"]), p*1e3)
		if n := c.refused["bursts"]; n > 0 {
			t.Errorf("flood of %.0f/s: %d of the bursts' requests were refused", flood, n)
		}
		return p
	}
	alone, with := run(0), run(500)
	if with > 1.3*alone {
		t.Errorf("p99 %.1f ms beside a flood, %.1f ms alone", with*1e3, alone*1e3)
	}
}
