// Package team lets a fixed set of threads work on one task together: the trunk's threads in the host, an expert's in
// its process. Backends and core/model hand it tasks cut into pieces.
//
// It refuses to queue: a pool that is busy leaves a second caller to do his pieces alone, so nobody waits for work that
// is not his.
package team

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Task is work cut into pieces. Which worker gets which piece must not matter to the result.
type Task interface {
	// Run does one piece. worker is below the team's Threads and is running nothing else meanwhile, so it may index
	// scratch memory.
	Run(worker, piece int)
}

// Pool owns threads. Make it with NewPool; Close it.
//
// A worker that has nothing to do looks for work for some microseconds, then gives its core away between looks, then
// sleeps: what a step of the model does comes in bursts, and between them the core belongs to the experts.
type Pool struct {
	threads int
	busy    sync.Mutex // held by the caller whose task runs
	ended   sync.WaitGroup
	stop    atomic.Bool

	// What the caller writes before open. Workers read it only while they are inside.
	task   Task
	pieces int64

	_      [64]byte
	rung   atomic.Uint32 // counted up for each task; workers wait for a change
	_      [60]byte
	open   atomic.Int32 // how many threads may work on the task; 0 = none is open
	_      [60]byte
	next   atomic.Int64 // piece
	_      [56]byte
	inside atomic.Uint32 // workers that may be looking at the task
	_      [60]byte
	asleep atomic.Int32
}

// Cores is how many threads the program may run at once by the settings it was started with, whatever pools there are.
func Cores() int { return cores }

var cores = runtime.GOMAXPROCS(0)

// Options of a pool.
type Options struct{}

// NewPool starts threads-1 workers; the caller of Do is the other thread. Each worker has a thread of the system and, as
// long as the pool lives, one more of the runtime's processors, so that it takes none from other goroutines.
func NewPool(threads int, _ Options) *Pool {
	p := &Pool{threads: max(threads, 1)}
	addProcs(p.threads - 1)
	for w := 1; w < p.threads; w++ {
		p.ended.Go(func() { p.work(w) })
	}
	return p
}

// Team is all of the pool's threads.
func (p *Pool) Team() Team { return Team{pool: p, threads: p.threads} }

// Close ends the workers and waits for them. No Do may be under way or follow.
func (p *Pool) Close() {
	if p.stop.Swap(true) {
		return
	}
	p.ring()
	p.ended.Wait()
	addProcs(1 - p.threads)
}

var procs sync.Mutex // held while the runtime's processors are counted and changed

func addProcs(n int) {
	if n == 0 {
		return
	}
	procs.Lock()
	defer procs.Unlock()
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0)+n, 1))
}

// ring tells the workers that there is something to do.
func (p *Pool) ring() {
	p.rung.Add(1)
	if p.asleep.Load() > 0 {
		wake(&p.rung, p.threads)
	}
}

// work is the life of a worker.
func (p *Pool) work(worker int) {
	runtime.LockOSThread()
	rung := uint32(0)
	for {
		rung = p.await(rung)
		if p.stop.Load() {
			return
		}
		p.inside.Add(1)
		// A task that is open now stays as it is until this worker is no longer inside.
		if int(p.open.Load()) > worker {
			p.claim(worker)
		}
		p.inside.Add(^uint32(0))
	}
}

func (p *Pool) claim(worker int) {
	for i := p.next.Add(1) - 1; i < p.pieces; i = p.next.Add(1) - 1 {
		p.task.Run(worker, int(i))
	}
}

const (
	// looks between two yields: some two microseconds at first, as the gap between two products of a layer takes, and few
	// after that, because there may be others who wait for the core.
	firstLooks, looks = 60, 8
	// yields before sleeping: some tens of microseconds where nobody else wants the core.
	yields = 64
	// dozeFor is how long a worker sleeps at a time without the runtime's knowledge, and dozes how often, before it sleeps
	// for good: a step's tasks are less than this apart. A garbage collection waits for one dozeFor at most.
	dozeFor = time.Millisecond
	dozes   = 5
	// sleepFor is only so that no wait is without an end.
	sleepFor = 5 * time.Second
)

// await returns the counter when it is no longer what it was.
func (p *Pool) await(was uint32) uint32 {
	if v := watch(&p.rung, was, firstLooks); v != was {
		return v
	}
	for range yields {
		yield()
		if v := watch(&p.rung, was, looks); v != was {
			return v
		}
	}
	p.asleep.Add(1)
	defer p.asleep.Add(-1)
	for n := 0; ; n++ {
		v := p.rung.Load()
		switch {
		case v != was:
			return v
		case n < dozes:
			doze(&p.rung, was, dozeFor)
		default:
			sleep(&p.rung, was, sleepFor)
		}
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

// Do runs every piece once and returns when all are done. The caller is worker 0. Nothing is allocated if task is a pointer.
// A worker that comes late, because it slept, keeps nobody waiting.
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
	defer p.shut()
	p.task, p.pieces = task, int64(pieces)
	p.next.Store(0)
	p.open.Store(int32(n))
	p.ring()
	p.claim(0)
}

// shut closes the task and waits for those who still work on it.
func (p *Pool) shut() {
	p.open.Store(0)
	for {
		v := p.inside.Load()
		if v == 0 {
			break
		}
		if watch(&p.inside, v, firstLooks) == v {
			yield()
			checkpoint()
		}
	}
	p.task = nil
}

// checkpoint lets the runtime stop the caller, for a garbage collection. Who waits in assembly and raw system calls alone can't
// be stopped; and if the runtime has stopped a worker already, in the middle of its task, that wait and the collection's wait for
// each other. A function that calls another one begins with the question whether to stop.
//
//go:noinline
func checkpoint() { asked() }

//go:noinline
func asked() {}
