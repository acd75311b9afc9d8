package server

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/strictjson"
	"github.com/pimoe/pimoe/server/ws"
)

// topicsPath is the topics of /ws for those who only listen: curl, EventSource and proxies that know no WebSockets.
const topicsPath = "/api/v1/events"

// topicListener hears of topics: what is published waits in its box until the stream writes it. The hub says when a comment is due
// and when the credential is no longer good.
type topicListener struct {
	id    string        // of its request
	every time.Duration // between two comments
	news  chan struct{} // has one token while there may be something to do

	mu    sync.Mutex // guards all below
	out   ws.Outbox
	slow  bool
	proof proof
	who   access.Principal
	beat  time.Time // when the next comment is due
	due   bool      // one is
	over  bool      // the credential is no longer good
}

// listener makes a listener of a request.
func (s *Server) listener(r *request) *topicListener {
	now, limits := time.Now(), &s.sockets.limits
	l := &topicListener{id: r.id, every: limits.Heartbeat, news: make(chan struct{}, 1), who: r.principal, proof: proof{credentials: r.handshake.credentials}}
	l.beat = now.Add(rand.N(l.every)) // streams that were opened together do not beat together
	l.proof.checked(r.principal, now)
	l.out.MaxFrames, l.out.MaxBytes = limits.frames, limits.bytes
	return l
}

// Deliver implements ws.Subscriber.
func (l *topicListener) Deliver(f ws.Frame) {
	l.mu.Lock()
	l.slow = l.slow || l.out.Push(f) != nil
	l.mu.Unlock()
	l.wake()
}

func (l *topicListener) wake() {
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// tick implements watched.
func (l *topicListener) tick(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.beat) {
		return
	}
	l.beat, l.due = now.Add(l.every), true
	l.wake()
}

// proved implements watched.
func (l *topicListener) proved() (proof, access.Principal, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proof, l.who, !l.over
}

// prove implements watched.
func (l *topicListener) prove(who access.Principal, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.who = who
	l.proof.checked(who, now)
}

// end implements watched: the credential is no longer good for what is heard.
func (l *topicListener) end(ws.Close) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.wake()
}

// name implements watched.
func (l *topicListener) name() string { return l.id }

// take is what is to be written next: a frame or a comment, or neither.
func (l *topicListener) take() (f ws.Frame, ok, comment bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.over:
		return f, false, false, access.ErrExpired
	case l.slow:
		return f, false, false, ws.ErrSlow
	}
	comment, l.due = l.due, false
	f, ok = l.out.Pop()
	return f, ok, comment, nil
}

// topics is GET /api/v1/events: a stream of what is published to topics.
func (s *Server) topics(_ context.Context, r *request) (*reply, error) {
	keys, err := s.topicsOf(r)
	if err != nil {
		return nil, err
	}
	if s.drain.Load() || s.leaving.Load() {
		return nil, errStopping
	}
	return &reply{status: http.StatusOK, contentType: mimeEvents, held: true, stream: func(ctx context.Context, w *events) error {
		return s.streamTopics(ctx, r, keys, w)
	}}, nil
}

// topicsOf reads the query: topic, once or more.
func (s *Server) topicsOf(r *request) ([]ws.Key, error) {
	names := r.query["topic"]
	switch most := s.sockets.limits.Subscriptions; {
	case len(names) == 0:
		return nil, strictjson.Missing("topic", "a topic in the query, such as ?topic=system.stats")
	case len(names) > most:
		return nil, ws.ErrTopics
	case len(r.query) > 1:
		return nil, &strictjson.Error{Code: strictjson.UnknownField, Path: "query", Expected: "topic alone", Got: "other parameters"}
	}
	keys := make([]ws.Key, len(names))
	for i, name := range names {
		m := ws.Message{Type: ws.Subscribe, Data: mustJSON(map[string]string{"topic": name})}
		var err error
		if keys[i], _, err = s.topic(m, r.principal); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// streamTopics writes events until the client is gone, its credential ends or the server goes away.
func (s *Server) streamTopics(ctx context.Context, r *request, keys []ws.Key, w *events) error {
	l := s.listener(r)
	defer s.sockets.broker.Unsubscribe(l, keys...)
	for _, k := range keys {
		s.sockets.broker.Subscribe(k, l)
		if k.System() {
			l.Deliver(ws.Frame{Bytes: topicEvent(k, s.systemTopic(k))})
		}
	}
	w.comment() // so that the header leaves at once, and says that all that is published from here on is heard
	if err := s.sockets.listen(l); err != nil {
		return err
	}
	defer s.sockets.deaf(l)
	for w.err == nil {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.sockets.departed:
			return errStopping
		case <-l.news:
			if err := l.write(w); err != nil {
				return err
			}
		}
	}
	return w.err
}

// write writes what waits.
func (l *topicListener) write(w *events) error {
	for {
		f, ok, comment, err := l.take()
		if err != nil {
			return err
		}
		if comment {
			w.comment()
		}
		if ok {
			w.data(f.Bytes)
		}
		if !ok || w.err != nil {
			return w.err
		}
	}
}

var (
	_ ws.Subscriber = (*topicListener)(nil)
	_ watched       = (*topicListener)(nil)
	_ watched       = (*socket)(nil)
)
