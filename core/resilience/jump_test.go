package resilience

import (
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
)

// X18: an open breaker stays open for its time, whatever the wall says meanwhile.
func TestJumpsOfTheClock(t *testing.T) {
	for _, jump := range coretest.Jumps {
		c := coretest.NewClock(t)
		b := breaker{threshold: 2}
		for range 2 {
			b.end(c.Now(), false, 1)
		}
		if b.allows(c.Now()) {
			t.Fatal("it is not open")
		}
		c.Jump(jump)
		if b.allows(c.Now()) {
			t.Errorf("a jump of %s closed it", jump)
		}
		c.Pass(2 * firstOpen)
		if !b.allows(c.Now()) {
			t.Errorf("after a jump of %s it is open for longer than %s", jump, 2*firstOpen)
		}
	}
	c := coretest.NewClock(t)
	b := breaker{threshold: 1}
	b.end(c.Now(), false, 1)
	c.Pass(time.Millisecond)
	if b.allows(c.Now()) {
		t.Error("it is open for no time")
	}
}
