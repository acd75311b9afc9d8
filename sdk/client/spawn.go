package client

import (
	"runtime"
	"sync"
)

// starter runs all starts on one thread. The kernel kills a child with a parent-death signal when the thread that made
// it ends, not when the process does, and Go ends threads as it likes: so this one is kept, locked, as long as a child
// lives.
type starter struct {
	mu    sync.Mutex // guards both
	users int        // living processes
	jobs  chan func()
}

var theStarter starter

// run calls f on the kept thread. If it succeeds, the thread is kept until release.
func (s *starter) run(f func() error) error {
	s.mu.Lock()
	if s.users == 0 {
		s.jobs = make(chan func())
		go keepThread(s.jobs)
	}
	s.users++
	jobs := s.jobs
	s.mu.Unlock()

	result := make(chan error, 1)
	jobs <- func() { result <- f() }
	err := <-result
	if err != nil {
		s.release()
	}
	return err
}

// release is called when a child has been waited for.
func (s *starter) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		close(s.jobs)
	}
}

// keepThread ends with its goroutine still locked, so that the thread ends too and never goes back to a pool with
// children to its name.
func keepThread(jobs chan func()) {
	runtime.LockOSThread()
	for f := range jobs {
		f()
	}
}
