package coretest

import (
	"sync"
	"testing"
	"time"
	"unsafe"
)

// Clock is the system's clock with a wall that a test sets, as an operator or a time server would, and with time that a test lets
// pass. Go's times have two readings, of the wall and of a clock that nobody sets; what is between two times is told by the
// latter. Jump moves the wall alone, Pass moves both.
type Clock struct {
	mu           sync.Mutex // guards both
	wall, passed time.Duration
}

// NewClock is a clock that shows the system's time. It ends the test where Go's times are not built as Jump takes for granted.
func NewClock(t testing.TB) *Clock {
	t.Helper()
	c := &Clock{}
	before := c.Now()
	c.Jump(time.Hour)
	after := c.Now()
	if took := after.Sub(before); took < 0 || took > time.Minute || after.Unix()-before.Unix() < 3600 || after.Unix()-before.Unix() > 3660 {
		t.Fatalf("a jump of an hour took %s and moved the wall by %d s", took, after.Unix()-before.Unix())
	}
	c.Jump(-time.Hour)
	return c
}

// Now is the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := time.Now().Add(c.passed)
	// The first word of a time with both readings holds the wall's seconds from bit 30 on (see time.Time).
	*(*uint64)(unsafe.Pointer(&t)) += uint64(int64(c.wall/time.Second)) << 30
	return t
}

// Jump sets the wall by whole seconds, forwards or backwards.
func (c *Clock) Jump(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall += by.Truncate(time.Second)
}

// Pass lets time pass.
func (c *Clock) Pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.passed += d
}

// Jumps are those of fault X18: an hour and a day in both directions, and steps of a second backwards.
var Jumps = []time.Duration{time.Hour, -time.Hour, 24 * time.Hour, -24 * time.Hour, -time.Second, -time.Second, -time.Second}
