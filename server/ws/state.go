package ws

import (
	"errors"
	"time"
)

// Limits bound a connection. All are above zero.
type Limits struct {
	AuthWithin    time.Duration // from the upgrade to a valid credential
	Heartbeat     time.Duration // between two pings of the server
	Silence       time.Duration // without a byte from the client, not even a pong
	Idle          time.Duration // without a message, a subscription or a request under way
	Rate          float64       // messages and pings a second that are read
	Burst         int           // messages that may come at once
	Work          int           // requests under way
	Subscriptions int
	FirstMessage  int // bytes, before it is known who sends
	Message       int // bytes
}

// Close is how a connection ends: the code and the text of the close frame.
type Close struct {
	Code int
	Text string
}

// The ends that the server decides on. Codes from 4400 on are HTTP's status plus 4000.
var (
	Normal       = Close{1000, ""}
	GoingAway    = Close{1001, "the server goes away: connect again and resume"}
	NotText      = Close{1007, "a text message is not UTF-8"}
	TooBig       = Close{1009, "the message is larger than this server takes"}
	Overloaded   = Close{1013, "the server has no room for this message now"}
	Unauthorised = Close{4401, "the credential is missing, wrong, expired or revoked"}
	Forbidden    = Close{4403, "the credential has other rights now: connect again"}
	TimeOut      = Close{4408, "nothing came in time"}
	Slow         = Close{4410, "the client reads too slowly"}
)

// Codes are those of them that are this protocol's own.
var Codes = []int{Unauthorised.Code, Forbidden.Code, TimeOut.Code, Slow.Code}

// The refusals of State.
var (
	ErrNotYet   = errors.New("the first message must be auth")
	ErrTwice    = errors.New("a request with this id is under way on this connection")
	ErrTooMuch  = errors.New("as many requests as one connection may have are under way")
	ErrTopics   = errors.New("as many topics as one connection may have are subscribed to")
	ErrNoTopic  = errors.New("this topic is not subscribed to")
	ErrIsTopic  = errors.New("this topic is subscribed to already")
	ErrHasAuth  = errors.New("this connection has a credential already")
	ErrNoAnswer = errors.New("no request with this id is under way on this connection")
)

// State is one connection as a state machine: what has happened and when decides what may happen next. Its owner locks.
type State struct {
	limits *Limits
	known  bool // a credential was taken, or none is asked for
	began  time.Time
	heard  time.Time // a byte came
	active time.Time // a message came, or something was under way
	pinged time.Time
	filled time.Time // the bucket was
	room   float64   // messages in the bucket
	work   map[string]struct{}
	topics map[Key]struct{}
}

// NewState is a connection at its begin. known says that its credential is known to be good. phase, below Heartbeat,
// spreads the first pings of connections that have begun together.
func NewState(l *Limits, now time.Time, known bool, phase time.Duration) State {
	return State{limits: l, known: known, began: now, heard: now, active: now, pinged: now.Add(-phase), filled: now, room: float64(l.Burst)}
}

// Known reports whether a credential was taken.
func (s *State) Known() bool { return s.known }

// MaxMessage is how many bytes the next message may have.
func (s *State) MaxMessage() int {
	if s.known {
		return s.limits.Message
	}
	return s.limits.FirstMessage
}

// Heard notes a sign of life that is no message.
func (s *State) Heard(now time.Time) { s.heard = now }

// Take takes a message, or a ping of the client's, out of the bucket; wait is how long nothing more should be read. So a
// client that sends too fast is slowed down by its own socket, and loses nothing.
func (s *State) Take(now time.Time) (wait time.Duration) {
	s.heard, s.active = now, now
	s.room = min(s.room+now.Sub(s.filled).Seconds()*s.limits.Rate, float64(s.limits.Burst)) - 1
	s.filled = now
	if s.room >= 0 {
		return 0
	}
	return time.Duration(-s.room / s.limits.Rate * float64(time.Second))
}

// Allow refuses a message that is not its turn.
func (s *State) Allow(t Type) error {
	switch {
	case t == Auth && s.known:
		return ErrHasAuth
	case t != Auth && !s.known:
		return ErrNotYet
	}
	return nil
}

// Authenticated notes that a credential was taken.
func (s *State) Authenticated() { s.known = true }

// Begin begins a request.
func (s *State) Begin(id string) error {
	if _, twice := s.work[id]; twice {
		return ErrTwice
	}
	if len(s.work) >= s.limits.Work {
		return ErrTooMuch
	}
	if s.work == nil {
		s.work = map[string]struct{}{}
	}
	s.work[id] = struct{}{}
	return nil
}

// End ends a request.
func (s *State) End(id string, now time.Time) {
	delete(s.work, id)
	s.active = now
	if len(s.work) == 0 {
		s.work = nil
	}
}

// Working is how many requests are under way.
func (s *State) Working() int { return len(s.work) }

// Subscribe notes a topic.
func (s *State) Subscribe(k Key) error {
	if _, twice := s.topics[k]; twice {
		return ErrIsTopic
	}
	if len(s.topics) >= s.limits.Subscriptions {
		return ErrTopics
	}
	if s.topics == nil {
		s.topics = map[Key]struct{}{}
	}
	s.topics[k] = struct{}{}
	return nil
}

// Unsubscribe forgets a topic.
func (s *State) Unsubscribe(k Key) error {
	if _, ok := s.topics[k]; !ok {
		return ErrNoTopic
	}
	delete(s.topics, k)
	return nil
}

// Topics are all that are subscribed to.
func (s *State) Topics() []Key {
	out := make([]Key, 0, len(s.topics))
	for k := range s.topics {
		out = append(out, k)
	}
	return out
}

// Tick says what time asks for: a ping, or the end.
func (s *State) Tick(now time.Time) (ping bool, end *Close) {
	l := s.limits
	if len(s.work) > 0 || len(s.topics) > 0 {
		s.active = now
	}
	switch {
	case !s.known && now.Sub(s.began) >= l.AuthWithin:
		return false, &Unauthorised
	case now.Sub(s.heard) >= l.Silence || now.Sub(s.active) >= l.Idle:
		return false, &TimeOut
	case now.Sub(s.pinged) >= l.Heartbeat:
		s.pinged = now
		return true, nil
	}
	return false, nil
}
