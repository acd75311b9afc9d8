package host

import "time"

// pulse judges heartbeats: a counter that a living process keeps raising. It is a pure state machine.
type pulse struct {
	last   uint64
	seen   time.Time // of the last look
	missed int
}

func newPulse(now time.Time) *pulse { return &pulse{seen: now} }

// silent takes one look at the counter and reports whether the process must be given up. A look that came late says
// nothing about the process, since the host itself was not running.
func (p *pulse) silent(now time.Time, count uint64) bool {
	late := now.Sub(p.seen) > 2*lookEvery
	p.seen = now
	if count != p.last {
		p.last, p.missed = count, 0
		return false
	}
	if late {
		return false
	}
	p.missed++
	return p.missed >= int(silentLooks)
}
