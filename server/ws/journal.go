package ws

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrGone is a generation that can't be resumed here: it never was, is somebody else's, is too long over, or its events
// behind the one asked for were dropped.
var ErrGone = errors.New("there is no such generation to resume here")

// ErrAlone is the cause of the end of a generation that nobody has resumed.
var ErrAlone = errors.New("nobody has resumed this generation in time")

// Owner is whose a generation is.
type Owner struct{ Kind, ID, Tenant string }

// Event is a part of an answer.
type Event struct {
	Number int // from 1
	Kind   string
	Data   []byte // JSON; nobody changes it
}

// StoreLimits bound a Store.
type StoreLimits struct {
	Alone time.Duration // how long a generation runs on without a connection
	Kept  time.Duration // how long its events are kept behind its end
	Each  int           // bytes of one generation's events
	All   int           // bytes of all
	Most  int           // generations
}

// Store holds the generations that can be resumed. Its calls are safe from any goroutine.
type Store struct {
	limits StoreLimits
	mu     sync.Mutex // guards all below and everything in the journals
	all    map[string]*Journal
	bytes  int
}

// NewStore is an empty store.
func NewStore(l StoreLimits) *Store { return &Store{limits: l, all: map[string]*Journal{}} }

// Journal is the events of one generation. It has at most one reader at a time.
type Journal struct {
	Generation string
	store      *Store
	owner      Owner
	cancel     func(cause error) // ends the computation; it must not block or call the store

	events []Event
	bytes  int
	last   int // number of the newest event
	skip   int // events up to this number are dropped: the client has them from another server
	seen   int // number of the last event that a reader took
	done   bool
	cut    bool // it is out of the store
	since  time.Time
	reader func() // called when there is something to take; nil = nobody reads. It must not block or call the store
	turn   int    // counts readers
}

// New begins a generation. Events up to number skip are dropped.
func (s *Store) New(generation string, owner Owner, skip int, now time.Time, cancel func(cause error)) (*Journal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, twice := s.all[generation]; twice {
		return nil, fmt.Errorf("generation %s exists", generation)
	}
	if len(s.all) >= s.limits.Most && !s.evict(owner) {
		return nil, ErrTooMuch
	}
	j := &Journal{Generation: generation, store: s, owner: owner, cancel: cancel, skip: skip, seen: skip, since: now}
	s.all[generation] = j
	return j, nil
}

// Find is a generation of its owner's.
func (s *Store) Find(generation string, owner Owner) (*Journal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.all[generation]
	if j == nil || j.owner != owner {
		return nil, ErrGone
	}
	return j, nil
}

// Len is how many generations there are, and the bytes of their events.
func (s *Store) Len() (generations, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all), s.bytes
}

// Sweep ends what has been alone for too long and forgets what is over.
func (s *Store) Sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.all {
		switch {
		case j.done && now.Sub(j.since) >= s.limits.Kept:
			s.drop(j)
		case !j.done && j.reader == nil && now.Sub(j.since) >= s.limits.Alone:
			j.cancel(ErrAlone)
		}
	}
}

// Drop forgets a generation that has come to nothing.
func (s *Store) Drop(j *Journal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(j)
}

func (s *Store) drop(j *Journal) {
	delete(s.all, j.Generation)
	s.bytes -= j.bytes
	j.events, j.bytes, j.cut = nil, 0, true
}

// evict makes room: it drops what has ended first, of this owner if there is something, and nothing that somebody reads.
func (s *Store) evict(owner Owner) bool {
	var oldest *Journal
	for _, j := range s.all {
		if !j.done || j.reader != nil {
			continue
		}
		better := oldest == nil || (j.owner == owner) != (oldest.owner == owner) && j.owner == owner ||
			(j.owner == owner) == (oldest.owner == owner) && j.since.Before(oldest.since)
		if better {
			oldest = j
		}
	}
	if oldest == nil {
		return false
	}
	s.drop(oldest)
	return true
}

// Append adds an event. It never waits: where there is no room, events that a reader has taken are dropped, the oldest
// first, and where that is not enough the error is ErrSlow and the generation has to end.
func (j *Journal) Append(kind string, data []byte) error {
	s := j.store
	s.mu.Lock()
	defer s.mu.Unlock()
	j.last++
	if j.last <= j.skip || j.cut {
		return nil
	}
	for j.bytes+len(data) > s.limits.Each || s.bytes+len(data) > s.limits.All {
		if j.bytes+len(data) <= s.limits.Each && s.evict(j.owner) {
			continue
		}
		if len(j.events) == 0 || j.events[0].Number > j.seen {
			return ErrSlow
		}
		j.bytes, s.bytes = j.bytes-len(j.events[0].Data), s.bytes-len(j.events[0].Data)
		j.events = j.events[1:]
	}
	j.events = append(j.events, Event{j.last, kind, data})
	j.bytes, s.bytes = j.bytes+len(data), s.bytes+len(data)
	j.wake()
	return nil
}

// End adds the last event, for which there is always room, and notes that the generation is over.
func (j *Journal) End(kind string, data []byte, now time.Time) {
	j.store.mu.Lock()
	defer j.store.mu.Unlock()
	j.last++
	j.done, j.since = true, now
	if !j.cut {
		j.events = append(j.events, Event{j.last, kind, data})
		j.bytes, j.store.bytes = j.bytes+len(data), j.store.bytes+len(data)
	}
	j.wake()
}

func (j *Journal) wake() {
	if j.reader != nil {
		j.reader()
	}
}

// Attach makes the caller the reader of the events behind last, in the place of any other. turn is for Next and Detach.
func (j *Journal) Attach(last int, wake func()) (turn int, err error) {
	j.store.mu.Lock()
	defer j.store.mu.Unlock()
	first := j.last + 1
	if len(j.events) > 0 {
		first = j.events[0].Number
	}
	if j.cut || last > j.last && last > j.skip || last < first-1 {
		return 0, ErrGone
	}
	if j.reader != nil {
		j.reader() // so that it learns that its turn is over
	}
	j.turn++
	j.reader = wake
	return j.turn, nil
}

// Next is the event behind number last; ok is false while there is none, and over is true when none will come for this
// reader.
func (j *Journal) Next(turn, last int) (e Event, ok, over bool) {
	j.store.mu.Lock()
	defer j.store.mu.Unlock()
	if turn != j.turn || j.cut {
		return Event{}, false, true
	}
	j.seen = max(j.seen, last)
	if len(j.events) > 0 {
		if at := last + 1 - j.events[0].Number; at >= 0 && at < len(j.events) {
			return j.events[at], true, false
		}
	}
	return Event{}, false, j.done
}

// Detach ends the caller's turn. The generation goes on alone, for the time that the store allows.
func (j *Journal) Detach(turn int, now time.Time) {
	j.store.mu.Lock()
	defer j.store.mu.Unlock()
	if turn == j.turn {
		j.reader = nil
		if !j.done {
			j.since = now
		}
	}
}

// Cancel ends the computation. Its last event still comes.
func (j *Journal) Cancel(cause error) { j.cancel(cause) }
