package host

import (
	"errors"
	"time"

	"github.com/pimoe/pimoe/sdk/client"
)

// Event is something that the host has done or found by itself, and that an operator will ask about later.
type Event struct {
	What   string // one of the constants
	Object string // a process, a group, or "expert 3" for its weights
	Why    string
	// Since and Calls are, of damaged weights, when they were last found right and how many calls were computed with them after
	// that. Without a zero time they mean something.
	Since time.Time
	Calls uint64
}

// What events tell of.
const (
	EventQuarantined = "replica.quarantined"
	EventReleased    = "replica.released"
	EventFailed      = "process.failed" // it keeps dying before it answers, or can't be started
	EventRefused     = "plugin.refused" // its executable is not the one that may be started
	EventDamaged     = "weights.damaged"
	EventRolledBack  = "trial.rolled_back" // by the host
)

// tell passes an event on. It must not block.
func (o Options) tell(e Event) {
	if o.Event != nil {
		o.Event(e)
	}
}

// noteOnce tells of a process that can't be started, again only if the cause is another one or it has worked meanwhile.
func (s *supervisor) noteOnce(what, why string) {
	if s.told != why {
		s.told = why
		s.tell(Event{What: what, Object: s.name, Why: why})
	}
}

// refused reports whether a start failed because the executable is not the one that may be started.
func refused(err error) bool {
	var why *client.StartError
	return errors.As(err, &why) && why.Reason == client.ReasonUntrusted
}
