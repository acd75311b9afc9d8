// Package reuse keeps the memory of a backend's calls for the next ones. cpu and int8 use it where one might expect
// sync.Pool: a collection empties that, so that the next calls make garbage for the next collection, and in a plugin's
// process lanes that doze hold up collections.
//
// It refuses to give anything back: what is kept is what as many calls need as ever were under way at once.
package reuse

import "sync"

// Pool has Ts that nobody uses. The zero Pool is empty and ready.
type Pool[T any] struct {
	mu   sync.Mutex // guards free
	free []*T
}

// Take is one that was Put, with whatever is in it, or a new one.
func (p *Pool[T]) Take() *T {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.free) - 1
	if n < 0 {
		return new(T)
	}
	v := p.free[n]
	p.free = p.free[:n]
	return v
}

// Put keeps v for another Take.
func (p *Pool[T]) Put(v *T) {
	p.mu.Lock()
	p.free = append(p.free, v)
	p.mu.Unlock()
}
