// Package team lets a fixed set of threads work on one task together: the trunk's threads in the host, an expert's in
// its process. Backends and core/model hand it tasks cut into pieces.
//
// It refuses to queue: a pool that is busy leaves a second caller to do his pieces alone, so nobody waits for work that
// is not his.
package team

import (
	"sync"
	"sync/atomic"
)

// Task is work cut into pieces. Which worker gets which piece must not matter to the result.
type Task interface {
	// Run does one piece. worker is below the team's Threads and is running nothing else meanwhile, so it may index
	// scratch memory.
	Run(worker, piece int)
}

// Pool owns threads. Make it with NewPool; Close it.
type Pool struct {
	threads int
	busy    sync.Mutex // held by the caller whose task runs
	wake    []chan struct{}
	done    sync.WaitGroup // of one task
	ended   sync.WaitGroup // of the workers

	task   Task
	pieces int64
	next   atomic.Int64
}

// Options of a pool.
type Options struct{}

// NewPool starts threads-1 workers; the caller of Do is the other thread.
func NewPool(threads int, _ Options) *Pool {
	p := &Pool{threads: max(threads, 1)}
	for w := 1; w < p.threads; w++ {
		c := make(chan struct{})
		p.wake = append(p.wake, c)
		p.ended.Go(func() {
			for range c {
				p.claim(w)
				p.done.Done()
			}
		})
	}
	return p
}

// Team is all of the pool's threads.
func (p *Pool) Team() Team { return Team{pool: p, threads: p.threads} }

// Close ends the workers and waits for them. No Do may be under way or follow.
func (p *Pool) Close() {
	for _, c := range p.wake {
		close(c)
	}
	p.ended.Wait()
}

func (p *Pool) claim(worker int) {
	for i := p.next.Add(1) - 1; i < p.pieces; i = p.next.Add(1) - 1 {
		p.task.Run(worker, int(i))
	}
}

// Team is some threads of a pool; the zero Team is the caller alone.
type Team struct {
	pool    *Pool
	threads int
}

// Threads is how many threads work, at least 1.
func (t Team) Threads() int { return max(t.threads, 1) }

// Limit is the team with at most n threads.
func (t Team) Limit(n int) Team {
	t.threads = min(t.threads, n)
	return t
}

// Do runs every piece once and returns when all are done. The caller is worker 0.
func (t Team) Do(pieces int, task Task) {
	n := min(t.Threads(), pieces)
	if n <= 1 || !t.pool.busy.TryLock() {
		for i := range pieces {
			task.Run(0, i)
		}
		return
	}
	p := t.pool
	defer p.busy.Unlock()
	p.task, p.pieces = task, int64(pieces)
	p.next.Store(0)
	p.done.Add(n - 1)
	for _, c := range p.wake[:n-1] {
		c <- struct{}{}
	}
	p.claim(0)
	p.done.Wait()
	p.task = nil
}
