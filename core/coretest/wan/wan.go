// Package wan is a stretch of network between two parts of a test: a TCP proxy with the delay, rate, losses and partitions of
// a real one. A partition passes nothing and closes nothing, as a cable that is pulled out.
//
// Tests and benchmarks of experts on other machines use it. It refuses to lose bytes: TCP would send them again, so a loss is
// a wait.
package wan

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

const (
	chunk = 64 << 10
	// inFlight is how many chunks are on their way in one direction: more than any test's delay and rate fill.
	inFlight = 1024
	// retransmission is how long a lost segment takes to be sent again: the least that Linux waits for.
	retransmission = 200 * time.Millisecond
)

// Link is a proxy in front of one address.
type Link struct {
	listener net.Listener
	target   string
	done     chan struct{}
	wg       sync.WaitGroup

	mu      sync.Mutex // guards all below
	delay   time.Duration
	rate    float64 // bytes a second; 0 = any
	loss    float64 // share of chunks
	cut     bool
	healed  chan struct{} // closed when cut ends
	conns   map[net.Conn]bool
	taken   time.Time // until when the bucket's tokens are used up
	carried int64
}

// New makes a link to an address, which ends with the test.
func New(t testing.TB, target string) *Link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	link := &Link{listener: l, target: target, done: make(chan struct{}), conns: map[net.Conn]bool{}, healed: make(chan struct{})}
	link.wg.Go(link.accept)
	t.Cleanup(link.close)
	return link
}

// Addr is where to connect to instead.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Delay sets how long each byte is on its way, in either direction.
func (l *Link) Delay(d time.Duration) { l.set(func() { l.delay = d }) }

// Rate sets how many bytes a second pass in each direction; 0 = any.
func (l *Link) Rate(bytes float64) { l.set(func() { l.rate = bytes }) }

// Lose sets the share of chunks that are lost once.
func (l *Link) Lose(share float64) { l.set(func() { l.loss = share }) }

// Carried is how many bytes have passed in both directions.
func (l *Link) Carried() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.carried
}

// Cut begins a partition.
func (l *Link) Cut() {
	l.set(func() {
		if !l.cut {
			l.cut, l.healed = true, make(chan struct{})
		}
	})
}

// Heal ends it. What was on its way arrives.
func (l *Link) Heal() {
	l.set(func() {
		if l.cut {
			l.cut = false
			close(l.healed)
		}
	})
}

func (l *Link) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *Link) close() {
	close(l.done)
	l.listener.Close()
	l.set(func() {
		for c := range l.conns {
			c.Close()
		}
	})
	l.wg.Wait()
}

func (l *Link) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", l.target)
		if err != nil {
			near.Close()
			continue
		}
		l.set(func() { l.conns[near], l.conns[far] = true, true })
		select {
		case <-l.done: // close may have missed them
			near.Close()
			far.Close()
			return
		default:
		}
		l.carry(near, far)
		l.carry(far, near)
	}
}

// parcel is some bytes and when they arrive.
type parcel struct {
	bytes []byte
	due   time.Time
}

// carry takes bytes from one connection to the other until either ends.
func (l *Link) carry(from, to net.Conn) {
	way := make(chan parcel, inFlight)
	l.wg.Go(func() {
		defer close(way)
		for {
			b := make([]byte, chunk)
			n, err := from.Read(b)
			if n > 0 {
				select {
				case way <- parcel{b[:n], l.due(n)}:
				case <-l.done:
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	l.wg.Go(func() {
		defer func() {
			from.Close()
			to.Close()
			l.set(func() { delete(l.conns, from); delete(l.conns, to) })
		}()
		for p := range way {
			if !l.wait(p.due) {
				return
			}
			if _, err := to.Write(p.bytes); err != nil {
				return
			}
		}
		l.wait(time.Now()) // the end of a connection does not pass a partition, either
	})
}

// due is when bytes that are sent now arrive.
func (l *Link) due(n int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.carried += int64(n)
	at := time.Now()
	if l.rate > 0 { // a bucket of tokens, without a reserve
		if l.taken.Before(at) {
			l.taken = at
		}
		l.taken = l.taken.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
		at = l.taken
	}
	if l.loss > 0 && rand.Float64() < l.loss {
		at = at.Add(retransmission)
	}
	return at.Add(l.delay)
}

// wait returns at that moment, or when a partition that is there then has ended; false if the link ends.
func (l *Link) wait(due time.Time) bool {
	if left := time.Until(due); left > 0 {
		t := time.NewTimer(left)
		defer t.Stop()
		select {
		case <-t.C:
		case <-l.done:
			return false
		}
	}
	for {
		l.mu.Lock()
		cut, healed := l.cut, l.healed
		l.mu.Unlock()
		if !cut {
			return true
		}
		select {
		case <-healed:
		case <-l.done:
			return false
		}
	}
}
