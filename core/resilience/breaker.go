package resilience

import "time"

const (
	breakerWindow = 20                // calls that are remembered
	breakerShare  = breakerWindow / 2 // failures among them that open it
	firstOpen     = time.Second       // how long it stays open first, doubled each time
	longestOpen   = 30 * time.Second
)

// DefaultBreakerThreshold is how many failures in a row open a breaker.
const DefaultBreakerThreshold = 10

// breaker keeps calls from a replica that fails most of them (Nygard, "Release It!"). Closed, it lets everything through;
// open, nothing until a time has passed; half-open, one call, whose outcome closes or opens it again.
type breaker struct {
	threshold int // failures in a row that open it
	failed    [breakerWindow]bool
	at, seen  int // next entry of failed, and how many are filled
	failures  int // among them
	streak    int // failures in a row

	open    bool
	until   time.Time // of an open one: when it may be tried
	opened  int       // times in a row without a success between
	probing bool      // the one call of a half-open one is under way
}

// allows reports whether a call may go through.
func (b *breaker) allows(now time.Time) bool {
	return !b.open || !b.probing && !now.Before(b.until)
}

// begin notes a call that goes through.
func (b *breaker) begin() {
	if b.open {
		b.probing = true
	}
}

// end takes a call's outcome; draw, uniform in [0, 1), spreads the time until the next try over its second half.
func (b *breaker) end(now time.Time, ok bool, draw float64) {
	switch {
	case b.open && ok:
		*b = breaker{threshold: b.threshold}
		return
	case b.open && !b.probing: // it began before the breaker opened, and says what is known
		return
	case b.open:
		b.trip(now, draw)
		return
	}
	if b.seen == breakerWindow && b.failed[b.at] {
		b.failures--
	}
	b.failed[b.at], b.at, b.seen = !ok, (b.at+1)%breakerWindow, min(b.seen+1, breakerWindow)
	if ok {
		b.streak, b.opened = 0, 0
		return
	}
	b.failures++
	b.streak++
	if b.streak >= b.threshold || b.seen == breakerWindow && b.failures >= breakerShare {
		b.trip(now, draw)
	}
}

// abort takes back a call whose outcome says nothing about the replica.
func (b *breaker) abort() { b.probing = false }

func (b *breaker) trip(now time.Time, draw float64) {
	wait := min(firstOpen<<min(b.opened, 16), longestOpen)
	b.open, b.probing = true, false
	b.until = now.Add(wait/2 + time.Duration(draw*float64(wait/2)))
	b.opened++
}
