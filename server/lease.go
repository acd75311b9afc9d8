package server

import "sync"

// leases are the streams that may be ended between two requests. The zero value is ready.
type leases struct {
	mu   sync.Mutex // guards the rest, and the leases' busy
	open map[*lease]bool
	shut bool
}

// lease is the right of a stream to go on.
type lease struct {
	all  *leases
	over chan struct{} // closed when the stream has to end
	busy bool
}

// take gives a stream a lease, under which a request is under way.
func (l *leases) take() *lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[*lease]bool{}
	}
	lease := &lease{all: l, over: make(chan struct{}), busy: true}
	l.open[lease] = true
	return lease
}

// end gives the lease back.
func (l *lease) end() {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	delete(l.all.open, l)
}

// work says whether a request is under way.
func (l *lease) work(busy bool) {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	if l.busy = busy; l.all.shut {
		l.stop()
	}
}

// stop ends a stream that waits. The caller holds mu.
func (l *lease) stop() {
	if l.busy {
		return
	}
	select {
	case <-l.over:
	default:
		close(l.over)
	}
}

// close ends the streams that wait, and others when their request has ended.
func (l *leases) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shut = true
	for lease := range l.open {
		lease.stop()
	}
}
