package weights

import "time"

// SetFault makes every change to the store's disk ask f first.
func (s *Store) SetFault(f func(op, path string) error) { s.fault = f }

// SetFree replaces the free space that the store sees.
func (s *Store) SetFree(f func(path string) (uint64, error)) { s.free = f }

// SetSwap replaces the exchange of two folders.
func (s *Store) SetSwap(f func(a, b string) error) { s.swap = f }

// SetNow replaces the store's clock.
func (s *Store) SetNow(f func() time.Time) { s.now = f }

// SetDigestClock replaces the clock by which remembered digests count as settled, and forgets them all.
func SetDigestClock(f func() time.Time) (restore func()) {
	known.mu.Lock()
	defer known.mu.Unlock()
	old := known.now
	known.now = f
	clear(known.byInode)
	clear(known.read)
	return func() { known.now = old }
}

// Remembered is the number of files whose digest is known or being computed.
func Remembered() int {
	known.mu.Lock()
	defer known.mu.Unlock()
	return len(known.byInode)
}
