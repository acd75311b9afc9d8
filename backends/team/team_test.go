package team_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/backends/team"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// count counts how often each piece ran, and whether two pieces of a worker overlapped.
type count struct {
	t    *testing.T
	runs []atomic.Int32
	busy [16]atomic.Bool
}

func (c *count) Run(worker, piece int) {
	if c.busy[worker].Swap(true) {
		c.t.Errorf("worker %d runs two pieces at once", worker)
	}
	c.runs[piece].Add(1)
	c.busy[worker].Store(false)
}

func TestDo(t *testing.T) {
	for _, threads := range []int{0, 1, 2, 3, 8} {
		p := team.NewPool(threads, team.Options{})
		for _, limit := range []int{1, 2, 5, 100} {
			tm := p.Team().Limit(limit)
			if n := tm.Threads(); n < 1 || n > limit || n > max(threads, 1) {
				t.Errorf("%d threads limited to %d: %d", threads, limit, n)
			}
			for pieces := range 40 {
				c := &count{t: t, runs: make([]atomic.Int32, pieces)}
				tm.Do(pieces, c)
				for i := range c.runs {
					if n := c.runs[i].Load(); n != 1 {
						t.Fatalf("%d threads, %d pieces: piece %d ran %d times", threads, pieces, i, n)
					}
				}
			}
		}
		p.Close()
	}
	c := &count{t: t, runs: make([]atomic.Int32, 3)}
	team.Team{}.Do(3, c)
	for i := range c.runs {
		if c.runs[i].Load() != 1 {
			t.Fatal("the zero team left a piece out")
		}
	}
}

func TestConcurrentCallers(t *testing.T) {
	p := team.NewPool(3, team.Options{})
	defer p.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				c := &count{t: t, runs: make([]atomic.Int32, 7)}
				p.Team().Do(7, c)
				for i := range c.runs {
					if c.runs[i].Load() != 1 {
						t.Error("a piece did not run once")
					}
				}
			}
		})
	}
	wg.Wait()
}
