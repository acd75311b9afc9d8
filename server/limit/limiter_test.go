package limit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/access"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that tests move.
type clock struct{ at time.Time }

func newClock() *clock { return &clock{time.Unix(1_700_000_000, 0)} }

func (c *clock) now() time.Time { return c.at }

func (c *clock) pass(d time.Duration) { c.at = c.at.Add(d) }

func person(id, tenant string, role access.Role) access.Principal {
	return access.Principal{ID: id, Kind: access.APIKey, Tenant: tenant, Role: role}
}

var ann = person("key:ann", "acme", access.User)

func admit(l *Limiter, p access.Principal, tokens int64) (*Grant, *Refused) {
	g, err := l.Admit(context.Background(), p, tokens)
	var r *Refused
	if err != nil && (!errors.As(err, &r) || !errors.Is(err, sdk.ErrOverloaded)) {
		panic(err)
	}
	return g, r
}

// A bucket gives its limit at once, then as much as fills up; a client that waits as long as it was told is taken, and one
// that comes a moment earlier is not.
func TestWaitIsTrue(t *testing.T) {
	for _, limit := range []int64{1, 7, 60, 1000, MostLimit} {
		c := newClock()
		l := New([]Rule{{Tokens: limit}}, Options{Now: c.now})
		rng := rand.New(rand.NewPCG(uint64(limit), 1))
		for range 300 {
			n := 1 + rng.Int64N(limit)
			g, refused := admit(l, ann, n)
			if refused == nil {
				g.Close(t.Context(), n)
				c.pass(time.Duration(rng.Int64N(int64(Period) / 10)))
				continue
			}
			if refused.After <= 0 || refused.After > Period || refused.Kind != Tokens || refused.Limit != limit {
				t.Fatalf("limit %d, %d wanted: %+v", limit, n, refused)
			}
			c.pass(refused.After - 1)
			if _, again := admit(l, ann, n); again == nil {
				t.Fatalf("limit %d: %d were taken a moment before the time", limit, n)
			}
			c.pass(1)
			g, again := admit(l, ann, n)
			if again != nil {
				t.Fatalf("limit %d: %d were refused at the promised time: %+v", limit, n, again)
			}
			g.Close(t.Context(), n)
		}
	}
}

// In no period are more than two limits taken, whatever comes: a full bucket and what fills up. Over a long time it is the
// limit.
func TestRateHolds(t *testing.T) {
	c := newClock()
	const limit = 60
	l := New([]Rule{{Requests: limit}}, Options{Now: c.now})
	rng := rand.New(rand.NewPCG(3, 4))
	var taken []time.Time
	began := c.at
	for c.at.Sub(began) < time.Hour {
		if g, refused := admit(l, ann, 0); refused == nil {
			g.Close(t.Context(), 0)
			taken = append(taken, c.at)
		}
		c.pass(time.Duration(rng.Int64N(int64(time.Second))))
	}
	for i, from := 0, 0; i < len(taken); i++ {
		for taken[i].Sub(taken[from]) >= Period {
			from++
		}
		if n := i - from + 1; n > 2*limit {
			t.Fatalf("%d requests in a minute", n)
		}
	}
	if n := len(taken); n < 58*limit || n > 62*limit {
		t.Errorf("%d requests in an hour, want about %d", n, 60*limit)
	}
}

// The first rule that fits holds, and beside it the first one for the tenant; a refusal of one takes nothing from the other.
func TestRules(t *testing.T) {
	c := newClock()
	bob, eve, root := person("key:bob", "acme", access.User), person("key:eve", "other", access.User), person("key:root", "acme", access.Admin)
	l := New([]Rule{
		{Role: access.Admin},
		{Key: "key:ann", Requests: 5},
		{Tenant: "acme", Whole: true, Requests: 6},
		{Requests: 2},
	}, Options{Now: c.now})
	for _, step := range []struct {
		who  access.Principal
		want bool
	}{
		{bob, true}, {bob, true}, {bob, false}, {ann, true}, {ann, true}, {ann, true}, {ann, true}, {ann, false}, // six of acme
		{eve, true}, {eve, true}, {eve, false},
	} {
		if _, refused := admit(l, step.who, 0); (refused == nil) != step.want {
			t.Fatalf("%s: %+v, want admitted %v", step.who.ID, refused, step.want)
		}
	}
	if _, refused := admit(l, root, 0); refused == nil { // its own rule says nothing, the tenant's does
		t.Error("an admin is beyond the limit of its tenant")
	}
	c.pass(Period / 6) // one of acme; ann has used four of five
	if _, refused := admit(l, ann, 0); refused != nil {
		t.Errorf("what the tenant refused was taken from ann: %+v", refused)
	}
	l.Use(nil)
	for range 100 {
		if g, refused := admit(l, eve, 1<<40); refused != nil || len(g.Windows()) != 0 {
			t.Fatalf("no rules: %+v", refused)
		}
	}
}

// Tokens are reserved by the estimate; at the end it is as if the real number had been taken.
func TestTokensAreSettled(t *testing.T) {
	c := newClock()
	l := New([]Rule{{Tokens: 600}}, Options{Now: c.now})
	g, _ := admit(l, ann, 400)
	if w := g.Windows(); w[0].Left != 200 || w[0].Reset != 40*time.Second {
		t.Errorf("%+v", w)
	}
	g.Close(t.Context(), 100)
	g.Close(t.Context(), 100000) // the first call counts
	g, refused := admit(l, ann, 500)
	if refused != nil {
		t.Fatalf("300 were given back: %+v", refused)
	}
	g.Close(t.Context(), 1000) // 500 more than there were
	if _, refused = admit(l, ann, 1); refused == nil || refused.After < 50*time.Second || refused.After > 51*time.Second {
		t.Errorf("after 500 too many: %+v", refused)
	}
	if _, refused := admit(l, ann, 601); refused == nil || refused.After != 0 {
		t.Errorf("more than the bucket holds can never be taken: %+v", refused)
	}
	c.pass(refused.After)
	g, refused = admit(l, ann, 1)
	if refused != nil {
		t.Fatal(refused)
	}
	g.Close(t.Context(), 1<<62)
	if _, refused = admit(l, ann, 1); refused == nil || refused.After > mostDebt {
		t.Errorf("a wild number: %+v", refused)
	}
}

func TestConcurrent(t *testing.T) {
	l := New([]Rule{{Concurrent: 3, Requests: 1000}}, Options{})
	var now, most, refusals atomic.Int64
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 200 {
				g, refused := admit(l, ann, 0)
				if refused != nil {
					refusals.Add(1)
					continue
				}
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				now.Add(-1)
				g.Close(context.Background(), 0)
			}
		})
	}
	all.Wait()
	if most.Load() > 3 {
		t.Errorf("%d at once", most.Load())
	}
	var held []*Grant
	l = New([]Rule{{Concurrent: 2}}, Options{})
	for range 2 {
		g, refused := admit(l, ann, 0)
		if refused != nil {
			t.Fatal(refused)
		}
		held = append(held, g)
	}
	if _, refused := admit(l, ann, 0); refused == nil || refused.Kind != Concurrent || refused.After != 0 {
		t.Errorf("%+v", refused)
	}
	held[0].Close(t.Context(), 0)
	if _, refused := admit(l, ann, 0); refused != nil {
		t.Error(refused)
	}
}

// However many names come, so many buckets are kept, and one in use is not forgotten while others can go.
func TestMemoryIsBounded(t *testing.T) {
	c := newClock()
	l := New([]Rule{{Requests: 10, Concurrent: 1}}, Options{Now: c.now, Most: 64})
	held, _ := admit(l, ann, 0)
	for i := range 10_000 {
		g, refused := admit(l, person(fmt.Sprint("key:", i), "t", access.User), 0)
		if refused != nil {
			t.Fatal(refused)
		}
		g.Close(t.Context(), 0)
		c.pass(time.Millisecond)
	}
	if n := len(l.table.buckets); n > 64 {
		t.Errorf("%d buckets", n)
	}
	if _, refused := admit(l, ann, 0); refused == nil {
		t.Error("a request under way was forgotten")
	}
	held.Close(t.Context(), 0)
	c.pass(Period)
	for i := range 100 {
		g, _ := admit(l, person(fmt.Sprint("key:", i), "t", access.User), 0)
		g.Close(t.Context(), 0)
		c.pass(Period)
	}
}

// store is a Shared as a test wants it.
type store struct {
	take  func(cells []Cell) (time.Duration, []Window, error)
	moved []Cell
}

func (s *store) Take(_ context.Context, cells []Cell) (time.Duration, []Window, error) {
	return s.take(cells)
}
func (s *store) Move(_ context.Context, cells []Cell) { s.moved = append(s.moved, cells...) }

// What others have taken makes a decision stricter; a store that fails, or that gives more than there is, changes nothing.
func TestShared(t *testing.T) {
	c := newClock()
	s := &store{}
	l := New([]Rule{{Requests: 3, Tokens: 100, Concurrent: 9}}, Options{Now: c.now, Shared: s})
	s.take = func(cells []Cell) (time.Duration, []Window, error) {
		return 7 * time.Second, []Window{{Requests, 3, 0, Period}, {Tokens, 100, 50, time.Second}}, nil
	}
	for range 20 { // what is refused elsewhere is not taken here
		if _, refused := admit(l, ann, 40); refused == nil || refused.After != 7*time.Second || refused.Kind != Requests || refused.Windows[1].Left != 50 {
			t.Fatalf("%+v", refused)
		}
	}
	s.take = func(cells []Cell) (time.Duration, []Window, error) { return 0, nil, errors.New("dead") }
	for i := range 5 {
		g, refused := admit(l, ann, 10)
		if (refused == nil) != (i < 3) {
			t.Fatalf("request %d of a store that is dead: %+v", i, refused)
		}
		if g != nil {
			g.Close(t.Context(), 10)
		}
	}
	c.pass(Period)
	s.take = func(cells []Cell) (time.Duration, []Window, error) { return 0, make([]Window, len(cells)), nil }
	var last *Grant
	for i := range 5 {
		g, refused := admit(l, ann, 10)
		if (refused == nil) != (i < 3) {
			t.Fatalf("request %d of a store that allows everything: %+v", i, refused)
		}
		if g != nil {
			last = g
		}
	}
	last.Close(t.Context(), 25)
	if len(s.moved) != 1 || s.moved[0].N != 15 || s.moved[0].Kind != Tokens {
		t.Errorf("settled by %+v", s.moved)
	}
}

func BenchmarkAdmit(b *testing.B) {
	l := New([]Rule{{Requests: MostLimit, Tokens: MostLimit, Concurrent: 10}, {Whole: true, Requests: MostLimit, Tokens: MostLimit}}, Options{})
	for b.Loop() {
		g, err := l.Admit(context.Background(), ann, 1)
		if err != nil {
			b.Fatal(err)
		}
		g.Close(context.Background(), 2)
	}
}
