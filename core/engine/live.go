package engine

import (
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/core/config"
)

// liveLimits are bounds that may be changed while requests run. Those that run when a bound falls below them go on.
type liveLimits struct {
	concurrent, timeout atomic.Int64
	all                 atomic.Pointer[config.Limits]
}

func newLiveLimits(c config.Limits) *liveLimits {
	l := &liveLimits{}
	l.set(c)
	return l
}

func (l *liveLimits) set(c config.Limits) {
	l.concurrent.Store(int64(c.MaxConcurrentRequests))
	l.all.Store(&c)
	l.timeout.Store(int64(c.RequestTimeout))
}

// places is how many requests run at the same time.
func (l *liveLimits) places() int { return int(l.concurrent.Load()) }

// now is all limits as they are now.
func (l *liveLimits) now() *config.Limits { return l.all.Load() }

// patience is how long a request without a deadline has.
func (l *liveLimits) patience() time.Duration { return time.Duration(l.timeout.Load()) }

// SetLimits changes how many requests run and wait, and how long one may take; the other limits stay, and so does the size of
// the cache. Requests under way go on.
func (e *Engine) SetLimits(c config.Limits) {
	s := setup{limits: c}
	s.fill()
	e.live.set(s.limits)
	e.box.nudge()
}
