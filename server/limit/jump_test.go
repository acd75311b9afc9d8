package limit

import (
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
)

// X18: whoever sets the clock neither gives nor takes a request.
func TestJumpsOfTheClock(t *testing.T) {
	for _, jump := range coretest.Jumps {
		c := coretest.NewClock(t)
		l := New([]Rule{{Requests: 3}}, Options{Now: c.Now})
		taken := func() (n int) {
			for {
				g, refused := admit(l, ann, 1)
				if refused != nil {
					if refused.After <= 0 || refused.After > Period {
						t.Errorf("%s: to wait for %s", jump, refused.After)
					}
					return n
				}
				n++
				g.Close(t.Context(), 1)
			}
		}
		if n := taken(); n != 3 {
			t.Fatalf("at first %d", n)
		}
		c.Jump(jump)
		if n := taken(); n != 0 {
			t.Errorf("a jump of %s gave %d requests", jump, n)
		}
		c.Pass(Period)
		c.Jump(jump)
		if n := taken(); n != 3 {
			t.Errorf("%d requests a minute after a jump of %s", n, jump)
		}
		c.Jump(-2 * jump)
		c.Pass(Period/3 + time.Second)
		if n := taken(); n != 1 {
			t.Errorf("%d requests a third of a minute after a jump of %s", n, -2*jump)
		}
	}
}
