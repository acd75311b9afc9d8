package server

import (
	"context"
	"errors"
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

// listener of topics: what is published waits in its box until the stream writes it.
type topicListener struct {
	mu   sync.Mutex // guards out and slow
	out  ws.Outbox
	slow bool
	news chan struct{} // has one token while the box may have something
}

// Deliver implements ws.Subscriber.
func (l *topicListener) Deliver(f ws.Frame) {
	l.mu.Lock()
	l.slow = l.slow || l.out.Push(f) != nil
	l.mu.Unlock()
	select {
	case l.news <- struct{}{}:
	default:
	}
}

func (l *topicListener) take() (f ws.Frame, ok bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.slow {
		return f, false, ws.ErrSlow
	}
	f, ok = l.out.Pop()
	return f, ok, nil
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
	return &reply{status: http.StatusOK, contentType: mimeEvents, stream: func(ctx context.Context, w *events) error {
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
	l := &topicListener{news: make(chan struct{}, 1)}
	l.out.MaxFrames, l.out.MaxBytes = s.sockets.limits.frames, s.sockets.limits.bytes
	defer s.sockets.broker.Unsubscribe(l, keys...)
	w.comment() // so that the header leaves at once
	for _, k := range keys {
		s.sockets.broker.Subscribe(k, l)
		if k.System() {
			l.Deliver(ws.Frame{Bytes: topicEvent(k, s.systemTopic(k))})
		}
	}
	if err := s.sockets.look(); err != nil {
		return err
	}
	beat := time.NewTimer(rand.N(s.limits.keepAlive)) // streams that were opened together do not beat together
	defer beat.Stop()
	for w.err == nil {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.sockets.departed:
			return errStopping
		case <-beat.C:
			beat.Reset(s.limits.keepAlive)
			if p, err := s.principalOf(ctx, r.handshake.credentials, false); !errors.Is(err, access.ErrUnknowable) && (err != nil || !same(p, r.principal)) {
				return errors.Join(access.ErrExpired, err)
			}
			w.comment()
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
		f, ok, err := l.take()
		if err != nil || !ok {
			return err
		}
		if w.data(f.Bytes); w.err != nil {
			return w.err
		}
	}
}

var _ ws.Subscriber = (*topicListener)(nil)
